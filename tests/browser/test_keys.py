"""Keys belong to what has the focus; only then do they turn the page."""

import harness
import pytest
from playwright.sync_api import Browser, Locator, Page, expect


def address_after(page: Page, key: str) -> str:
    """The address once the page is at rest after a key; a rerun may or may not follow it."""
    page.keyboard.press(key)
    page.evaluate(harness.TWO_FRAMES)
    harness.settle(page)
    return page.url


def place_of(page: Page, name: str) -> Locator:
    """What a visitor clicks to give the focus to a table, a list, ..."""
    return {
        "table": page.get_by_test_id("stDataFrame").first,
        "layer": page.get_by_role("radiogroup", name="Layer").get_by_text("1", exact=True),
        "token": page.get_by_role("spinbutton", name="Token"),
        "document": page.get_by_role("combobox").nth(1),
    }[name]


@pytest.mark.parametrize("name", ["table", "token", "layer", "document"])
def test_an_arrow_key_in_a_table_or_field_does_not_turn_the_document(
    app_server: harness.Server, browser_page: Page, name: str
):
    harness.visit(browser_page, f"{app_server.url}/Token_routing?routing_doc=heldout-court-0")
    place_of(browser_page, name).click()
    for key in ("ArrowRight", "Control+ArrowRight", "Alt+ArrowDown"):
        assert "routing_doc=heldout-court-0" in address_after(browser_page, key)


def test_an_arrow_key_on_the_page_turns_the_document(
    app_server: harness.Server, browser_page: Page
):
    harness.visit(browser_page, f"{app_server.url}/Token_routing?routing_doc=heldout-garden-0")
    with harness.rerun(browser_page):
        browser_page.keyboard.press("ArrowRight")
    assert "routing_doc=heldout-kitchen-0" in browser_page.url
    with harness.rerun(browser_page):
        browser_page.get_by_role("heading", level=1).click()
        browser_page.keyboard.press("ArrowLeft")
    assert "routing_doc=heldout-garden-0" in browser_page.url


def test_a_link_is_followed_while_a_popover_is_open(app_server: harness.Server, browser_page: Page):
    harness.visit(browser_page, app_server.url)
    with harness.rerun(browser_page):
        browser_page.get_by_role("button", name="Another document").click()
    expect(browser_page.get_by_test_id("stPopoverBody")).to_be_visible()
    side = browser_page.get_by_test_id("stSidebar")
    side.get_by_role("link", name="Search").click()
    expect(browser_page.get_by_role("heading", level=1)).to_have_text("Search")
    harness.settle(browser_page)


def test_a_slider_keeps_its_keys_and_says_no_hint_anew(
    app_server: harness.Server, browser_page: Page
):
    harness.visit(
        browser_page, f"{app_server.url}/Subset_ablation?k=8&subset_document=heldout-garden-0"
    )
    slider = browser_page.get_by_role("slider").first
    browser_page.locator(".tokens .said").evaluate(harness.COUNT_WRITTEN)
    slider.focus()
    with harness.rerun(browser_page):
        slider.press("Shift+ArrowRight")
    assert "k=9" in browser_page.url and "heldout-garden-0" in browser_page.url
    assert browser_page.evaluate("window.written") == 0  # the same hint


def test_a_link_is_of_the_text_that_was_read_and_not_of_a_draft(
    app_server: harness.Server, browser_page: Page, browser: Browser
):
    page = browser_page
    harness.visit(page, f"{app_server.url}/Token_routing?routing_source=Your+own+text")
    area = page.get_by_role("textbox", name="Text for the models")
    area.fill("anchor and rope")
    with harness.rerun(page):
        area.press("Control+Enter")
    area.press_sequentially(" unfinished")
    assert "unfinished" not in page.url
    with harness.rerun(page):
        page.get_by_role("link", name="Cut the models").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Subset ablation")
    expect(page.get_by_role("textbox", name="Text for the models")).to_have_value("anchor and rope")
    assert "unfinished" not in page.url and "routing_" not in page.url
    with harness.new_page(browser) as other:
        harness.visit(other, page.url)
        expect(other.get_by_role("textbox", name="Text for the models")).to_have_value(
            "anchor and rope"
        )


@pytest.mark.parametrize(
    ("address", "token"),
    [
        ("Token_routing", "routing_token"),
        ("Subset_ablation", "subset_token"),
        ("Routing_difference", "difference_token"),
    ],
)
def test_escape_lets_go_of_a_token_wherever_the_focus_is(
    app_server: harness.Server, browser_page: Page, address: str, token: str
):
    harness.visit(browser_page, f"{app_server.url}/{address}?{token}=3")
    browser_page.locator('.token[aria-selected="true"]').first.wait_for(state="attached")
    browser_page.get_by_role("button", name="Copy link").focus()
    with harness.rerun(browser_page):
        browser_page.keyboard.press("Escape")
    expect(browser_page.locator('.token[aria-selected="true"]')).to_have_count(0)
    assert token not in browser_page.url
