"""Subset ablation: its first screen, and a slider that needs no server while it is dragged."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import harness
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

ADDRESS = "/Subset_ablation?k=8"
SEEN = (
    ".lines .current",
    ".chart svg",
    ".track",
    ".play",
    ".cut table",
    ".writing .pane",
    ".strip",
)

UNDERLINED = """(all) => all.map((one) =>
  [one.title, getComputedStyle(one).textDecorationLine === "underline"])"""


@pytest.fixture
def opened(app_server: harness.Server, browser_page: Page) -> Page:
    harness.visit(browser_page, app_server.url + ADDRESS)
    expect(browser_page.locator(".written").first).not_to_be_empty()
    return browser_page


def test_all_that_matters_is_seen_without_scrolling(opened: Page):
    for what in SEEN:
        expect(opened.locator(what)).not_to_have_count(0)
        for each in opened.locator(what).all():
            expect(each).to_be_in_viewport(ratio=1)
    expect(opened.get_by_text("Subset and checkpoint")).to_be_in_viewport(ratio=1)
    expect(opened.locator(".prompt q")).to_have_attribute("dir", "ltr")
    step = opened.get_by_role("button", name="Next document").bounding_box()
    curve = opened.get_by_role("radiogroup", name="Curve of").bounding_box()
    assert step is not None and curve is not None
    assert 0 < curve["x"] - step["x"] - step["width"] < 20  # no room left over: all are in one row


def test_the_answer_is_a_heading_that_follows_the_slider(opened: Page):
    heading = opened.get_by_role("heading", level=2).filter(has_text="All documents:")
    expect(heading).to_have_count(1)  # those of other places of the slider are not there
    expect(heading).to_contain_text("8 of 16 experts")
    with harness.rerun(opened):
        opened.locator(".track").press("Home")
    expect(heading).to_contain_text("4 of 16 experts")


def test_answer_chart_and_slider_are_on_one_screen_900_pixels_wide(
    app_server: harness.Server, browser: Browser
):
    with harness.new_page(browser, 900) as page:
        harness.visit(page, app_server.url + ADDRESS)
        for what in (".lines .current", ".chart svg", ".track", ".play"):
            expect(page.locator(what).first).to_be_in_viewport(ratio=1)
        for head in page.locator(".writing .head").all():  # in one line
            name, said = (head.locator(part).bounding_box() for part in (".run", ".state"))
            assert name is not None and said is not None and said["x"] > name["x"]
            assert said["y"] < name["y"] + name["height"]


def test_the_slider_is_as_wide_as_the_plot_and_aligned_with_it(opened: Page):
    labels = opened.locator(".track .label").all_inner_texts()
    assert labels == ["4", "8", "16"]
    notches = [middle(each) for each in opened.locator(".notch").all()]
    points = [middle(each) for each in opened.locator(".chart circle").all()][:3]
    assert notches == pytest.approx(points, abs=1)
    gaps = [after - before for before, after in zip(notches, notches[1:], strict=False)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1)  # logarithmic


def middle(place: Locator) -> float:
    box = place.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2


@contextmanager
def held(page: Page) -> Iterator[float]:
    """The pointer holds the slider at its notch; gives the height at which it does."""
    box = page.locator(".track").bounding_box()
    assert box is not None
    y = box["y"] + 14
    page.mouse.move(middle(page.locator(".notch").nth(1)), y)
    page.mouse.down()
    yield y


def test_a_drag_repaints_everything_and_sends_nothing_until_it_ends(opened: Page):
    sent: list[int] = []
    socket = harness.socket_of(opened)
    lines, tokens = opened.locator(".lines .current"), opened.locator(".tokens .token")
    fixed = [opened.locator(name).first for name in (".track", ".play", ".strip")]
    places = [each.bounding_box() for each in fixed]
    before = (lines.inner_text(), colours(tokens), opened.locator(".numbers").all_inner_texts())
    facts = opened.locator(".cut tbody").inner_text()
    with held(opened) as y:
        socket.on("framesent", lambda frame: sent.append(len(frame)))
        opened.mouse.move(middle(opened.locator(".notch").first) + 6, y, steps=4)
        opened.evaluate(harness.TWO_FRAMES)
        after = (lines.inner_text(), colours(tokens), opened.locator(".numbers").all_inner_texts())
        assert not sent
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert "with 4 of 16 experts" in after[0] and facts != opened.locator(".cut tbody").inner_text()
    assert [each.bounding_box() for each in fixed] == places  # nothing has moved
    with harness.rerun(opened):
        opened.mouse.up()
    assert "k=4" in opened.url and sent
    state = opened.locator(".writing .state > .current").first
    expect(state).to_have_text(re.compile(r"^writes with 4 experts: \d+ of 40 tokens unlikely$"))
    expect(opened.locator(".written").first.locator(".parting")).to_have_count(1)
    found = opened.locator(".written span[title]").evaluate_all(UNDERLINED)
    assert len({line for _, line in found}) == 2
    assert all(line == (float(title.split()[0]) >= 5) for title, line in found)


def colours(tokens: Locator) -> list[str]:
    found: list[str] = tokens.evaluate_all("(all) => all.map((t) => t.style.cssText)")
    return found


def test_arrow_keys_walk_the_notches_and_are_told_in_words(opened: Page):
    slider = opened.get_by_role("slider", name="Experts kept a layer (keep-k)")
    slider.focus()
    with harness.rerun(opened):
        slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuenow", "16")
    assert "16 of 16 experts: EMO loses 0.000" in str(slider.get_attribute("aria-valuetext"))
    assert "k=" not in opened.url  # as without a choice
    with harness.rerun(opened):
        slider.press("Home")
    expect(slider).to_have_attribute("aria-valuenow", "4")
    places = [each.bounding_box() for each in opened.locator(".strip").all()]
    slider.press("Shift+ArrowRight")
    expect(opened.locator(".numbers > .current").first).to_have_text("computing …")
    assert [each.bounding_box() for each in opened.locator(".strip").all()] == places
    opened.wait_for_url("**k=5**")
    harness.settle(opened)
    expect(opened.locator(".lines .current")).to_contain_text("5 of 16 experts")
    with harness.rerun(opened):
        opened.go_back()
    expect(slider).to_have_attribute("aria-valuenow", "4")


def test_play_goes_from_all_experts_to_the_fewest(opened: Page):
    opened.get_by_role("button", name="Play from all experts to 4").click()
    expect(opened.locator(".lines .current")).to_contain_text("16 of 16 experts")
    expect(opened.locator(".lines .current")).to_contain_text("with 4 of 16 experts")
    expect(opened.get_by_role("button", name="Play from all experts to 4")).to_be_visible()
    opened.wait_for_url("**k=4**")
    harness.settle(opened)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_holds_it_all(app_server: harness.Server, browser: Browser, scheme: str):
    with harness.new_page(browser, width=900, scheme=scheme) as page:
        harness.visit(page, app_server.url + ADDRESS)
        for what in (".lines", ".cut", ".strip", ".written"):
            for each in page.locator(what).all():
                box = each.bounding_box()
                assert box is not None and box["x"] + box["width"] <= 900, what
        slider = page.locator(".track").bounding_box()
        assert slider is not None and slider["y"] + slider["height"] <= 900
