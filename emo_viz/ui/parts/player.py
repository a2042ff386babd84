"""A slider that plays, for components that are drawn in the browser.

PLAYER_JS (`Player`, and `make`, which adds an element) goes before a component's own script,
PLAYER_CSS before its own style.
"""

from pathlib import Path

PLAYER_CSS, PLAYER_JS = (
    Path(__file__).with_name(f"player.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
)
