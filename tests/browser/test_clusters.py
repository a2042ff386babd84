"""The maps of the clusters page: click, lasso, legend, keys, and the steps back."""

import re

import harness
from playwright.sync_api import Browser, Locator, Page, expect

NOTHING = "Click a point, draw around several"
OF_NO_POINTER = """document.addEventListener("click", (event) =>
  Object.defineProperty(event, "pointerType", { value: undefined }), true)"""
# How solid the palest point of a group is painted on the first map, 0 to 255.
PALEST = """(plot, name) => {
  const { panels } = plot.getRootNode().querySelector(".maps").emoVizHost;
  const { spots, group, groups, base } = panels[0], scale = devicePixelRatio;
  return Math.min(...[...group.keys()].filter((row) => groups[group[row]].name === name)
    .map((row) => base.getContext("2d").getImageData(
      Math.round(scale * spots[2 * row]), Math.round(scale * spots[2 * row + 1]), 1, 1).data[3]));
}"""
CORNERS = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.05)]


def open_clusters(page: Page, server: harness.Server, query: str = "") -> Locator:
    """The page, and the plot of the first map."""
    harness.visit(page, f"{server.url}/Document_clusters{query}")
    return page.locator(".plot").first


def spot(plot: Locator, row: int) -> tuple[float, float]:
    """Where a map draws the point of a row."""
    x, y = plot.evaluate(
        """(plot, row) => {
          const panel = plot.getRootNode().querySelector(".maps").emoVizHost.panels[0];
          const box = plot.getBoundingClientRect();
          return [box.x + plot.clientLeft + panel.spots[2 * row],
                  box.y + plot.clientTop + panel.spots[2 * row + 1]];
        }""",
        row,
    )
    return x, y


def draw_around_everything(page: Page, plot: Locator) -> None:
    """A lasso around all points of a map."""
    area = plot.bounding_box()
    assert area is not None
    left, top, width, height = (area[side] for side in ("x", "y", "width", "height"))
    page.mouse.move(left + 0.02 * width, top + 0.02 * height)
    page.mouse.down()
    for across, down in CORNERS:
        page.mouse.move(left + across * width, top + down * height, steps=6)
    with harness.rerun(page):
        page.mouse.up()


