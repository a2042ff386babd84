"""Texts in other scripts keep their shape: what is cut into tokens is drawn as it is written."""

import base64
import io
import re
from pathlib import Path
from urllib.parse import quote

import harness
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

STRIP = ".st-key-routing_strip .token"
# From right to left the first, and so the strip; Thai the last: its marks take no width.
WORDS = ["مرحبا", "é", "soil", "विद्यार्थी", "வணக்கம்", "น้ำ"]
FIELD_PIXELS = 7  # PITCH in character_parts.js
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

# How far below the letters the fields stand, and the last one from the last letter; the lengths of
# the token card's bars in percent of the longest; how many tokens have an outline, or a line above
# or below.
# Of the report of a cut: the end of what was given fades in, and nothing asks for a hand.
FADED = """() => {
  const said = document.body.textContent;
  return { faded: document.querySelector('[style*="mask-image:linear-gradient"]') !== null,
    legend: said.includes('dotted: better'), by_hand: said.includes('Click a token') };
}"""
SHOWN = """() => {
  const all = [document];
  for (const root of all) {
    for (const one of root.querySelectorAll("*")) if (one.shadowRoot) all.push(one.shadowRoot);
  }
  const find = (holds) =>
    all.flatMap((root) => [...root.querySelectorAll("span, div, button")]).filter(holds);
  const titled = find((one) => /^Token \\d+:/.test(one.title) && one.getClientRects().length);
  const boxes = (holds) => titled.filter(holds).map((one) => one.getBoundingClientRect());
  const fields = boxes((one) => getComputedStyle(one).position === "absolute");
  const letters = boxes((one) => one.textContent).at(-1);
  const outlined = titled.filter((one) => one.getBoundingClientRect().width
    && getComputedStyle(one).outlineStyle !== "none");
  const lined = titled.filter((one) => one.textContent)
    .filter((one) => getComputedStyle(one).boxShadow !== "none");
  const bars = find((one) => /choice \\d+, expert/.test(one.title))
    .map((one) => one.getBoundingClientRect().width);
  return {
    below: fields.map((one) => one.top - letters.bottom),
    across: [fields.at(-1).right - letters.right],
    bars: bars.map((width) => (100 * width) / Math.max(...bars)),
    outlined: [outlined.length],
    lined: [lined.length],
  };
}"""


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


def test_a_token_that_is_a_part_of_a_character_can_be_chosen_and_is_in_the_report(
    app_server: harness.Server, browser: Browser, browser_page: Page
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
    as_shown = browser_page.evaluate(SHOWN)
    assert len(as_shown["below"]) == strip.locator(".field").count()
    assert as_shown["bars"] and as_shown["lined"][0] and as_shown["outlined"] == [1]
    for name, values in in_report(browser, browser_page).items():
        # A machine without Thai letters draws boxes, of another width in the report's own font.
        nearly = FIELD_PIXELS if name == "across" else 1.5
        assert values == pytest.approx(as_shown[name], abs=nearly), name


def in_report(browser: Browser, page: Page, script: str = SHOWN) -> dict[str, list[float]]:
    """What `script` finds in the page's report, where nothing but the file is there."""
    harness.open_popover(page, page.get_by_role("button", name="Save", exact=True))
    with page.expect_download() as download:
        page.get_by_role("button", name="Report as HTML").click()
    file = Path(download.value.path())
    with browser.new_context(offline=True) as offline:
        report = offline.new_page()
        report.goto(file.rename(f"{file}.html").as_uri())
        found: dict[str, list[float]] = report.evaluate(script)
    return found


def test_a_part_of_a_character_is_chosen_in_the_text_of_every_run(
    app_server: harness.Server, browser: Browser, browser_page: Page
):
    link = f"Subset_ablation?subset_document=own&subset_text={quote('ไทย')}"
    harness.visit(browser_page, f"{app_server.url}/{link}")
    strips = browser_page.locator(".tokens .strip")
    expect(strips).to_have_count(2)
    expect(browser_page.locator(".tokens .said")).to_contain_text("Click a token to compare")
    made = in_report(browser, browser_page, FADED)
    assert made == {"faded": True, "legend": True, "by_hand": False}
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
