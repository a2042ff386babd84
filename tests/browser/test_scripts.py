"""Texts in other scripts keep their shape: what is cut into tokens is drawn as it is written."""

import base64
import io
import re
from urllib.parse import quote

import harness
import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

STRIP = ".st-key-routing_strip .token"
# From right to left the first, and so the strip; Thai the last: its marks take no width.
WORDS = ["مرحبا", "é", "soil", "विद्यार्थी", "வணக்கம்", "น้ำ"]
# In the same fonts everywhere, without colours and whole.
PLAIN = """async (strip, fonts) => {
  for (const [name, data] of Object.entries(fonts)) {
    const font = new FontFace(name, `url(data:font/woff2;base64,${data})`);
    document.fonts.add(await font.load());
  }
  strip.style.fontFamily = `"Source Sans", ${Object.keys(fonts).join()}, sans-serif`;
  strip.style.maxHeight = "none";
  const style = document.createElement("style");
  style.textContent = `.token { color: black !important; background: none !important;
    box-shadow: none !important; outline: none !important; } .fields { visibility: hidden; }`;
  strip.before(style);
}"""
# The tokens of each line without the sign of its end.
LINES = """const linesOf = (strip) => {
  const lines = [[]];
  for (const node of strip.children) {
    if (node.localName === "br") lines.push([]);
    else if (node.matches(".token") && !node.querySelector(".sign")) lines.at(-1).push(node);
  }
  return lines;
};"""
WIDTHS = f"""(strip) => {{
  {LINES}
  return linesOf(strip).map((line) => {{
    const range = document.createRange();
    range.setStartBefore(line[0]);
    range.setEndAfter(line.at(-1));
    return range.getBoundingClientRect().width;
  }});
}}"""
IN_ONE_PIECE = f"""(strip) => {{
  {LINES}
  for (const [first, ...others] of linesOf(strip)) {{
    first.textContent = [first, ...others].map((node) => node.textContent).join("");
    others.forEach((node) => node.remove());
  }}
}}"""
# Its height and what is below it.
LAST_LINE = """(strip) => {
  const style = getComputedStyle(strip);
  return Math.floor(parseFloat(style.lineHeight) + parseFloat(style.borderBottomWidth));
}"""
# Those tokens that a click in the middle of what shows them would not reach.
OUT_OF_REACH = """(strip) => [...strip.querySelectorAll(".token")].filter((token) => {
  const face = token.field ?? token, box = face.getBoundingClientRect();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const at = strip.getRootNode().elementFromPoint(x, y);
  return !at || !face.contains(at);
}).map((token) => token.id)"""


def open_text(page: Page, server: harness.Server, text: str) -> Locator:
    """The strip of a text of one's own."""
    link = f"Token_routing?routing_source=Your+own+text&routing_text={quote(text)}"
    harness.visit(page, f"{server.url}/{link}")
    expect(page.locator(STRIP).first).to_be_visible()
    return page.locator(".st-key-routing_strip .strip")


def last_line(strip: Locator) -> np.ndarray:
    """The grey values of the strip's last line."""
    pixels = np.asarray(Image.open(io.BytesIO(strip.screenshot())).convert("L"), dtype=int)
    return pixels[-strip.evaluate(LAST_LINE) :]


def test_letters_join_across_tokens(
    app_server: harness.Server, browser_page: Page, fonts: dict[str, bytes]
):
    strip = open_text(browser_page, app_server, "\n".join(WORDS))
    with harness.rerun(browser_page):
        browser_page.locator(STRIP).first.click()
    with harness.rerun(browser_page):
        browser_page.keyboard.press("ArrowLeft")  # onward, where a line begins on the right
    harness.wait_for_text(browser_page, "Token 2 of")
    strip.evaluate(PLAIN, {name: base64.b64encode(font).decode() for name, font in fonts.items()})
    cut, drawn = strip.evaluate(WIDTHS), last_line(strip)
    strip.evaluate(IN_ONE_PIECE)
    whole, in_one_piece = strip.evaluate(WIDTHS), last_line(strip)
    apart = {w: a - b for w, a, b in zip(WORDS, cut, whole, strict=True) if abs(a - b) >= 1}
    assert not apart
    assert in_one_piece.min() < 64  # something is drawn
    assert abs(drawn - in_one_piece).max() < 64


def test_a_token_that_is_a_part_of_a_character_can_be_chosen(
    app_server: harness.Server, browser_page: Page
):
    strip = open_text(browser_page, app_server, "ไทย, summer mornings, ไทย")
    assert strip.evaluate(OUT_OF_REACH) == []
    browser_page.locator(STRIP).first.click()
    for _ in range(2):
        with harness.rerun(browser_page):
            browser_page.keyboard.press("ArrowRight")
    harness.wait_for_text(browser_page, "Token 3 of")
    expect(browser_page.locator(STRIP).nth(2)).to_have_attribute("aria-selected", "true")
    expect(strip.locator(".field.chosen")).to_have_attribute("title", re.compile("^Token 3:"))
    harness.wait_for_text(browser_page, "⟨")
    with harness.rerun(browser_page):
        strip.locator(".field").last.click()
    last = browser_page.locator(STRIP).count()
    harness.wait_for_text(browser_page, f"Token {last} of {last}")


def test_a_part_of_a_character_is_chosen_in_the_text_of_every_run(
    app_server: harness.Server, browser_page: Page
):
    link = f"Subset_ablation?subset_document=own&subset_text={quote('ไทย')}"
    harness.visit(browser_page, f"{app_server.url}/{link}")
    strips = browser_page.locator(".tokens .strip")
    expect(strips).to_have_count(2)
    strips.first.scroll_into_view_if_needed()
    for strip in strips.all():
        assert strip.evaluate(OUT_OF_REACH) == []
    with harness.rerun(browser_page):
        strips.first.locator(".field").first.click()
    expect(browser_page.locator(".tokens .said")).to_contain_text("Token 2 of")
    expect(browser_page.locator(".tokens .field.chosen")).to_have_count(2)
    with harness.rerun(browser_page):
        browser_page.keyboard.press("ArrowRight")
    expect(browser_page.locator(".tokens .said")).to_contain_text("Token 3 of")


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
