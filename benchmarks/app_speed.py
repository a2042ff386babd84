"""How fast the app is to a person: python -m benchmarks.app_speed [PORTION ...]

Drives Chromium against a fresh server with the bundled pair: the first visit, every page by the
side bar, a click on a token, the slider while it is dragged, the bytes of the clusters page, a text
of one's own of 255 tokens. Each line has its bar (issue 13: an idle machine, a fresh browser) and
the machine's load. What is sent is counted on the websocket, as it came (gzip is not counted).
"""

import asyncio
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import click
import pandas as pd

from benchmarks.visitors import Found, Visitor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import harness  # noqa: E402
from playwright.sync_api import Browser, Locator, Page  # noqa: E402

SIDEBAR_LINKS = '[data-testid="stSidebar"] [data-testid="stPageLink-NavLink"]'
OWN_TOKENS = 255
DRAG_STEPS = 40
ROUNDS = 3  # through all pages
FRAMES = """() => { window.frames_ = []; let last = performance.now(); window.watching_ = true;
  const step = (now) => { window.frames_.push(now - last); last = now;
    if (window.watching_) requestAnimationFrame(step); };
  requestAnimationFrame(step); }"""
FRAMES_SEEN = "() => { window.watching_ = false; return window.frames_.slice(1); }"


@dataclass(frozen=True)
class Line:
    """One measurement beside its bar; both in `unit`."""

    what: str
    value: float
    bar: float
    unit: str

    def __str__(self) -> str:
        said = "" if self.value <= self.bar else "  over the bar"
        return f"{self.what:<58} {self.value:9.2f} {self.unit:<4} bar {self.bar:g}{said}"


class Traffic:
    """Bytes that came over the websockets of a page."""

    def __init__(self, page: Page) -> None:
        self.bytes = 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, payload: bytes | str) -> None:
        self.bytes += len(payload)

    @contextmanager
    def counted(self) -> Iterator[Callable[[], float]]:
        """KiB that came since; ask once it is over."""
        before = self.bytes
        yield lambda: (self.bytes - before) / 1024


def first_visit(browser: Browser, url: str) -> Iterator[Line]:
    """The home page of a server that nobody has visited, in a fresh browser."""
    with harness.new_page(browser) as page:
        started = time.perf_counter()
        page.goto(url)
        page.wait_for_selector('[data-testid="stMain"] :is(h2, h3, h4)')
        answered = time.perf_counter() - started
        harness.settle(page)
        yield Line("first visit: the answer", answered, 4, "s")
        yield Line("first visit: settled", time.perf_counter() - started, 6, "s")


def page_switches(browser: Browser, url: str) -> Iterator[Line]:
    """From page to page by the side bar, each page opened once before."""
    with harness.new_page(browser) as page:
        traffic = Traffic(page)
        harness.visit(page, url)
        found = page.locator(SIDEBAR_LINKS).all_inner_texts()
        names = [text.splitlines()[-1] for text in found]  # an icon's name comes before
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(1 + ROUNDS):
            for place, name in enumerate(names):
                with traffic.counted() as kib:
                    taken = _switch(page, place)
                if turn:
                    seconds[name].append(taken)
                if turn == ROUNDS:
                    print(
                        f"  {name:<40} {statistics.median(seconds[name]):6.2f} s {kib():7.0f} KiB"
                    )
    rising = sorted(value for each in seconds.values() for value in each)
    yield Line("page switch settled, p50 of all pages", statistics.median(rising), 1, "s")
    yield Line("page switch settled, p95", rising[math.ceil(0.95 * len(rising)) - 1], 1, "s")


def _switch(page: Page, place: int) -> float:
    started = time.perf_counter()
    with harness.rerun(page):
        page.locator(SIDEBAR_LINKS).nth(place).click()
    return time.perf_counter() - started


def token_click(browser: Browser, url: str) -> Iterator[Line]:
    """A token of the shown document is picked; until its panel is there."""
    with harness.new_page(browser) as page:
        traffic = Traffic(page)
        harness.visit(page, f"{url}/Token_routing")
        taken, sent = [], []
        for place in (5, 9, 14, 20, 27):
            token = page.locator(".token").nth(place)
            with traffic.counted() as kib:
                started = time.perf_counter()
                with harness.rerun(page):
                    token.click()
                taken.append(time.perf_counter() - started)
            sent.append(kib())
    yield Line("click on a token to its panel, median of 5", statistics.median(taken), 0.3, "s")
    yield Line("click on a token: sent, largest of 5", max(sent), 40, "KiB")


