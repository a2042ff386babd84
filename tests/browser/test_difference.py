"""The page Routing difference in a real browser: clicks on the text, the map and the table."""

import harness
from playwright.sync_api import Browser, Page, expect

STRIP = ".st-key-difference_strip .token"
ADDRESS = "Routing_difference"


def test_a_token_is_chosen_in_the_text_and_in_the_map(
    app_server: harness.Server, browser_page: Page
):
    harness.visit(browser_page, f"{app_server.url}/{ADDRESS}")
    with harness.rerun(browser_page):
        browser_page.locator(STRIP).nth(6).click()
    harness.wait_for_text(browser_page, "Token 7 of")
    assert "difference_token=7" in browser_page.url
    picture = browser_page.locator(".st-key-difference_map .heatmap")
    picture.scroll_into_view_if_needed()
    # Where the 20th token is drawn in the second layer, from the picture itself.
    x, y = picture.evaluate(
        """(root) => {
          const { at, view } = root.map, one = at.panels[0], box = root.getBoundingClientRect();
          return [box.x + one.x + 0.75 * one.w,
                  box.y + one.y + ((19.5 - view.top) / (view.bottom - view.top)) * one.h];
        }"""
    )
    browser_page.mouse.move(x, y)
    expect(picture.locator(".tip")).to_contain_text("Token 20 of")
    expect(picture.locator(".tip")).to_contain_text("layer 1: share of experts that differ ")
    with harness.rerun(browser_page):
        browser_page.mouse.click(x, y)
    harness.wait_for_text(browser_page, "Token 20 of")


def test_a_row_of_the_table_opens_its_token_here_and_its_link_on_the_routing_page(
    app_server: harness.Server, browser_page: Page
):
    harness.visit(browser_page, f"{app_server.url}/{ADDRESS}?difference_domain=harbour")
    table = browser_page.locator(".st-key-difference_tokens")
    table.scroll_into_view_if_needed()
    box = table.locator("canvas").first.bounding_box()
    assert box is not None
    with harness.rerun(browser_page):  # the box that chooses the first row
        browser_page.mouse.click(box["x"] + 14, box["y"] + 52)
    assert "difference_token=" in browser_page.url
    token = browser_page.url.split("difference_token=")[1].split("&")[0]
    harness.wait_for_text(browser_page, f"Token {token} of")
    with browser_page.context.expect_page() as opened:
        browser_page.mouse.click(*first_link(browser_page))
    page = opened.value
    page.wait_for_url(f"**/Token_routing?*routing_token={token}*")
    harness.wait_for_text(page, f"Token {token} of")


def test_a_copied_link_shows_the_same_on_a_fresh_server(
    app_server: harness.Server, browser: Browser, tiny_assets
):
    link = (
        f"/{ADDRESS}?difference_of=EMO+in+float32+and+bfloat16&difference_experts=Matched+by+use"
        "&difference_document=heldout-court-1&difference_token=9"
    )
    said = []
    for server in (app_server, None):
        with harness.new_page(browser) as page:
            if server is None:
                with harness.serve(tiny_assets) as fresh:
                    harness.visit(page, fresh.url + link)
                    said.append(read(page))
            else:
                harness.visit(page, server.url + link)
                said.append(read(page))
    assert said[0] == said[1] and "bfloat16" in said[0][0]


def read(page: Page) -> tuple[str, str]:
    harness.wait_for_text(page, "Token 9 of")
    expect(page.get_by_role("heading", level=2)).to_have_count(1)
    return (
        page.get_by_role("heading", level=2).inner_text(),
        page.get_by_text("Loss of this token").inner_text(),
    )


def first_link(page: Page) -> tuple[float, float]:
    """Where the link of the table's first row is: the pointer becomes a hand there."""
    canvas = page.locator(".st-key-difference_tokens canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"], box["y"] + 52
    for _ in range(30):
        x -= 5
        page.mouse.move(x, y)
        page.evaluate(harness.TWO_FRAMES)
        if canvas.evaluate("(canvas) => getComputedStyle(canvas).cursor") == "pointer":
            return x, y
    raise AssertionError("no link in the first row")
