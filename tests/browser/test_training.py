"""The Training page with the bundled runs: its curves, and the checkpoints that play."""

import axe
import harness
import pytest
from playwright.sync_api import Browser, Page, expect

# The middle of all points of a map, and how far they lie from it, from its pixels.
SPREAD = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const xs = [];
  for (let i = 3; i < data.length; i += 4) if (data[i] > 100) xs.push(((i - 3) / 4) % canvas.width);
  const middle = xs.reduce((a, b) => a + b, 0) / xs.length;
  return Math.sqrt(xs.reduce((a, x) => a + (x - middle) ** 2, 0) / xs.length) / canvas.width;
}"""


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (900, "dark")])
def test_the_first_screen_says_where_both_runs_are_and_draws_their_losses(
    bundled: harness.Server, browser: Browser, width: int, scheme: str
):
    with harness.new_page(browser, width, scheme=scheme) as page:
        harness.visit(page, f"{bundled.url}/Training")
        said = page.get_by_text("Standard MoE ended at step 17,500")
        box, chart = (
            said.bounding_box(),
            page.locator(".stPlotlyChart .main-svg").first.bounding_box(),
        )
        assert box is not None and box["y"] < 500
        assert chart is not None and chart["y"] + 300 < 900  # the losses are on the first screen
        traces = page.locator(".stPlotlyChart .xy .scatterlayer .trace")
        expect(traces).to_have_count(6)


def test_checkpoints_play_in_the_browser_from_a_knot_to_a_map(
    bundled: harness.Server, browser_page: Page
):
    page = browser_page
    harness.visit(page, f"{bundled.url}/Training?training_view=Checkpoints")
    canvas, slider = page.locator(".history canvas").first, page.locator(".history input")
    expect(page.get_by_text("nats a token; ").first).to_be_visible()
    spread, last = canvas.evaluate(SPREAD), slider.input_value()
    slider.fill("0")
    expect(page.locator(".history output")).to_have_text("Step 100")
    assert canvas.evaluate(SPREAD) < spread
    page.get_by_role("button", name="Play").click()
    expect(slider).to_have_value(last)
    expect(page.get_by_role("button", name="Play")).to_be_visible()  # it ends by itself
    canvas.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".history .readout")).to_contain_text(" · ")


@pytest.mark.parametrize(
    ("view", "width", "scheme"),
    [
        ("Curves", 1440, "light"),
        ("Curves", 900, "dark"),
        ("Expert load", 1440, "light"),
        ("Checkpoints", 1440, "light"),
    ],
)
def test_axe_finds_nothing_serious_in_a_view(
    bundled: harness.Server, browser: Browser, axe_core: None, view: str, width: int, scheme: str
):
    with harness.new_page(browser, width, scheme=scheme) as page:
        harness.visit(page, f"{bundled.url}/Training?training_view={view.replace(' ', '+')}")
        found = axe.violations(page)
    assert not found, "\n".join(found)
