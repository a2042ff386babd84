"""Subset ablation: single experts switched by mouse and keyboard, undone by the browser."""

import harness
import pytest
from playwright.sync_api import Browser, Page, expect

ADDRESS = "/Subset_ablation?k=8"


@pytest.fixture
def grid(app_server: harness.Server, browser_page: Page) -> Page:
    harness.visit(browser_page, app_server.url + ADDRESS)
    with harness.rerun(browser_page):
        browser_page.get_by_text("Switch single experts by hand").click()
    expect(browser_page.locator(".experts")).to_have_count(2)
    return browser_page


def test_each_switch_is_one_step_of_the_history_and_all_are_reset_at_once(grid: Page):
    pane = grid.get_by_role("application", name="Experts of EMO")
    pane.focus()
    with harness.rerun(grid):
        pane.press("Space")
    with harness.rerun(grid):
        pane.press("ArrowDown")
        pane.press("ArrowRight")
        pane.press("Enter")
    assert "subset_switched=a0" in grid.url and ".a1" in grid.url
    expect(grid.locator(".lines .current")).to_contain_text(
        "with 2 experts of EMO switched by hand"
    )
    expect(grid.locator(".switches .numbers").first).to_contain_text("→")
    with harness.rerun(grid):
        grid.go_back()
    assert "subset_switched=a0" in grid.url and ".a1" not in grid.url
    with harness.rerun(grid):
        grid.get_by_role("button", name="Reset").click()
    assert "subset_switched" not in grid.url
    expect(grid.locator(".switches .numbers").first).to_contain_text("as chosen")
    expect(pane).to_be_visible()


def test_a_click_at_the_fewest_says_why_it_does_nothing(app_server, browser_page: Page):
    harness.visit(browser_page, f"{app_server.url}/Subset_ablation?k=4&subset_switched=b1x0")
    pane = browser_page.get_by_role("application", name="Experts of EMO")
    pane.focus()
    said = browser_page.locator(".switches .said")
    for _ in range(15):
        pane.press("ArrowRight")
        if ", kept" in said.inner_text():
            break
    pane.press("Space")
    expect(said).to_contain_text("keeps the 3 routed experts that each token uses")
    assert "a0" not in browser_page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_holds_the_grid(app_server, browser: Browser, scheme: str):
    with harness.new_page(browser, width=900, scheme=scheme) as page:
        harness.visit(page, f"{app_server.url}{ADDRESS}&subset_switched=a0x0")
        for pane in page.locator(".experts").all():
            box = pane.bounding_box()
            assert box is not None and box["x"] + box["width"] <= 900
