"""A slider that plays, for components that are drawn in the browser.

PLAYER_JS (`Player`, and `make` and `add` of an element) goes before a component's own script,
PLAYER_CSS before its own style.
"""

from pathlib import Path

from emo_viz.ui.parts.scripts import scripts

PLAYER_CSS = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
PLAYER_JS = scripts("make", "player")
