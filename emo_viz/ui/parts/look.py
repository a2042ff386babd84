"""What pictures and texts of one group show together: the chosen token and the followed expert.

A message of a few bytes beside the large ones. The browser keeps what a group shows and tells all
of the group; a hover is told there too, without the server.
"""

from pathlib import Path
from typing import Any

from emo_viz.ui.parts.heard import heard
from emo_viz.ui.shell.component import component

_JS = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
_COMPONENT = component("emo_viz_look", js=_JS)


def tell(group: str, selected: int | None, followed: dict[str, Any] | None, key: str) -> None:
    """Let all of the group show these: a position from 1, and {"run", "layer", "expert"}."""
    shown = {"selected": selected, "followed": followed, "heard": heard(group)}
    _COMPONENT(key=key, data={"group": group} | shown)
