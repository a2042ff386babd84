"""How fast the keep-k slider repaints while it is dragged: python -m benchmarks.slider_latency

Opens the page in Chromium, drags the slider over its whole length, and prints the 50th and 95th
percentile in milliseconds from a move of the pointer to the end of its repaint (lines, marker,
table and all coloured tokens), to the next frame, and from letting go to the server's answer. Fails
if anything was sent to the server before. Reads the assets folder (EMO_VIZ_ASSETS); needs the
browser of tests/browser.
"""

import sys
import time
from typing import Any

import click
import numpy as np

from emo_viz.server import assets

sys.path.insert(0, str(assets.APP_FOLDER / "tests" / "browser"))

MOVE = """async ([from, to]) => {
  const host = [...document.querySelectorAll("*")].find(
    (node) => node.shadowRoot?.querySelector(".track"));
  const track = host.shadowRoot.querySelector(".track");
  const box = track.getBoundingClientRect();
  const times = [];
  for (let i = 0; i <= 60; i += 1) {
    const x = box.left + box.width * (from + ((to - from) * i) / 60);
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    track.dispatchEvent(new PointerEvent("pointermove", { clientX: x, bubbles: true }));
    document.body.getBoundingClientRect();
    const painted = performance.now() - start;
    await new Promise(requestAnimationFrame);
    times.push([painted, performance.now() - start]);
  }
  return times;
}"""


@click.command()
@click.option("--drags", default=5, show_default=True, help="Drags to and fro to measure.")
def main(drags: int) -> None:
    """Measure the slider in a browser."""
    import harness  # type: ignore[import-not-found]

    with (
        harness.serve(None) as server,
        harness.launch() as browser,
        harness.new_page(browser) as page,
    ):
        harness.visit(page, f"{server.url}/Subset_ablation")
        frames, answers, sent = _measure(harness, page, drags)
    if sent:
        raise click.ClickException(f"{sent} messages were sent to the server during a drag.")
    _say("repaint", [each[0] for each in frames])
    _say("next frame", [each[1] for each in frames])
    _say("let go to answer", answers)


def _measure(harness: Any, page: Any, drags: int) -> tuple[list[list[float]], list[float], int]:
    """Times of all moves and of letting go, in milliseconds; messages sent while dragging."""
    frames, answers, sent = list[list[float]](), list[float](), list[Any]()
    box = page.locator(".track").bounding_box()
    harness.socket_of(page).on("framesent", lambda frame: sent.append(frame))
    held = 0
    for turn in range(drags):
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.1 * (turn % 2)), box["y"] + 14)
        page.mouse.down()
        before = len(sent)
        frames += page.evaluate(MOVE, [0.95, 0.1 + 0.2 * (turn % 2)])
        held += len(sent) - before
        started = time.perf_counter()
        with harness.rerun(page):
            page.mouse.up()
        answers.append(1000 * (time.perf_counter() - started))
    return frames, answers, held


def _say(what: str, times: list[float]) -> None:
    middle, high = np.percentile(np.array(times), [50, 95])
    click.echo(f"{what:>16}: p50 {middle:6.1f} ms, p95 {high:6.1f} ms, {len(times)} times")


if __name__ == "__main__":
    main()
