"""Styles that every browser takes."""

import re
from pathlib import Path

UI = Path(__file__).parents[2] / "emo_viz" / "ui"


def test_how_a_line_under_a_text_is_drawn_is_said_by_properties_of_its_own():
    # WebKit takes no more than one word for them all, and draws no line where there are more.
    for path in (one for one in UI.rglob("*") if one.suffix in {".css", ".js", ".py"}):
        said = re.findall(r"text-decoration:([^;`]*)", path.read_text(encoding="utf-8"))
        assert not [value for value in said if len(value.split()) > 1], path.name
