"""Back, forward and reload: the browser's history and the page agree."""

import harness
from playwright.sync_api import Page, expect

TOKENS = ".st-key-routing_strip .token"


def test_a_step_back_is_the_view_before(app_server: harness.Server, browser_page: Page):
    page = browser_page
    harness.visit(page, f"{app_server.url}/Token_routing?routing_layer=0&routing_token=5")
    with harness.rerun(page):
        page.locator(TOKENS).nth(8).click()
    harness.wait_for_text(page, "Token 9 of")
    with harness.rerun(page):
        page.keyboard.press("Shift+ArrowDown")
    assert "routing_layer" not in page.url and "routing_token=9" in page.url
    with harness.rerun(page):
        page.go_back()
    assert "routing_layer=0" in page.url and "routing_token=9" in page.url
    with harness.rerun(page):
        page.go_back()
    harness.wait_for_text(page, "Token 5 of")
    with harness.rerun(page):
        page.go_forward()
    harness.wait_for_text(page, "Token 9 of")


def test_a_long_text_is_there_after_a_reload(app_server: harness.Server, browser_page: Page):
    page, text = browser_page, "anchor and rope " * 400
    harness.visit(page, f"{app_server.url}/Token_routing?routing_source=Your+own+text")
    area = page.get_by_role("textbox", name="Text for the models")
    area.fill(text)
    with harness.rerun(page):
        area.press("Control+Enter")
    assert len(page.url) < 500
    page.reload()
    harness.settle(page)
    expect(area).to_have_value(text)