def test_a_lasso_selects_and_one_step_back_undoes_it(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    plot = open_clusters(page, app_server)
    steps = page.evaluate("history.length")
    draw_around_everything(page, plot)
    expect(page.get_by_text("120 tokens selected:")).to_be_visible()
    assert page.evaluate("history.length") == steps + 1
    with harness.rerun(page):
        page.go_back()
    harness.wait_for_text(page, NOTHING)
    assert "cluster_tokens" not in page.url
    with harness.rerun(page):
        page.go_forward()
    expect(page.get_by_text("120 tokens selected:")).to_be_visible()
    tap_and_draw_with_a_finger(page, plot)


def tap_and_draw_with_a_finger(page: Page, plot: Locator) -> None:
    """A tap chooses; a finger draws once it is asked to. As in older Safari, the click does not say
    of what it is."""
    page.evaluate(OF_NO_POINTER)
    hand = page.context.new_cdp_session(page)
    hand.send("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y} for x, y in places]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    with harness.rerun(page):
        touch("touchStart", spot(plot, 7))
        touch("touchEnd")
    expect(page.get_by_text("1 token selected:")).to_be_visible()
    page.get_by_role("button", name="Draw around points with a finger").first.click()
    area = plot.bounding_box()
    assert area is not None
    left, top, width, height = (area[side] for side in ("x", "y", "width", "height"))
    around = [(left + across * width, top + down * height) for across, down in CORNERS]
    touch("touchStart", around[0])
    for place in around[1:]:
        touch("touchMove", place)
    with harness.rerun(page):
        touch("touchEnd")
    expect(page.get_by_text("120 tokens selected:")).to_be_visible()


def test_a_click_selects_one_and_it_is_read_in_its_document(
    app_server: harness.Server, browser_page: Page, browser: Browser
):
    page = browser_page
    plot = open_clusters(page, app_server)
    place = plot.bounding_box()
    with harness.rerun(page):
        page.mouse.click(*spot(plot, 7))
    expect(page.get_by_text("1 token selected:")).to_be_visible()
    assert plot.bounding_box() == place  # nothing moves
    with harness.rerun(page):
        page.get_by_role("button", name="Read", exact=True).click()
    token = page.get_by_role("dialog").locator('.token[aria-selected="true"]')
    expect(token).to_have_count(2)
    assert re.search(r"cluster_document=[^&]+&cluster_token=\d+", page.url)
    with harness.new_page(browser) as other:
        harness.visit(other, page.url)
        expect(other.get_by_role("dialog").locator('.token[aria-selected="true"]')).to_have_count(2)


def test_a_name_in_the_legend_selects_its_group(app_server: harness.Server, browser_page: Page):
    page = browser_page
    open_clusters(page, app_server, "?cluster_level=Documents")
    with harness.rerun(page):
        page.locator(".legend button").filter(has_text="harbour").click()
    expect(page.get_by_text("6 documents selected: 100 % harbour")).to_be_visible()


def test_escape_clears_wherever_the_focus_is(app_server: harness.Server, browser_page: Page):
    page = browser_page
    plot = open_clusters(page, app_server)
    places = (
        lambda: plot.focus(),
        lambda: page.get_by_role("slider").first.focus(),
        lambda: page.get_by_role("tab").first.focus(),
        lambda: page.locator(".legend button").first.focus(),
        lambda: page.get_by_test_id("stDataFrame").click(position={"x": 80, "y": 60}),
    )
    for place in places:
        with harness.rerun(page):
            page.locator(".legend button").first.click()
        expect(page.get_by_text("30 tokens selected:")).to_be_visible()
        place()
        harness.settle(page)
        if page.get_by_role("dialog").count():  # a row of the table opens its document
            with harness.rerun(page):
                page.keyboard.press("Escape")
            expect(page.get_by_role("dialog")).to_have_count(0)
        with harness.rerun(page):
            page.keyboard.press("Escape")
        harness.wait_for_text(page, NOTHING)
        expect(page.get_by_text("No tokens selected", exact=True)).to_be_attached()


def test_a_point_is_found_and_selected_with_the_keyboard(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    plot = open_clusters(page, app_server)
    plot.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tip").first).to_be_visible()
    expect(page.locator(".maps .heard")).to_contain_text("Cluster")
    with harness.rerun(page):
        page.keyboard.press("Enter")
    expect(page.get_by_text("1 token selected:")).to_be_visible()
    expect(page.get_by_text("1 token selected", exact=True)).to_be_attached()


def test_an_arrow_key_turns_the_document_that_is_read_and_no_other(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    query = "?cluster_level=Documents&cluster_document=heldout-garden-0"
    open_clusters(page, app_server, query)
    with harness.rerun(page):
        page.get_by_role("dialog").get_by_text("largest of").first.click()
        page.keyboard.press("ArrowRight")
    assert "cluster_document=heldout-kitchen-0" in page.url
    with harness.rerun(page):
        page.keyboard.press("Escape")
    assert "cluster_document" not in page.url
    page.keyboard.press("ArrowRight")
    page.evaluate(harness.TWO_FRAMES)
    harness.settle(page)
    assert "cluster_document" not in page.url


def test_one_step_back_leaves_the_drawer_whatever_was_read_in_it(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    open_clusters(page, app_server, "?cluster_level=Documents")
    with harness.rerun(page):
        page.locator(".legend button").filter(has_text="harbour").click()
    before = page.url
    with harness.rerun(page):
        page.get_by_role("button", name="Read", exact=True).click()
    steps, drawer = page.evaluate("history.length"), page.get_by_role("dialog")
    drawer.get_by_text("largest of").first.click()
    read = set[str]()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        with harness.rerun(page):
            page.keyboard.press(key)
        read.add(page.url)
    with harness.rerun(page):
        drawer.locator(".token").nth(4).click()
    assert len(read) == 2 and "cluster_token=5" in page.url
    assert page.evaluate("history.length") == steps
    with harness.rerun(page):
        page.go_back()
    expect(drawer).to_have_count(0)
    assert page.url == before


def test_the_saved_image_holds_the_maps_and_their_legend(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    plot = open_clusters(page, app_server, "?cluster_domain=harbour")
    expect(page.locator(".label:not(.faded)").first).to_have_text("harbour")
    faded = page.locator(".legend .faded")
    assert faded.count() == 3 and not faded.filter(has_text="harbour").count()
    the_group_under_the_mouse_is_lit(page, plot)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the maps and their legend as an image").click()
    assert saved.value.suggested_filename == "umap-emo-nano-std-nano.png"
    with open(saved.value.path(), "rb") as file:
        head = file.read(24)
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    assert width == 2 * 2 * 560 and height > 2 * (34 + 460 + 18 + 30 + 14)


def the_group_under_the_mouse_is_lit(page: Page, plot: Locator) -> None:
    """Though another one is highlighted."""
    assert plot.evaluate(PALEST, "garden") < 128 < plot.evaluate(PALEST, "harbour")
    page.locator(".legend button").filter(has_text="garden").hover()
    page.evaluate(harness.TWO_FRAMES)
    assert plot.evaluate(PALEST, "harbour") < 128 < plot.evaluate(PALEST, "garden")
    page.mouse.move(1, 1)
    page.evaluate(harness.TWO_FRAMES)
