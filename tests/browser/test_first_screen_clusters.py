"""The clusters page on its first screen, without scrolling, and what a visit to it weighs."""

from pathlib import Path

import harness
import pytest
from playwright.sync_api import Browser, Page, expect

MOST_BYTES = 1_000_000


def frames(page: Page) -> list[bytes]:
    """What the page's websocket has received; it fills up."""
    received: list[bytes] = []

    def keep(frame: bytes) -> None:
        received.append(frame)

    page.on("websocket", lambda socket: socket.on("framereceived", keep))
    return received


TOUCHING = """(labels) => labels.flatMap((one, i) => labels.slice(i + 1).filter((other) => {
  const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
  return one.parentNode === other.parentNode && a.left < b.right && b.left < a.right
    && a.top < b.bottom && b.top < a.bottom;
}).map((other) => `${one.textContent} and ${other.textContent}`))"""

SCRIPT = Path(harness.ROOT, "emo_viz/ui/parts/point_maps_labels.js").read_text(encoding="utf-8")
# Labels over another one's line, looked for along each line in steps of a pixel.
STRUCK = f"""(plots) => {{
  {SCRIPT}
  const c = document.createElement("canvas").getContext("2d");
  const inside = ({{ left, top, wide, high }}, x, y) =>
    x > left && x < left + wide && y > top && y < top + high;
  return plots.flatMap((plot, at) => {{
    const host = plot.getRootNode().querySelector(".maps").emoVizHost;
    const {{ laid }} = layLabels(c, host, host.panels[at], plot.clientWidth, plot.clientHeight);
    return laid.flatMap((one) => laid.filter((box) => {{
      const steps = Math.ceil(one.away), [x, y] = one.from;
      const [dx, dy] = [one.to[0] - x, one.to[1] - y];
      return one !== box && one.away > FAR_APART && [...Array(steps).keys()].some(
        (step) => inside(box, x + dx * step / steps, y + dy * step / steps));
    }}).map((box) => `${{one.text}} under ${{box.text}}`));
  }});
}}"""


@pytest.mark.parametrize(
    ("query", "labels"), [("?cluster_token_colour=Cluster", 64), ("?cluster_level=Documents", 48)]
)
def test_headline_tabs_maps_and_legend_are_on_the_first_screen(
    bundled: harness.Server, browser_page: Page, query: str, labels: int
):
    page = browser_page
    harness.visit(page, f"{bundled.url}/Document_clusters{query}")
    expect(page.locator(".label").first).to_be_visible()
    assert harness.is_within(page.get_by_role("heading", level=2).first)
    assert harness.is_within(page.get_by_role("tab").first)
    assert harness.is_within(page.get_by_role("button", name="Read", exact=True))
    for part in (".plot", ".legend"):
        shown = page.locator(part).all()
        assert shown and all(map(harness.is_within, shown))
    assert page.locator(".plot").count() == 2
    assert page.locator(".label").count() == labels, "every cluster and every domain has a name"
    assert page.locator(".label").evaluate_all(TOUCHING) == []
    assert page.locator(".plot").evaluate_all(STRUCK) == []
    opens = page.get_by_role("button", name="Show all 32 groups").first
    assert opens.is_visible() == (labels == 64), "a legend that goes on says so"
    if labels == 64:
        opens.click()
        expect(page.locator(".legend").first.get_by_text("31: ")).to_be_in_viewport()


def test_a_visit_weighs_less_than_a_megabyte(bundled: harness.Server, browser: Browser):
    received = []
    with harness.new_page(browser) as page:
        page.on(
            "websocket", lambda one: one.on("framereceived", lambda data: received.append(data))
        )
        harness.visit(page, f"{bundled.url}/Document_clusters")
        expect(page.locator(".label").first).to_be_visible()
    assert 0 < sum(map(len, received)) < MOST_BYTES


def test_a_gesture_does_not_send_the_maps_again(bundled: harness.Server, browser_page: Page):
    page, received = browser_page, frames(browser_page)
    harness.visit(page, f"{bundled.url}/Document_clusters")
    expect(page.locator(".legend button").first).to_be_visible()
    received.clear()
    with harness.rerun(page):
        page.locator(".legend button").first.click()
    assert sum(map(len, received)) < 120_000
