"""Pictures as the browser saves them: the chart, and one line that says of what it is."""

import io
from pathlib import Path
from xml.etree import ElementTree

import harness
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

SVG = "{http://www.w3.org/2000/svg}"
# Of the numbers along an axis: as Streamlit draws them, and as the page has them.
TOO_FAINT, READABLE = "fill: rgb(128, 132, 149)", "fill: rgb(92, 96, 108)"


def saved(page: Page, button: str) -> bytes:
    choice = page.get_by_role("dialog")
    with page.expect_download() as download:
        choice.get_by_role("button", name=button).click()
    expect(choice.get_by_role("status")).to_contain_text("is saved")
    return Path(download.value.path()).read_bytes()


@pytest.fixture
def opened(app_server: harness.Server, browser_page: Page) -> Page:
    """The page of differences with its export open."""
    harness.visit(browser_page, f"{app_server.url}/Routing_difference")
    main = browser_page.get_by_test_id("stMain")
    main.get_by_role("button", name="Export").click()
    expect(browser_page.get_by_role("button", name="Experts in common as SVG")).to_be_visible()
    return browser_page


def test_an_svg_has_the_chart_its_legend_and_a_line_of_provenance(opened: Page):
    root = ElementTree.fromstring(saved(opened, "Experts in common as SVG"))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    line = " ".join(
        "".join(t.itertext()) for t in root.iter(f"{SVG}text") if t.get("class") == "provenance"
    )
    assert "EMO (emo-nano, weights " in line and line.endswith("EMO Viz")
    legend = [one for one in root.iter() if one.get("class") == "legendtext"]
    assert legend and "Layer" in texts
    chart = root.find(f"{SVG}svg")
    assert chart is not None
    styles = [text.get("style", "") for text in root.iter(f"{SVG}text")]
    assert any(READABLE in style for style in styles)
    assert not [style for style in styles if TOO_FAINT in style]
    assert float(root.get("height", 0)) > float(chart.get("height", 0)) > 100


def test_a_png_is_the_same_picture_twice_as_large_and_escape_closes_after_a_table(opened: Page):
    svg = ElementTree.fromstring(saved(opened, "Experts in common as SVG"))
    png = Image.open(io.BytesIO(saved(opened, "Experts in common as PNG")))
    assert png.size == (2 * int(svg.get("width", 0)), 2 * int(svg.get("height", 0)))
    colours = png.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None and len(colours) > 50  # something is drawn
    assert png.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    with opened.expect_download():
        opened.get_by_role("dialog").get_by_role("button", name="CSV").first.click()
    opened.wait_for_function("document.activeElement === document.body")
    opened.keyboard.press("Escape")
    expect(opened.get_by_role("dialog")).to_have_count(0)


def test_what_is_not_on_the_page_is_said(opened: Page):
    opened.evaluate("document.querySelector('.st-key-difference_agreement').remove()")
    choice = opened.get_by_role("dialog")
    choice.get_by_role("button", name="Experts in common as SVG").click()
    expect(choice.get_by_role("status")).to_have_text("Experts in common is not on the page now.")
