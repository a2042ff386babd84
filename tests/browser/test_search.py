"""The key / leads to the search from anywhere; a hit leads to its token; texts stay texts."""

from types import ModuleType
from urllib.parse import quote

import harness
import pytest
from playwright.sync_api import Page, expect

from emo_viz.ui.experts import kwic as of_experts
from emo_viz.ui.search import kwic as of_search

FIELD = ".st-key-search_text input"
LINES = ".st-key-search_lines tbody tr"
# Draws a component in a narrow place, and gives where each of some parts begins and ends.
DRAWN = """async ([js, css, html, data, parts]) => {
  const place = document.createElement("div");
  place.style.width = "700px";
  document.querySelector("h1").after(place);
  const parentElement = place.attachShadow({ mode: "open" });
  parentElement.innerHTML = `<style>${css}</style>${html}`;
  const { default: draw } = await import(`data:text/javascript,${encodeURIComponent(js)}`);
  draw({ data, parentElement, setTriggerValue() {} });
  const found = parts.map((part) => parentElement.querySelector(part).getBoundingClientRect());
  place.remove();
  return found.map(({ left, right }) => [left, right]);
}"""


@pytest.mark.parametrize("address", ["", "Token_routing", "Library"])
def test_the_slash_opens_the_search_and_its_field(
    app_server: harness.Server, browser_page: Page, address: str
):
    harness.visit(browser_page, f"{app_server.url}/{address}")
    with harness.rerun(browser_page):
        browser_page.keyboard.press("/")
    expect(browser_page.get_by_role("heading", level=1)).to_contain_text("Search")
    expect(browser_page.locator(FIELD)).to_be_focused()
    browser_page.keyboard.type("rope")
    with harness.rerun(browser_page):
        browser_page.keyboard.press("Enter")
    expect(browser_page.locator(LINES).first).to_contain_text("rope")
    browser_page.get_by_role("heading", level=1).click()
    browser_page.keyboard.press("/")
    expect(browser_page.locator(FIELD)).to_be_focused()
    browser_page.keyboard.type("a/b")
    expect(browser_page.locator(FIELD)).to_have_value("a/b")
    with harness.rerun(browser_page):
        browser_page.get_by_role("radio", name="Compare pins").click()
    with harness.rerun(browser_page):
        browser_page.keyboard.press("/")
    expect(browser_page.locator(FIELD)).to_be_focused()


def test_a_slash_in_a_text_is_a_slash(app_server: harness.Server, browser_page: Page):
    harness.visit(browser_page, f"{app_server.url}/Token_routing?routing_source=Your+own+text")
    area = browser_page.get_by_role("textbox", name="Text for the models")
    area.press_sequentially("and/or")
    expect(area).to_have_value("and/or")
    expect(browser_page.get_by_role("heading", level=1)).to_contain_text("Token routing")


def test_a_hit_leads_to_its_token_and_keys_walk_the_lines(
    app_server: harness.Server, browser_page: Page
):
    text = quote("<b onclick='alert(1)'>soil")
    harness.visit(browser_page, f"{app_server.url}/Search?search_text={text}")
    hit = browser_page.locator(f"{LINES} a.hit")
    expect(hit).to_have_text("<b onclick='alert(1)'>soil")
    harness.visit(browser_page, f"{app_server.url}/Search?search_text=rope")
    hit.first.focus()
    browser_page.keyboard.press("ArrowDown")
    expect(hit.nth(1)).to_be_focused()
    address = str(hit.nth(1).get_attribute("href"))
    with harness.rerun(browser_page):
        browser_page.keyboard.press("Enter")
    expect(browser_page.get_by_role("heading", level=1)).to_contain_text("Token routing")
    token = address.split("routing_token=")[1].split("&")[0]
    expect(browser_page).to_have_url(address)
    harness.wait_for_text(browser_page, f"Token {token} of")
    browser_page.go_back()
    harness.settle(browser_page)
    expect(browser_page).to_have_url(f"{app_server.url}/Search?search_text=rope")
    contexts_are_read_from_right_to_left(browser_page)


def contexts_are_read_from_right_to_left(page: Page) -> None:
    """Beside its hit a line has the words next to it, the first ones on the right."""
    around = {"before": "abc " + "שלום, " * 15, "after": " עולם." * 15}
    row = of_search.Row("zoo", "x", hit="ספר", **around)
    rows = [of_search.as_drawn(row)]
    parts = ["td.line", ".kept span", ".hit", ".words > :last-child"]
    beside(drawn(page, of_search, {"rows": rows, "label": "", "where": "", "note": ""}, parts))
    line = of_experts.Line(token="ספר", weight="0.3", document="x", **around)
    lines = [of_experts.as_drawn(line)]
    parts = [".words", ".before span", ".token span", ".after"]
    beside(drawn(page, of_experts, {"lines": lines, "label": "", "colour": "red"}, parts))


def drawn(page: Page, of: ModuleType, data: dict, parts: list[str]) -> list[list[float]]:
    found: list[list[float]] = page.evaluate(DRAWN, [of._JS, of._CSS, of._HTML, data, parts])
    return found


def beside(parts: list[list[float]]) -> None:
    line, before, hit, after = parts
    assert line[0] < hit[0] < hit[1] < line[1]
    assert after[1] == pytest.approx(hit[0], abs=4) and before[0] == pytest.approx(hit[1], abs=4)


def test_what_was_found_and_which_lines_are_read_out(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    harness.visit(page, f"{app_server.url}/Search")
    told, lines = page.locator(".st-key-frame .heard"), page.locator(".st-key-search_lines .heard")
    expect(page.get_by_role("button", name="Copy link")).to_be_visible()  # the frame listens
    for word in ("rope", "soil"):
        page.locator(FIELD).fill(word)
        with harness.rerun(page):
            page.keyboard.press("Enter")
        expect(told).to_contain_text(f"“{word}” stands")
        expect(told).to_have_attribute("role", "status")
        expect(lines).to_contain_text("Lines 1 to ")
