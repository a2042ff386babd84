"""The first line of every page: a copied link, a step back and forth, large type, a folded bar."""

import json
import re

import harness
import pytest
from playwright.sync_api import Browser, Page, expect

# A machine so busy that the visitor acts before the frame has seen the page at rest.
NEVER_AT_REST = """const wait = window.setTimeout, ask = Document.prototype.querySelector;
let acted = false;
window.addEventListener("pointerdown", () => { acted = true; }, true);
window.setTimeout = (act, ms, ...rest) => wait(act, ms === 600 ? 6000 : ms, ...rest);
Document.prototype.querySelector = function (what) {
  return !acted && what.endsWith(":is(h2, h3, h4)") ? null : ask.call(this, what);
};"""


def button(page: Page, name: str):
    return page.get_by_test_id("stMain").get_by_role("toolbar").get_by_role("button", name=name)


def cut_one_more(page: Page) -> None:
    slider = page.get_by_role("slider").first
    slider.focus()
    with harness.rerun(page):
        slider.press("Shift+ArrowRight")
    page.get_by_role("heading", level=1).click()  # the focus is on the page again


def test_undo_and_redo_walk_through_the_visitors_own_choices(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    harness.visit(page, f"{app_server.url}/Subset_ablation?k=8")
    expect(button(page, "Redo")).to_be_disabled()
    cut_one_more(page)
    cut_one_more(page)
    assert "k=10" in page.url
    with harness.rerun(page):
        button(page, "Undo").click()
    assert "k=9" in page.url
    with harness.rerun(page):
        page.keyboard.press("Control+z")
    assert "k=8" in page.url
    with harness.rerun(page):
        page.keyboard.press("Control+Shift+z")
    assert "k=9" in page.url
    with harness.rerun(page):
        button(page, "Redo").click()
    assert "k=10" in page.url
    expect(button(page, "Redo")).to_be_disabled()
    harness.visit(page, page.url.replace("k=10", "k=9"))
    expect(button(page, "Undo")).to_be_disabled()  # what was chosen before the link is no step


def test_undo_does_not_leave_the_page(app_server: harness.Server, browser_page: Page):
    page = browser_page
    harness.visit(page, f"{app_server.url}/Kernel")
    with harness.rerun(page):
        page.get_by_test_id("stSidebar").get_by_role("link", name="Subset ablation").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Subset ablation")
    expect(button(page, "Undo")).to_be_disabled()
    # Nor does an opened session, whose page is one step.
    before = page.url
    harness.open_popover(page, page.get_by_role("button", name="Save", exact=True))
    addresses = {"Token routing": {"routing_layer": ["0"]}}
    text = json.dumps({"emo_viz_session": 1, "page": "Token routing", "addresses": addresses})
    session = {"name": "a.json", "mimeType": "application/json", "buffer": text.encode()}
    page.locator("input[type=file]").set_input_files([session])
    expect(page.get_by_role("heading", level=1)).to_contain_text("Token routing")
    harness.settle(page)
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Subset ablation")
    harness.settle(page)
    assert page.url == before
    expect(button(page, "Redo")).to_be_disabled()  # it would leave the page


def test_copy_link_copies_the_address_as_it_stands(app_server: harness.Server, browser_page: Page):
    page = browser_page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    harness.visit(page, f"{app_server.url}/Subset_ablation?k=8")
    cut_one_more(page)
    button(page, "Copy link").click()
    harness.wait_for_text(page, "The link is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert "k=9" in page.url


def test_presenting_is_large_without_the_side_bar_and_stays_from_page_to_page(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    harness.visit(page, f"{app_server.url}/Subset_ablation")
    title, side_bar = page.get_by_role("heading", level=1), page.get_by_test_id("stSidebar")
    size = "(node) => parseFloat(getComputedStyle(node).fontSize)"
    before = title.evaluate(size)
    title.click()
    with harness.rerun(page):
        page.keyboard.press("p")
    assert "present=1" in page.url
    expect(side_bar).not_to_be_visible()
    assert title.evaluate(size) >= 1.2 * before
    main = page.get_by_test_id("stMain")
    expect(main).to_be_focused()  # it was clicked, and a key was pressed
    assert main.evaluate("(main) => getComputedStyle(main, '::before').boxShadow") == "none"
    page.reload()
    harness.settle(page)
    expect(side_bar).not_to_be_visible()
    expect(button(page, "Undo")).to_be_enabled()
    with harness.rerun(page):
        button(page, "End presentation").click()
    assert "present" not in page.url
    expect(side_bar).to_be_visible()


def test_what_the_browser_draws_itself_is_presented_in_large_type_too(
    app_server: harness.Server, browser_page: Page
):
    page, root = browser_page, ".st-key-routing_map .heatmap"
    heads = []  # pixels above a picture, where its name stands
    for query in ("", "?present=1"):
        harness.visit(page, f"{app_server.url}/Token_routing{query}")
        picture = page.locator(root)
        expect(picture).to_have_attribute("data-rows", re.compile(r"\d"))
        heads.append(picture.evaluate("(root) => root.map.at.panels[0].y"))
    assert heads[1] >= 1.2 * heads[0]


def test_the_letter_p_in_a_field_is_a_letter(app_server: harness.Server, browser_page: Page):
    page = browser_page
    harness.visit(page, f"{app_server.url}/Token_routing?routing_source=Your+own+text")
    area = page.get_by_role("textbox", name="Text for the models")
    area.press_sequentially("pp")
    expect(area).to_have_value("pp")
    assert "present" not in page.url


@pytest.mark.parametrize(("width", "open_bar"), [(900, False), (1440, True)])
def test_the_side_bar_is_folded_on_a_narrow_window(
    app_server: harness.Server, browser: Browser, width: int, open_bar: bool
):
    with harness.new_page(browser, width) as page:
        harness.visit(page, f"{app_server.url}/Kernel")
        link = page.get_by_test_id("stSidebar").get_by_role("link", name="Library")
        expect(link).to_be_in_viewport() if open_bar else expect(link).not_to_be_in_viewport()
        title = page.get_by_role("heading", level=1)
        expect(title).to_be_in_viewport()
        # Nothing of Streamlit's own lies over the buttons, and the frame is one line.
        button(page, "Copy link").click(trial=True)
        box = title.bounding_box()
        assert box is not None and box["y"] + box["height"] < 80
        the_side_bar_goes_by_the_width_until_the_visitor_turns_it(page, open_bar)


def the_side_bar_goes_by_the_width_until_the_visitor_turns_it(page: Page, is_open: bool) -> None:
    link = page.get_by_test_id("stSidebar").get_by_role("link", name="Library")

    def turned(width: int) -> None:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"window.innerWidth === {width}")

    def seen(in_sight: bool) -> None:
        expect(link).to_be_in_viewport() if in_sight else expect(link).not_to_be_in_viewport()

    for width in (900, 1440) if is_open else (1440, 900):
        turned(width)
        seen(width == 1440)
    if is_open:
        page.get_by_test_id("stSidebarHeader").hover()
        page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
    else:
        page.get_by_test_id("stExpandSidebarButton").click()
    seen(not is_open)
    for width in (1440, 900) if not is_open else (900, 1440):
        turned(width)
        page.evaluate(harness.TWO_FRAMES)
        seen(not is_open)


BAR_COMES_LATER = """
  const find = document.querySelector.bind(document);
  let missed = false;
  document.querySelector = (what) => {
    if (missed || !what.includes("stSidebarCollapseButton")) return find(what);
    missed = true;
    setTimeout(() => document.body.append(document.createElement("i")));  // as when it is drawn
    return null;
  };
"""


def test_a_side_bar_that_is_drawn_later_is_folded_too(app_server: harness.Server, browser: Browser):
    with harness.new_page(browser, 900) as page:
        page.add_init_script(BAR_COMES_LATER)
        harness.visit(page, f"{app_server.url}/Kernel")
        link = page.get_by_test_id("stSidebar").get_by_role("link", name="Library")
        expect(link).not_to_be_in_viewport()


@pytest.mark.parametrize("rested", [True, False])
def test_a_new_headline_is_read_out(app_server: harness.Server, browser_page: Page, rested: bool):
    page = browser_page
    if not rested:
        page.add_init_script(NEVER_AT_REST)
    harness.visit(page, f"{app_server.url}/Token_routing")
    expect(button(page, "Copy link")).to_be_visible()
    heard = page.locator(".st-key-frame .heard")
    expect(heard).to_have_text("")
    with harness.rerun(page):
        page.locator(".st-key-routing_next button").first.click()
    expect(heard).to_have_text(
        page.locator("[data-testid=stMain] :is(h2, h3, h4)").first.inner_text()
    )


def test_what_a_page_writes_before_its_buttons_stand_is_nothing_to_undo(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    page.add_init_script("history.pushState(null, '', location.href)")
    harness.visit(page, f"{app_server.url}/Token_routing")
    expect(button(page, "Undo")).to_be_disabled()
    with harness.rerun(page):
        page.locator(".st-key-routing_strip .token").nth(3).click()
    expect(button(page, "Undo")).to_be_enabled()
