"""The two slots in a browser: by keyboard, from page to page, a step back, and two visitors."""

import harness
from playwright.sync_api import Browser, Page, expect


def slot(page: Page, label: str):
    return page.get_by_test_id("stSidebar").get_by_role("combobox", name=label)


def expect_runs(page: Page, a: str, b: str) -> None:
    expect(slot(page, "Run A")).to_have_value(a)
    expect(slot(page, "Run B, beside it")).to_have_value(b)


def test_a_slot_is_changed_by_keyboard_and_stays_from_page_to_page(
    app_server: harness.Server, browser_page: Page
):
    page = browser_page
    harness.visit(page, app_server.url)
    expect_runs(page, "EMO", "Standard MoE")
    with harness.rerun(page):
        slot(page, "Run B, beside it").focus()
        page.keyboard.type("None")
        page.keyboard.press("Enter")
    assert "b=none" in page.url
    link = page.get_by_test_id("stSidebar").get_by_role("link", name="Library")
    assert "b=none" in (link.get_attribute("href") or "")  # a new tab has it too
    with harness.rerun(page):
        link.click()
    expect_runs(page, "EMO", "None")
    assert page.url.endswith("/Library?b=none")
    page.reload()
    harness.settle(page)
    expect_runs(page, "EMO", "None")


def test_a_step_back_is_the_run_before(app_server: harness.Server, browser_page: Page):
    page = browser_page
    harness.visit(page, f"{app_server.url}/Library")
    with harness.rerun(page):
        slot(page, "Run A").focus()
        page.keyboard.type("Standard")
        page.keyboard.press("Enter")
    expect_runs(page, "Standard MoE", "EMO")
    with harness.rerun(page):
        page.go_back()
    expect_runs(page, "EMO", "Standard MoE")
    with harness.rerun(page):
        page.go_forward()
    expect_runs(page, "Standard MoE", "EMO")


def test_two_visitors_have_slots_of_their_own(app_server: harness.Server, browser: Browser):
    with harness.new_page(browser) as one, harness.new_page(browser) as other:
        harness.visit(one, f"{app_server.url}/?a=std-nano&b=none")
        harness.visit(other, app_server.url)
        expect_runs(one, "Standard MoE", "None")
        expect_runs(other, "EMO", "Standard MoE")
        one.reload()
        harness.settle(one)
        expect_runs(one, "Standard MoE", "None")
        expect_runs(other, "EMO", "Standard MoE")
        expect(one.get_by_test_id("stMain")).not_to_contain_text("in EMO")
        expect(other.get_by_test_id("stMain")).to_contain_text("in EMO")


def test_a_visitor_finds_nothing_of_another_before_or_beside(
    app_server: harness.Server, browser: Browser
):
    address = app_server.url + harness.PROBES[0]
    keep = "localStorage.a = sessionStorage.a = 1; document.cookie = 'a=1'"
    kept = "[localStorage, sessionStorage].map((one) => one.a === '1')"
    kept += ".concat(document.cookie.includes('a=1'))"  # the server sets one of its own
    with harness.new_page(browser) as one:
        one.goto(address)
        one.evaluate(keep)
        one.reload()
        assert one.evaluate(kept) == [True] * 3
    with harness.new_page(browser, 900, 700, "dark") as later:
        later.goto(address)
        assert later.evaluate(kept) == [False] * 3
        assert later.evaluate("[innerWidth, innerHeight]") == [900, 700]
        assert later.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        assert later.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")
        later.evaluate(keep)
        with harness.new_page(browser) as other:
            other.goto(address)
            assert other.evaluate(kept) == [False] * 3
