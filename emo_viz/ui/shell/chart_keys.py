"""Charts by keyboard: arrow keys go from mark to mark, and what the pointer would read is read out.

Plotly shows its numbers to a pointer alone. Here a chart takes the focus, the pointer is moved for
whoever has none, and the words of the label that comes up are told to screen readers. Heatmaps are
walked cell by cell, points and bars along their axis and from run to run; Enter is a click.
"""

from pathlib import Path

from emo_viz.ui.shell.component import component

_COMPONENT = component(
    "emo_viz_chart_keys",
    html='<div class="read" role="status"></div>',
    css=".read { position: absolute; width: 1px; height: 1px; overflow: hidden; }",
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
)
# What is read out takes no room in the page.
NO_ROOM = ".st-key-chart_keys { position: absolute; } "


def listen() -> None:
    """Let every chart of this page be walked; once a page, where nothing is ever hidden: a screen
    reader says nothing of the side bar while one presents."""
    _COMPONENT(key="chart_keys", data={}, width="content")