def slider_drag(browser: Browser, url: str, address: str) -> Iterator[Line]:
    """The page's slider is dragged from end to end: the slowest frame, and what the server sent."""
    with harness.new_page(browser) as page:
        traffic = Traffic(page)
        harness.visit(page, f"{url}/{address}")
        slider = page.locator('[data-testid="stMain"] :is([role=slider], input[type=range])').first
        with traffic.counted() as kib:
            frames = _dragged(page, slider)
            sent = kib()
        harness.settle(page)
    rising = sorted(frames) or [math.inf]
    name = address.replace("_", " ") or "Home"
    late = rising[math.ceil(0.95 * len(rising)) - 1]
    yield Line(f"{name}: slider dragged, p95 of {len(rising)} frames", late, 50, "ms")
    yield Line(f"{name}: sent while it is dragged", sent, 1, "KiB")


def _dragged(page: Page, slider: Locator) -> list[float]:
    """Milliseconds of the frames while the mouse drags along the slider's whole length."""
    slider.scroll_into_view_if_needed()
    track = slider.bounding_box() or {"x": 0, "y": 0, "width": 0, "height": 0}
    middle = track["y"] + track["height"] / 2
    page.mouse.move(track["x"] + track["width"] / 2, middle)
    page.mouse.down()
    page.evaluate(FRAMES)
    reach = track["width"] if track["width"] > 60 else 300
    for step in range(DRAG_STEPS):
        share = math.sin(2 * math.pi * step / DRAG_STEPS) / 2
        page.mouse.move(track["x"] + track["width"] / 2 + share * reach, middle)
    frames: list[float] = page.evaluate(FRAMES_SEEN)
    page.mouse.up()
    return frames


def clusters_bytes(browser: Browser, url: str) -> Iterator[Line]:
    """All that the first visit of the clusters page sends."""
    with harness.new_page(browser) as page:
        traffic = Traffic(page)
        harness.visit(page, f"{url}/Document_clusters")
        yield Line("clusters page: sent", traffic.bytes / 2**20, 1, "MiB")


def own_text(browser: Browser, url: str) -> Iterator[Line]:
    """Texts of 255 tokens that nobody has asked for, the models in memory: a run of the page."""
    from emo_viz.ui.shell import routes

    queries = [urlencode(routes.routing_of_text(text)) for text in _texts(OWN_TOKENS)]
    visitor = Visitor(int(url.rpartition(":")[2]), random.Random(0), Found())
    with ThreadPoolExecutor(1) as apart:  # Playwright has a loop of its own in this thread
        asked = apart.submit(lambda: asyncio.run(visitor.follow("Token_routing", queries)))
    seconds = asked.result()[1:]
    yield Line("own text of 255 tokens, median of 5", statistics.median(seconds), 0.5, "s")


def _texts(tokens: int) -> list[str]:
    """Six texts of so many tokens, made of two documents each."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ROOT / "assets/checkpoints/emo-nano/tokenizer.json"))
    documents = pd.read_parquet(ROOT / "assets/documents/documents.parquet")["text"]
    found = []
    for place in range(0, 600, 100):
        ids = tokenizer.encode(documents[place] + documents[place + 1]).ids
        found.append(str(tokenizer.decode(ids[:tokens])))
    return found


PORTIONS: dict[str, Callable[[Browser, str], Iterator[Line]]] = {
    "first": first_visit,
    "switch": page_switches,
    "token": token_click,
    "home": lambda browser, url: slider_drag(browser, url, ""),
    "cut": lambda browser, url: slider_drag(browser, url, "Subset_ablation"),
    "clusters": clusters_bytes,
    "own": own_text,
}


@click.command()
@click.argument("portions", nargs=-1, type=click.Choice(list(PORTIONS)))
def main(portions: tuple[str, ...]) -> None:
    """Print every measurement beside its bar."""
    with harness.serve(None) as server, harness.launch() as browser:
        for name in portions or PORTIONS:
            print(f"{name} (load {os.getloadavg()[0]:.1f})", flush=True)
            for line in PORTIONS[name](browser, server.url):
                print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
