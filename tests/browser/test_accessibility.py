"""Every page for people with a screen reader, a keyboard or weak sight: by axe-core and by hand."""

import re

import axe
import harness
import pytest
from playwright.sync_api import Browser, Locator, Page

from emo_viz.ui.shell import chrome, routes

SCHEMES = ("light", "dark")
# "chevron_right icon" is what Streamlit says of an icon without a label.
ICON = re.compile(r" icon$|^[a-z]+(_[a-z]+)+$")
PATHS = [path for path, *_ in chrome.PAGES]
# A state that shows more of a page than its first screen.
STATES = {
    routes.ROUTING: "routing_token=7",
    routes.ABLATION: "k=4&subset_token=5",
    routes.DIFFERENCE: "difference_token=3",
}
# Text on a token, and what it stands on, as the browser has them.
INKS = """(tokens) => tokens.filter((node) => node.textContent.trim()).map((node) => {
  const strip = getComputedStyle(node.parentNode);
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const back = strip.getPropertyValue("--st-background-color").trim();
  const style = getComputedStyle(node);
  return [channels(style.color), channels(style.backgroundColor), back];
})"""
# Numbers and titles of charts' axes, which axe does not look at.
AXES = """() => [...document.querySelectorAll(
  ".js-plotly-plot :is([class$=tick], [class^=g-x], [class^=g-y]) > text")]
  .map((text) => getComputedStyle(text).fill.match(/[\\d.]+/g).map(Number))"""
BACKS = {"light": "#ffffff", "dark": "#111517"}


def address_of(path: str) -> str:
    """The address of a page's file, as Streamlit derives it."""
    if path == routes.HOME:
        return ""
    return path.removeprefix("pages/").removesuffix(".py").split("_", 1)[1]


def test_every_page_is_in_the_list_that_is_checked():
    assert sorted(map(address_of, PATHS)) == sorted(harness.addresses())


@pytest.mark.parametrize("path", PATHS)
def test_every_button_has_a_name_in_words_and_axe_finds_nothing_serious(
    app_server: harness.Server, browser: Browser, request: pytest.FixtureRequest, path: str
):
    address = f"{app_server.url}/{address_of(path)}?{STATES.get(path, '')}"
    with harness.new_page(browser) as page:
        harness.visit(page, address)
        assert not nameless_buttons(page)
        request.getfixturevalue("axe_core")
        for scheme in SCHEMES:
            harness.change_scheme(page, scheme)
            found = axe.violations(page)
            assert not found, f"{scheme}:\n" + "\n".join(found)
            for ink in page.evaluate(AXES):
                assert contrast_on(ink, [0, 0, 0, 0], BACKS[scheme]) >= 4.5


def nameless_buttons(page: Page) -> list[str]:
    """The HTML of each visible button whose name holds no word."""
    seen = [each for each in page.get_by_role("button").all() if each.is_visible()]
    assert seen
    return [each.evaluate("(node) => node.outerHTML") for each in seen if not words_of(each)]


def words_of(button: Locator) -> str:
    """A button's name, but lines that name an icon, as Streamlit does where a label is missing."""
    name = "(node) => node.getAttribute('aria-label') || node.innerText || node.title"
    said = [line for line in button.evaluate(name).split("\n") if not ICON.search(line)]
    return "".join(c for c in "".join(said) if c.isalpha())


def luminance(rgb: list[float]) -> float:
    """Relative luminance of 0..255 channels, as WCAG 2 counts it."""
    shares = [value / 255 for value in rgb]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast_on(ink: list[float], fill: list[float], back: str) -> float:
    """Contrast of a text on a fill, which may let the page's background through."""
    page = [int(back[i : i + 2], 16) for i in (1, 3, 5)]
    alpha = fill[3] if len(fill) > 3 else 1.0
    mixed = [value * alpha + below * (1 - alpha) for value, below in zip(fill, page, strict=False)]
    low, high = sorted((luminance(ink[:3]), luminance(mixed)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_on_every_token_can_be_read(app_server: harness.Server, browser: Browser, scheme: str):
    with harness.new_page(browser, scheme=scheme) as page:
        harness.visit(page, f"{app_server.url}/Subset_ablation?k=4")
        tokens = page.locator(".strip .token")
        tokens.first.wait_for()
        inks = tokens.evaluate_all(INKS)
    assert len(inks) > 20
    assert len({str(fill) for _, fill, _ in inks}) > 5  # not all on one colour
    assert min(contrast_on(*one) for one in inks) >= 4.5
