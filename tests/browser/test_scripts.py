"""Texts in other scripts keep their shape: what is cut into tokens is drawn as it is written."""

from urllib.parse import quote

import harness
import pytest
from playwright.sync_api import Page, expect

STRIP = ".st-key-routing_strip .token"
# Width of the tokens as drawn, and of the same text in one piece in the same place.
WIDTHS = """(tokens) => {
  const strip = tokens[0].parentNode, range = document.createRange();
  range.setStartBefore(tokens[0]);
  range.setEndAfter(tokens.at(-1));
  const cut = range.getBoundingClientRect().width;
  const whole = document.createElement("span");
  whole.textContent = tokens.map((node) => node.textContent).join("");
  strip.append(whole);
  const width = whole.getBoundingClientRect().width;
  whole.remove();
  return [cut, width];
}"""


@pytest.mark.parametrize("text", ["مرحبا", "é", "soil"], ids=["arabic", "marks", "latin"])
def test_letters_join_across_tokens(app_server: harness.Server, browser_page: Page, text: str):
    link = f"Token_routing?routing_source=Your+own+text&routing_text={quote(text)}"
    harness.visit(browser_page, f"{app_server.url}/{link}")
    expect(browser_page.locator(STRIP).first).to_be_visible()
    tokens, one_piece = browser_page.locator(STRIP).evaluate_all(WIDTHS)
    assert abs(tokens - one_piece) < 1


def test_a_token_that_is_a_part_of_a_character_can_be_chosen(
    app_server: harness.Server, browser_page: Page
):
    link = f"Token_routing?routing_source=Your+own+text&routing_text={quote('ไทย')}"
    harness.visit(browser_page, f"{app_server.url}/{link}")
    browser_page.locator(STRIP).first.click()
    for _ in range(2):
        with harness.rerun(browser_page):
            browser_page.keyboard.press("ArrowRight")
    harness.wait_for_text(browser_page, "Token 3 of")
    expect(browser_page.locator(STRIP).nth(2)).to_have_attribute("aria-selected", "true")
    harness.wait_for_text(browser_page, "⟨")


def test_half_a_character_in_a_pasted_text_is_said(app_server: harness.Server, browser_page: Page):
    harness.visit(browser_page, f"{app_server.url}/Token_routing?routing_source=Your+own+text")
    area = browser_page.get_by_role("textbox", name="Text for the models")
    area.focus()
    browser_page.evaluate("document.execCommand('insertText', false, 'soil \\ud800 and rain')")
    with harness.rerun(browser_page):
        area.press("Control+Enter")
    expect(browser_page.locator(STRIP).first).to_be_visible()
    harness.wait_for_text(browser_page, "a character that was broken when it was copied")
    expect(area).to_have_value("soil \ufffd and rain")
