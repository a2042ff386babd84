"""The themes in .streamlit/config.toml can be read: contrast as WCAG 2 counts it."""

import tomllib
from pathlib import Path

import pytest

from emo_viz.figures import theme

CONFIG = tomllib.loads((Path(__file__).parents[1] / ".streamlit/config.toml").read_text())
THEMES = CONFIG["theme"]
TEXT, GRAPHICS = 4.5, 3.0
WHITE = "#FFFFFF"
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(one: str, other: str, share: float) -> str:
    """#rrggbb between two colours, `share` of the way to the other."""
    pairs = ((int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def backgrounds(scheme: str) -> list[str]:
    """What text can stand on in a theme: the page's and the sidebar's two surfaces."""
    keys = ("backgroundColor", "secondaryBackgroundColor")
    return [part[key] for part in (THEMES[scheme], THEMES[scheme]["sidebar"]) for key in keys]


def test_contrast_knows_its_ends():
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast(WHITE, WHITE) == 1


@SCHEMES
@pytest.mark.parametrize("key", ["textColor", "linkColor"])
def test_text_can_be_read_on_every_surface(scheme: str, key: str):
    assert min(contrast(THEMES[scheme][key], back) for back in backgrounds(scheme)) >= TEXT


@SCHEMES
def test_primary_colour_can_be_read_as_text_and_carries_white_signs(scheme: str):
    """The chosen segment and the slider's number are written in it; a tick is white on it."""
    primary = THEMES[scheme]["primaryColor"]
    tint = mixed(THEMES[scheme]["backgroundColor"], primary, 0.1)  # behind the chosen segment
    assert contrast(primary, tint) >= TEXT
    assert contrast(primary, WHITE) >= GRAPHICS


@SCHEMES
def test_run_colours_are_the_first_of_the_charts(scheme: str):
    first = [colour.lower() for colour in THEMES[scheme]["chartCategoricalColors"][:2]]
    assert first == [colour.lower() for colour in theme.RUN_COLOURS]
    assert min(contrast(c, THEMES[scheme]["backgroundColor"]) for c in first) >= GRAPHICS


@SCHEMES
def test_sequential_colours_move_away_from_the_page(scheme: str):
    page = THEMES[scheme]["backgroundColor"]
    steps = [contrast(colour, page) for colour in THEMES[scheme]["chartSequentialColors"]]
    assert steps == sorted(steps)
    assert len(steps) == len(THEMES[scheme]["chartDivergingColors"]) == 10


def test_the_app_listens_on_this_machine_only_and_reports_nothing():
    assert CONFIG["server"]["address"] == "127.0.0.1"
    assert CONFIG["browser"]["gatherUsageStats"] is False


@pytest.mark.skipif(
    all(contrast(THEMES[scheme]["primaryColor"], WHITE) >= TEXT for scheme in ("light", "dark")),
    reason="white words can be read on the primary colour",
)
def test_no_button_is_white_on_the_primary_colour():
    root = Path(__file__).parents[1]
    files = [root / "app.py", *(root / "pages").glob("*.py"), *(root / "emo_viz/ui").rglob("*.py")]
    assert not [file.name for file in files if '"primary"' in file.read_text(encoding="utf-8")]
