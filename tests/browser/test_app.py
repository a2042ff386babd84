"""What a visitor does with mouse, keyboard and link, in a real browser.

Every page here fails its test if the browser's console met an error (harness.new_page).
"""

import re
from pathlib import Path

import harness
from playwright.sync_api import Browser, Page, expect

STRIP = ".st-key-routing_strip .token"


def first_sentence(page: Page) -> str:
    return page.get_by_role("heading", level=2).first.inner_text()


def open_page(page: Page, server: harness.Server, address: str) -> None:
    harness.visit(page, f"{server.url}/{address}")


def test_a_clicked_token_is_selected_in_both_models(app_server: harness.Server, browser_page: Page):
    open_page(browser_page, app_server, "Token_routing")
    with harness.rerun(browser_page):
        browser_page.locator(STRIP).nth(6).click()
    harness.wait_for_text(browser_page, "Token 7 of")
    assert "routing_token=7" in browser_page.url
    expect(browser_page.locator(STRIP).nth(6)).to_have_attribute("aria-selected", "true")


def test_the_arrow_keys_walk_the_tokens_and_escape_lets_go(
    app_server: harness.Server, browser_page: Page
):
    open_page(browser_page, app_server, "Token_routing")
    with harness.rerun(browser_page):
        browser_page.locator(STRIP).nth(2).click()
    with harness.rerun(browser_page):
        browser_page.keyboard.press("ArrowRight")
    harness.wait_for_text(browser_page, "Token 4 of")
    with harness.rerun(browser_page):
        browser_page.keyboard.press("Escape")
    assert "routing_token" not in browser_page.url


def test_shift_with_an_arrow_changes_the_layer_from_within_the_text_too(
    app_server: harness.Server, browser_page: Page
):
    open_page(browser_page, app_server, "Token_routing?routing_layer=0")
    with harness.rerun(browser_page):
        browser_page.locator(STRIP).nth(2).click()
    with harness.rerun(browser_page):
        browser_page.keyboard.press("Shift+ArrowDown")
    assert "routing_layer" not in browser_page.url and "routing_token=3" in browser_page.url


def test_the_layer_stays_chosen_when_a_text_is_typed(
    app_server: harness.Server, browser_page: Page
):
    open_page(browser_page, app_server, "Token_routing?routing_layer=0")
    with harness.rerun(browser_page):
        browser_page.get_by_text("Your own text").click()
    area = browser_page.get_by_role("textbox", name="Text for the models")
    area.fill("soil")
    with harness.rerun(browser_page):
        area.press("Control+Enter")
    layers = browser_page.get_by_role("radiogroup", name="Layer").get_by_role("radio")
    expect(layers.first).to_be_checked()


def test_pasted_markup_is_shown_as_text(app_server: harness.Server, browser_page: Page):
    text = "<script>document.title='owned'</script> <b>soil</b> 😀 שלום"
    open_page(browser_page, app_server, "Token_routing?routing_source=Your+own+text")
    area = browser_page.get_by_role("textbox")
    area.fill(text)
    with harness.rerun(browser_page):
        area.press("Control+Enter")
    expect(browser_page.locator(STRIP).first).to_be_visible()
    shown = "".join(browser_page.locator(STRIP).all_inner_texts())
    assert "<script>document.title='owned'</script>" in shown.replace("␣", " ")
    assert "owned" not in browser_page.title()


def test_moving_the_slider_recomputes_the_document(app_server: harness.Server, browser_page: Page):
    open_page(browser_page, app_server, "Subset_ablation?k=8")
    losses = browser_page.get_by_text(re.compile("→ .* nats a token")).first
    before = losses.inner_text()
    slider = browser_page.get_by_role("slider").first
    slider.focus()
    with harness.rerun(browser_page):
        slider.press("Shift+ArrowRight")
    assert "k=9" in browser_page.url
    expect(losses).not_to_have_text(before)


def test_a_copied_link_opens_the_same_view_on_a_fresh_server(
    app_server: harness.Server, browser_page: Page, browser: Browser, tiny_assets: Path
):
    open_page(browser_page, app_server, "Token_routing?routing_domain=harbour&routing_layer=0")
    with harness.rerun(browser_page):
        browser_page.locator(STRIP).nth(8).click()
    seen = first_sentence(browser_page)
    link = browser_page.url.removeprefix(app_server.url)
    assert "routing_token=9" in link and "routing_layer=0" in link
    with harness.serve(tiny_assets) as server, harness.new_page(browser) as page:
        harness.visit(page, server.url + link)
        harness.wait_for_text(page, "Token 9 of")
        assert first_sentence(page) == seen
