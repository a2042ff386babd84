"""The pages Experts and Domains on their first screens, without scrolling, at two widths."""

import re

import harness
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

OPEN, FIRST_ROW = 72, 50  # pixels from a table's corner: the sign that opens its first row


def starts_within(part: Locator, height: int = 900) -> bool:
    box = part.bounding_box()
    return box is not None and 0 <= box["y"] < height


def chart(page: Page) -> Locator:
    return page.locator(".stPlotlyChart .main-svg").first


@pytest.mark.parametrize("width", [1440, 900])
def test_all_experts_as_points_and_as_a_table(
    bundled: harness.Server, browser: Browser, width: int
):
    with harness.new_page(browser, width) as page:
        harness.visit(page, f"{bundled.url}/Experts")
        assert harness.is_within(page.get_by_role("heading", level=2).first)
        assert page.locator(".point").count() == 2 * 4 * 127
        assert harness.is_within(chart(page))
        table = page.get_by_test_id("stDataFrame")
        assert harness.is_within(table) if width == 1440 else starts_within(table, 800)
        table.click(position={"x": 150, "y": FIRST_ROW})
        page.keyboard.press("ArrowDown")
        page.evaluate(harness.TWO_FRAMES)
        assert "expert=" not in page.url, "a table is walked through without leaving it"
        with harness.rerun(page):
            table.click(position={"x": OPEN, "y": FIRST_ROW})
        assert "expert=" in page.url
        if width == 1440:
            with harness.rerun(page):
                page.go_back()
            a_point_is_opened_by_key(page)
        else:
            a_touched_chart_has_no_buttons_on_its_title(page)


def a_touched_chart_has_no_buttons_on_its_title(page: Page) -> None:
    expect(page.locator(".modebar").first).to_be_visible()
    devices = page.context.new_cdp_session(page)
    devices.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    expect(page.locator(".modebar").first).to_be_hidden()
    devices.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
    devices.detach()


def a_point_is_opened_by_key(page: Page) -> None:
    chart = page.get_by_role("figure").first
    assert "img:" not in chart.aria_snapshot()  # no numbers of an axis
    chart.focus()
    page.keyboard.press("ArrowRight")
    said = page.locator(".read")
    expect(said).to_contain_text(re.compile(r"^EMO, layer \d, expert \d+; serves"))
    _, layer, expert = re.findall(r"EMO|\d+", said.inner_text())[:3]
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(rf"expert={layer}\.{expert}\b"))
    harness.settle(page)
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_one_expert_with_its_domains_effect_and_contexts(
    bundled: harness.Server, browser_page: Page
):
    page = browser_page
    harness.visit(page, f"{bundled.url}/Experts?expert=2.125&expert_run=emo-nano")
    expect(page.locator(".kwic .line")).to_have_count(12)
    assert harness.is_within(page.locator(".kwic"))
    assert harness.is_within(chart(page))
    expect(page.get_by_text("Loss without it", exact=True)).to_be_visible()


def test_a_line_is_opened_by_key_and_one_step_back_returns(
    bundled: harness.Server, browser_page: Page
):
    page = browser_page
    harness.visit(page, f"{bundled.url}/Experts?expert=2.125&expert_run=emo-nano")
    with harness.rerun(page):
        page.keyboard.press("ArrowRight")
    assert "expert=2.126" in page.url
    expect(page.locator(".kwic .line").first).to_be_visible()
    page.locator(".kwic").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/Token_routing?**")
    assert "routing_layer=2" in page.url and "routing_token=" in page.url
    harness.settle(page)
    page.go_back()
    page.wait_for_url("**/Experts?**")
    assert "expert=2.126" in page.url
    expect(page.locator(".kwic .line").first).to_be_visible()


@pytest.mark.parametrize("width", [1440, 900])
@pytest.mark.parametrize(
    "view", ["Similarity", "Coverage", "Kept", "Co-activation", "Flow", "Balance"]
)
def test_every_question_of_domains_has_its_answer_and_picture(
    bundled: harness.Server, browser: Browser, width: int, view: str
):
    with harness.new_page(browser, width) as page:
        harness.visit(page, f"{bundled.url}/Domains?domains_view={view}")
        assert harness.is_within(page.get_by_role("heading", level=2).first)
        assert harness.is_within(page.get_by_role("radio", name="Balance"))
        assert harness.is_within(chart(page))
        if view == "Similarity" and width == 1440:
            cells_are_walked_by_key(page)
        if view == "Balance" and width == 1440:
            boxes_are_walked_by_key(page)


def boxes_are_walked_by_key(page: Page) -> None:
    """Each on its own, though the runs' boxes stand side by side."""
    said = page.locator(".read")
    page.get_by_role("figure").first.focus()
    page.keyboard.press("ArrowRight")
    expect(said).to_contain_text(re.compile(r"^EMO, layer 0: median 0\.\d\d of even use"))
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    expect(said).to_contain_text(re.compile(r"^Standard MoE, layer 0: median 0\.\d\d of"))


def cells_are_walked_by_key(page: Page) -> None:
    """Down a column of a heatmap, and over to that of the other run."""
    said = page.locator(".read")
    page.get_by_role("figure").first.focus()
    page.keyboard.press("ArrowRight")
    expect(said).to_contain_text(re.compile(r"^EMO; (\w+) and \1; 1.000"))
    first = said.inner_text().split("; ")[1].split()[0]
    page.keyboard.press("ArrowDown")
    expect(said).to_contain_text(re.compile(rf"^EMO; (?!{first})\w+ and {first}; 0\."))
    page.keyboard.press("PageDown")
    expect(said).to_contain_text(f"Standard MoE; {first} and {first}; 1.000")
    with harness.rerun(page):
        page.keyboard.press("p")
    page.get_by_role("figure").first.focus()
    page.keyboard.press("PageUp")
    read_out = page.get_by_role("status").and_(said)  # what is hidden has no role
    expect(read_out).to_contain_text(f"EMO; {first} and {first}; 1.000")
