"""Home at 1440 x 900: the document, both heatmaps, the slider and its sentence, without scrolling;
and the slider repaints them in the browser, without the server."""

import re

import harness
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

PARTS = (
    ".says",
    "input[type=range]",
    ".run canvas >> nth=0",
    ".run canvas >> nth=1",
    ".text >> nth=1",
)
HERE = re.compile("here")
# The pixels of a canvas, as one text that changes with any of them.
PIXELS = "(canvas) => canvas.toDataURL()"


BLANK = """all => all.map((one) => !one.getContext("2d").getImageData(0, 0, one.width, one.height)
  .data.some((value) => value))"""
# The clock of what moves stands still.
FROZEN = """const ask = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (draw) => ask(() => draw(0));"""


def open_home(page: Page, server: harness.Server) -> Locator:
    harness.visit(page, server.url)
    expect(page.locator(".first .run canvas")).to_have_count(2)
    return page.locator(".first")


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (900, "dark")])
def test_it_lies_within_the_first_screen(
    bundled: harness.Server, browser: Browser, width: int, scheme: str
):
    with harness.new_page(browser, width, scheme=scheme) as page:
        first = open_home(page, bundled)
        stories = page.locator(".st-key-stories a:visible")
        for part in (*map(first.locator, PARTS), *stories.all()):
            expect(part).to_be_in_viewport(ratio=1)
        if width < 961:
            expect(first.locator(".map")).not_to_be_visible()
            return
        expect(stories).to_have_count(4)
        expect(first.locator(".map")).to_be_in_viewport(ratio=1)
        blank = first.locator(".map canvas").evaluate_all(BLANK)
        assert blank == [False, False]
        with harness.rerun(page):
            page.get_by_role("button", name="Take the tour").click()
        expect(first.locator(".legend")).to_be_in_viewport(ratio=1)
        first.locator(".map").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Document clusters")
        assert page.url.endswith("/Document_clusters?cluster_domain=recipes")
        assert page.evaluate("window.emoVizRevealed.size") == 1  # the page was not loaded anew


def test_rows_appear_one_after_another_until_somebody_acts(
    app_server: harness.Server, browser: Browser
):
    with harness.new_page(browser) as page:
        page.emulate_media(reduced_motion="no-preference")
        page.add_init_script(FROZEN)
        first = open_home(page, app_server)
        later, tokens = first.locator(".later"), first.locator(".text span")
        expect(later).to_have_count(tokens.count())
        page.keyboard.press("Shift")
        expect(later).to_have_count(0)
        page.get_by_test_id("stSidebar").get_by_role("link", name="Library").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Library")
        harness.settle(page)
        page.get_by_test_id("stSidebar").get_by_role("link", name="Overview").click()
        expect(tokens.first).to_be_visible()
        page.evaluate(harness.TWO_FRAMES)
        expect(later).to_have_count(0)  # once a visit


def test_the_slider_repaints_without_the_server(app_server: harness.Server, browser_page: Page):
    first = open_home(browser_page, app_server)
    sent: list[object] = []
    browser_page.on("request", lambda request: sent.append(request))
    # The choice is told once the hand has come to rest; the picture waits for no answer.
    browser_page.evaluate("() => { WebSocket.prototype.send = () => {}; }")
    canvas, says, slider = (
        first.locator(".run canvas").first,
        first.locator(".says"),
        first.locator("input"),
    )
    before, words, height = canvas.evaluate(PIXELS), says.inner_text(), says.bounding_box()
    slider.focus()
    browser_page.keyboard.press("Home")
    expect(says).to_contain_text("With 4 of 16 experts")
    browser_page.evaluate(harness.TWO_FRAMES)
    assert canvas.evaluate(PIXELS) != before and says.inner_text() != words
    assert says.bounding_box() == height  # nothing below it has moved
    browser_page.keyboard.press("End")
    expect(says).to_contain_text("All 16 experts")
    assert not sent
    # Where one heading wraps and the other does not, the pictures stand level all the same.
    names, tall = first.locator("h3 .name"), "(name) => name.offsetHeight"
    line = names.last.evaluate(tall)
    names.first.evaluate("(name) => { name.textContent = 'a '.repeat(99) }")
    assert names.first.evaluate(tall) > line == names.last.evaluate(tall)
    assert len(set(first.locator(".run canvas").evaluate_all(TOPS))) == 1


TOPS = "all => all.map((one) => one.getBoundingClientRect().y)"


def test_nothing_moves_with_the_slider_on_a_narrow_page(
    app_server: harness.Server, browser: Browser
):
    with harness.new_page(browser, 900) as page:
        first = open_home(page, app_server)
        slider = first.locator("input")
        slider.focus()
        tops = set()
        for key in ("Home", *["ArrowRight"] * 9):
            page.keyboard.press(key)
            page.evaluate(harness.TWO_FRAMES)
            expect(first.locator(".run canvas")).to_have_count(2)
            # In one look: between two the page may have drawn the picture anew.
            tops |= set(first.locator(".run canvas").evaluate_all(TOPS))
        expect(first.locator(".says")).to_contain_text("All 16 experts")
        assert len(tops) == 1


