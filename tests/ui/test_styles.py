"""Styles that every browser takes."""

import re
from collections.abc import Iterator
from pathlib import Path

UI = Path(__file__).parents[2] / "emo_viz" / "ui"


def sources() -> Iterator[tuple[str, str]]:
    """Names and texts of all that may hold a style."""
    for path in (one for one in UI.rglob("*") if one.suffix in {".css", ".js", ".py"}):
        yield path.name, path.read_text(encoding="utf-8")


def test_how_a_line_under_a_text_is_drawn_is_said_by_properties_of_its_own():
    # WebKit takes no more than one word for them all, and draws no line where there are more.
    for name, text in sources():
        said = re.findall(r"text-decoration:([^;`]*)", text)
        assert not [value for value in said if len(value.split()) > 1], name


def test_what_a_hand_draws_on_selects_no_text_in_any_browser():
    for name, text in sources():
        said = len(re.findall(r"(?<!-)user-select: none", text))
        assert said == text.count("-webkit-user-select: none"), name
