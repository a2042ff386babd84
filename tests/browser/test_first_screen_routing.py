"""Token routing in a browser: the first screen, and pictures that are looked at locally."""

import re

import harness
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

TOKENS = ".st-key-routing_strip .token"
ROOT = ".st-key-routing_map .heatmap"
CARD = ".st-key-routing_card .card"
MOST_BYTES = 40 * 1024
# Where on the stage the first cell is that a row uses, in a panel.
CELL = """(root, [panel, row]) => {
  const { at, view } = root.map, one = at.panels[panel], { layer } = one;
  const column = layer.place[layer.ids[row * layer.slots]];
  return [one.x + ((column + 0.5 - view.left) / (view.right - view.left)) * one.w,
          one.y + ((row + 0.5 - view.top) / (view.bottom - view.top)) * one.h,
          layer.ids[row * layer.slots]];
}"""

# Lines are of whole pixels, as WebKit sets them anyway, and the box holds whole lines.
LINES = """(strip) => {
  const line = parseFloat(getComputedStyle(strip).lineHeight);
  return line > 20 && Number.isInteger(line) && strip.clientHeight % line === 0;
}"""

# The texts of the picture when it is drawn anew.
WRITTEN = """(root) => new Promise((done) => {
  const kind = CanvasRenderingContext2D.prototype, write = kind.fillText, found = [];
  kind.fillText = function (text, ...place) {
    found.push(text);
    return write.call(this, text, ...place);
  };
  root.map.settle();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    kind.fillText = write;
    done(found);
  }));
})"""
IN_SIGHT = """(token) => {
  const own = token.getBoundingClientRect();
  const text = token.closest(".strip").getBoundingClientRect();
  return own.top >= text.top - 1 && own.bottom <= text.bottom + 1;
}"""


def visit(page: Page, server: harness.Server, query: str = "") -> Locator:
    """The picture of the page, drawn."""
    harness.visit(page, f"{server.url}/Token_routing{query}")
    root = page.locator(ROOT)
    page.wait_for_function("(root) => root.dataset.rows", arg=root.element_handle())
    return root


def cell(root: Locator, panel: int, row: int) -> tuple[float, float, int]:
    """Where on the page a row's first cell is drawn, and of which expert it is."""
    x, y, expert = root.evaluate(CELL, [panel, row])
    box = root.locator(".stage").bounding_box()
    assert box is not None
    return box["x"] + x, box["y"] + y, int(expert)