@pytest.mark.parametrize("document", ["", "?home_document=heldout-garden-0"])
def test_the_slider_keeps_the_keyboard_and_a_walk_by_arrow_keys_is_one_step(
    app_server: harness.Server, browser_page: Page, document: str
):
    harness.visit(browser_page, app_server.url + document)
    first = browser_page.locator(".first")
    first.locator("input").focus()
    for key, kept in (("Home", 4), ("ArrowRight", 5), ("ArrowRight", 6)):
        with harness.rerun(browser_page):
            browser_page.keyboard.press(key)
        expect(first.locator(".says")).to_contain_text(f"With {kept} of 16 experts")
    with harness.rerun(browser_page):
        browser_page.go_back()
    expect(first.locator(".says")).to_contain_text("With 4 of 16 experts")


def test_notch_layer_and_token_stand_in_the_address(
    app_server: harness.Server, browser: Browser, browser_page: Page
):
    first = open_home(browser_page, app_server)
    assert "home" not in browser_page.url
    first.locator("input").focus()
    with harness.rerun(browser_page):
        browser_page.keyboard.press("Home")
    with harness.rerun(browser_page):
        first.get_by_role("radio", name="Layer 0").click()
    with harness.rerun(browser_page):
        first.locator(".text").first.locator("span").nth(5).click()
    assert browser_page.url.endswith("?home_k=4&home_layer=0&home_token=6")
    with harness.new_page(browser) as other:
        harness.visit(other, browser_page.url)
        expect(other.locator(".says")).to_contain_text("With 4 of 16 experts")
        expect(other.get_by_role("radio", name="Layer 0")).to_have_attribute("aria-checked", "true")
        for text in other.locator(".first .text").all():
            expect(text.locator("span").nth(5)).to_have_class(HERE)
    browser_page.mouse.move(1, 1)  # what is pointed at is marked too
    with harness.rerun(browser_page):
        browser_page.go_back()
    expect(first.locator(".here")).to_have_count(0)


def test_pointing_at_a_token_marks_it_in_both_models(
    app_server: harness.Server, browser_page: Page
):
    first = open_home(browser_page, app_server)
    stories = browser_page.locator(".st-key-stories")
    before = stories.bounding_box()
    first.locator(".text").first.locator("span").nth(5).hover()
    for text in first.locator(".text").all():
        expect(text.locator("span").nth(5)).to_have_class(HERE)
    expect(first.locator(".readout .name")).to_have_text(["EMO", "Standard MoE"])
    expect(first.locator(".readout")).to_contain_text("Token 6 of")
    expect(first.locator(".legend")).to_contain_text("magenta worse")
    assert stories.bounding_box() == before  # nothing below has moved
    first.locator(".says").evaluate(harness.COUNT_WRITTEN)
    first.get_by_role("application").nth(1).focus()
    browser_page.keyboard.press("ArrowDown")
    read_out = first.get_by_role("status")
    expect(read_out.and_(first.locator(".below > *"))).to_contain_text("Token 7 of")
    browser_page.get_by_role("button", name="Copy link").focus()  # wherever the focus is
    browser_page.keyboard.press("Escape")
    expect(first.locator(".below")).to_contain_text("From above")
    assert browser_page.evaluate("window.written") == 0  # what is written anew is spoken


def test_layers_are_chosen_by_the_arrow_keys(app_server: harness.Server, browser_page: Page):
    first = open_home(browser_page, app_server)
    canvas = first.locator(".run canvas").first
    before = canvas.evaluate(PIXELS)
    first.get_by_role("radio", name="Layer 1").focus()
    browser_page.keyboard.press("ArrowLeft")
    expect(first.get_by_role("radio", name="Layer 0")).to_have_attribute("aria-checked", "true")
    browser_page.evaluate(harness.TWO_FRAMES)
    assert canvas.evaluate(PIXELS) != before
    assert "layer 0" in (canvas.get_attribute("aria-label") or "")


def turned(page: Page, number: int) -> str:
    """The address of a step, once its page is there."""
    harness.wait_for_text(page, f"Tour, {number} of 5")
    harness.settle(page)
    return page.url


def test_the_tour_is_turned_by_keys_and_each_step_is_one_of_the_history(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    open_home(page, app_server)
    page.get_by_role("button", name="Take the tour").click()
    seen = [turned(page, 1)]
    for number in range(2, 6):
        page.keyboard.press("Shift+ArrowRight")
        seen.append(turned(page, number))
    pages = [address.partition("?")[0].rpartition("/")[2] for address in seen]
    assert pages == ["", "Token_routing", "Document_clusters", "Subset_ablation", "Library"]
    documents = [
        address.partition("_doc")[2].partition("=")[2].partition("&")[0] for address in seen
    ]
    assert documents[1] == documents[3] != ""
    for number in range(4, 0, -1):
        with harness.rerun(page):
            page.go_back()
        assert turned(page, number) == seen[number - 1]
        expect(page.get_by_text("which this view does not use")).to_have_count(0)
    page.keyboard.press("Shift+ArrowRight")
    turned(page, 2)
    page.keyboard.press("Shift+ArrowLeft")
    turned(page, 1)
    with harness.rerun(page):
        page.keyboard.press("Escape")
    expect(page.get_by_text("Tour, 1 of 5")).to_have_count(0)
    assert "tour" not in page.url