def drag(page: Page, root: Locator, rows: tuple[int, int]) -> None:
    """Zoom into some rows of the first panel."""
    (x, top, _), (_, bottom, _) = cell(root, 0, rows[0]), cell(root, 0, rows[1])
    page.mouse.move(x, top)
    page.mouse.down()
    page.mouse.move(x + 2, bottom, steps=4)
    page.mouse.up()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_text_and_panel_are_on_the_first_screen(
    app_server: harness.Server, browser: Browser, scheme: str
):
    with harness.new_page(browser, 1440, 900, scheme) as page:
        visit(page, app_server, "?routing_token=3")
        for name in (".stage", ".ramp"):
            expect(page.locator(f"{ROOT} {name}")).to_be_in_viewport(ratio=1)
        strip = page.locator(".st-key-routing_strip .strip")
        expect(strip).to_be_in_viewport(ratio=1)
        assert strip.evaluate(LINES)
        expect(page.locator(CARD)).to_be_in_viewport(ratio=1)
        expect(page.get_by_role("button", name="Export")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("picture", ["One layer", "All layers", "Difference"])
def test_headline_controls_and_pictures_are_within_one_screen_at_900(
    app_server: harness.Server, browser: Browser, picture: str
):
    with harness.new_page(browser, 900, 900) as page:
        query = f"?routing_picture={picture.replace(' ', '+')}&routing_token=3"
        visit(page, app_server, query)
        expect(page.locator("h2").first).to_be_in_viewport(ratio=1)
        for name in (".stage", ".foot"):
            expect(page.locator(f"{ROOT} {name}")).to_be_in_viewport(ratio=1)
        written = page.locator(ROOT).evaluate(WRITTEN)
        if picture == "One layer":  # one form for both
            assert {"EMO, L1", "Standard MoE, L1"} <= set(written)


def test_nothing_overflows_at_900(app_server: harness.Server, browser: Browser):
    with harness.new_page(browser, 900) as page:
        root = visit(page, app_server, "?routing_picture=All+layers&routing_token=3")
        wide = "(node) => node.scrollWidth <= node.clientWidth"
        assert root.evaluate(wide) and page.locator(CARD).evaluate(wide)
        box, picture = page.locator(CARD).bounding_box(), root.bounding_box()
        assert box is not None and box["x"] + box["width"] <= 900
        # The text and the token stand beside the picture, not below it.
        assert picture is not None and picture["x"] + picture["width"] <= box["x"]


def test_a_click_in_a_picture_chooses_the_token_and_follows_its_expert(
    app_server: harness.Server, browser_page: Page
):
    root = visit(browser_page, app_server)
    x, y, expert = cell(root, 1, 4)
    with harness.rerun(browser_page):
        browser_page.mouse.click(x, y)
    expect(browser_page.locator(f"{CARD} .title")).to_contain_text("Token 5 of")
    assert "routing_token=5" in browser_page.url
    assert f"routing_expert=Standard+MoE+L1+E{expert}" in browser_page.url
    expect(browser_page.locator(TOKENS).nth(4)).to_have_attribute("aria-selected", "true")
    expect(browser_page.locator(TOKENS).nth(4)).to_have_class(re.compile("marked"))
    # WebKit tells of a leave with every click; what is pointed at stays until the pointer has left.
    stage, tip = root.locator(".stage"), root.locator(".tip")
    stage.dispatch_event("pointerleave", {"clientX": x, "clientY": y, "pointerType": "mouse"})
    expect(tip).to_be_visible()
    browser_page.mouse.move(1, 1)
    expect(tip).to_be_hidden()


def test_a_drag_zooms_a_pick_keeps_it_and_a_double_click_shows_the_whole_text(
    app_server: harness.Server, browser_page: Page
):
    # A link's token stands in the middle, not in the last row.
    root = visit(browser_page, app_server, "?routing_token=60")
    browser_page.wait_for_function("(root) => root.dataset.selected", arg=root.element_handle())
    first, last = map(int, (root.get_attribute("data-rows") or "").split())
    assert 60 - first > 5 and last - 60 > 5
    with harness.rerun(browser_page):
        browser_page.locator(TOKENS).nth(14).click()
    drag(browser_page, root, (10, 20))
    expect(root).to_have_attribute("data-rows", "11 21")
    x, y, _ = cell(root, 0, 14)
    with harness.rerun(browser_page):
        browser_page.mouse.click(x, y)
    assert "routing_token=15" in browser_page.url
    expect(root).to_have_attribute("data-rows", "11 21")
    for picture in ("All layers", "Difference", "One layer"):  # the rows stay
        with harness.rerun(browser_page):
            browser_page.get_by_role("radio", name=picture).click()
        expect(root).to_have_attribute("data-rows", "11 21")
    # The first click of two chooses another token and expert: taken back, without a step.
    before, step = browser_page.url, browser_page.evaluate("history.state.emoViz")
    with harness.rerun(browser_page):
        browser_page.mouse.click(*cell(root, 1, 16)[:2])
    assert "routing_token=17" in browser_page.url
    with harness.rerun(browser_page):
        browser_page.mouse.down(click_count=2)
        browser_page.mouse.up(click_count=2)
    tokens = browser_page.locator(TOKENS).count()
    expect(root).to_have_attribute("data-rows", f"1 {tokens}")
    expect(root).to_have_attribute("data-selected", "15")
    browser_page.wait_for_function("(step) => history.state.emoViz === step", arg=step)
    harness.settle(browser_page)
    assert browser_page.url == before


def test_the_wheel_is_the_pages_and_with_ctrl_it_zooms(
    app_server: harness.Server, browser_page: Page
):
    root = visit(browser_page, app_server)
    before = root.get_attribute("data-rows")
    browser_page.mouse.move(*cell(root, 0, 5)[:2])
    browser_page.mouse.wheel(0, 200)
    browser_page.wait_for_function(
        "document.querySelector('[data-testid=\"stMain\"]').scrollTop > 0"
    )
    assert root.get_attribute("data-rows") == before
    browser_page.keyboard.down("Control")
    browser_page.mouse.wheel(0, -200)
    browser_page.keyboard.up("Control")
    expect(root).not_to_have_attribute("data-rows", before or "")


def test_the_arrow_keys_walk_a_picture_without_the_server_and_enter_picks(
    app_server: harness.Server, browser_page: Page
):
    root = visit(browser_page, app_server)
    sent: list[object] = []
    harness.socket_of(browser_page).on("framesent", lambda frame: sent.append(frame))
    root.locator(".stage").focus()
    for _ in range(4):
        browser_page.keyboard.press("ArrowDown")
    expect(root.locator(".heard")).to_contain_text("Token 4 of")
    expect(root.locator(".heard")).to_contain_text("EMO, layer 1: expert")
    # An id of the other run is another expert.
    expect(root.locator(".heard")).not_to_contain_text("Standard MoE")
    expect(browser_page.locator(TOKENS).nth(3)).to_have_class(re.compile("pointed"))
    assert not sent
    with harness.rerun(browser_page):
        browser_page.keyboard.press("Enter")
    assert "routing_token=4" in browser_page.url
    expect(root.get_by_text("Token 4 is chosen; its experts")).to_be_attached()
    with harness.rerun(browser_page):
        browser_page.keyboard.press("Escape")
    assert "routing_token" not in browser_page.url
    expect(root.get_by_text("No token is chosen.")).to_be_attached()


def test_the_text_and_the_picture_show_what_is_pointed_at_in_the_other(
    app_server: harness.Server, browser_page: Page
):
    page, root = browser_page, visit(browser_page, app_server)
    page.locator(TOKENS).nth(6).hover()
    page.wait_for_function("(root) => root.map.guest === 6", arg=root.element_handle())
    # The text goes along with the picture's rows, and to a row that is pointed at.
    first, last = page.locator(TOKENS).first, page.locator(TOKENS).last
    assert first.evaluate(IN_SIGHT) and not last.evaluate(IN_SIGHT)
    rail = root.evaluate("({ map: { at } }) => ({ x: at.rail.x + 8, y: at.rail.y + at.rail.h })")
    root.locator(".stage").click(position={"x": rail["x"], "y": rail["y"] - 2})
    top = int((root.get_attribute("data-rows") or "").split()[0])
    assert top > 1 and page.locator(TOKENS).nth(top - 1).evaluate(IN_SIGHT)
    assert not first.evaluate(IN_SIGHT)
    root.get_by_role("button", name="Whole text").click()
    assert first.evaluate(IN_SIGHT)
    page.mouse.move(*cell(root, 0, page.locator(TOKENS).count() - 1)[:2])
    expect(last).to_have_class(re.compile("pointed"))
    assert last.evaluate(IN_SIGHT)


def test_a_pick_sends_little_and_not_the_picture(app_server: harness.Server, browser_page: Page):
    visit(browser_page, app_server)
    received: list[bytes | str] = []
    harness.socket_of(browser_page).on("framereceived", lambda frame: received.append(frame))
    with harness.rerun(browser_page):
        browser_page.locator(TOKENS).nth(6).click()
    assert 0 < sum(map(len, received)) < MOST_BYTES


def test_a_walk_through_the_text_is_one_step_back(app_server: harness.Server, browser_page: Page):
    page = browser_page
    visit(page, app_server)
    with harness.rerun(page):
        page.locator(TOKENS).nth(2).click()
    for _ in range(3):
        with harness.rerun(page):
            page.keyboard.press("ArrowRight")
    assert "routing_token=6" in page.url
    with harness.rerun(page):
        page.go_back()
    assert "routing_token=3" in page.url
    field = page.locator(".st-key-routing_token input")
    field.focus()
    for _ in range(3):
        with harness.rerun(page):
            field.press("ArrowUp")
    assert "routing_token=6" in page.url
    for token in ("routing_token=3", ""):
        with harness.rerun(page):
            page.go_back()
        assert token in page.url
    assert "routing_token" not in page.url
