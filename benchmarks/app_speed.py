"""How fast the app is to a person: python -m benchmarks.app_speed [PORTION ...]

Drives Chromium against a fresh server with the bundled pair: the first visit, every page by the
side bar, clicks on a token in the text and in the heatmap, the slider while it is dragged, the
bytes of the clusters page, a text of one's own of 255 tokens. Each line has its bar (issue 13: an
idle machine, a fresh browser), the CPU seconds a time of the server and of the browser, which a
busy machine changes little, and the machine's load. What is sent is counted on the websocket, as
it came (gzip is not counted).
"""

import asyncio
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import click
import pandas as pd

from benchmarks.visitors import TICKS, Found, Visitor, cpu_seconds

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import harness  # noqa: E402
from playwright.sync_api import Browser, Locator, Page  # noqa: E402

SIDEBAR_LINKS = '[data-testid="stSidebar"] [data-testid="stPageLink-NavLink"]'
HEATMAP = ".heatmap .stage"
SLIDER = '[data-testid="stMain"] :is(.track[role=slider], .slide input[type=range])'
PLACE = """(slider) => slider.getAttribute("aria-valuenow") ?? slider.value"""
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
    """One measurement beside its bar; both in `unit`. cpu: what it took of the processors."""

    what: str
    value: float
    bar: float
    unit: str
    cpu: str = ""

    def __str__(self) -> str:
        said = "" if self.value <= self.bar else "  over the bar"
        return f"{self.what:<58} {self.value:9.2f} {self.unit:<4} bar {self.bar:g}{said}{self.cpu}"


@dataclass
class Spent:
    """What one action took: wall seconds, KiB sent, CPU seconds of the server and the browser."""

    seconds: float = 0.0
    kib: float = 0.0
    server: float = 0.0
    browser: float = 0.0


class Meter:
    """Counts what actions on a page take."""

    def __init__(self, page: Page, server: harness.Server) -> None:
        self._server, self._bytes = server.pid, 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, payload: bytes | str) -> None:
        self._bytes += len(payload)

    @contextmanager
    def counted(self) -> Iterator[Spent]:
        """Filled in once it is over."""
        spent, sent, used = Spent(), self._bytes, self._used()
        started = time.perf_counter()
        yield spent
        spent.seconds = time.perf_counter() - started
        spent.kib = (self._bytes - sent) / 1024
        spent.server, spent.browser = (b - a for a, b in zip(used, self._used(), strict=True))

    def _used(self) -> tuple[float, float]:
        return cpu_seconds(self._server), _of_browsers()


def _of_browsers() -> float:
    """CPU seconds of all processes of a browser that this one started."""
    parents, used = dict[int, int](), dict[int, float]()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            name, _, rest = status.read_text().rpartition(")")
            fields = rest.split()
            parents[int(status.parent.name)] = int(fields[1])
            if "chrom" in name or "headless" in name:
                used[int(status.parent.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    return sum(seconds for pid, seconds in used.items() if _is_below(pid, parents))


def _is_below(pid: int, parents: dict[int, int]) -> bool:
    while pid and pid != os.getpid():
        pid = parents.get(pid, 0)
    return pid != 0


def _cpu(spent: Sequence[Spent]) -> str:
    """The median CPU seconds of some actions, to stand behind their wall time."""
    server, browser = (statistics.median(each) for each in zip(*map(_both, spent), strict=True))
    return f"  (CPU: server {server:.2f} s, browser {browser:.2f} s)"


def _both(spent: Spent) -> tuple[float, float]:
    return spent.server, spent.browser


def first_visit(browser: Browser, server: harness.Server) -> Iterator[Line]:
    """The home page of a server that nobody has visited, in a fresh browser."""
    with harness.new_page(browser) as page:
        meter = Meter(page, server)
        with meter.counted() as whole:
            with meter.counted() as answer:
                page.goto(server.url)
                page.wait_for_selector('[data-testid="stMain"] :is(h2, h3, h4)')
            harness.settle(page)
        yield Line("first visit: the answer", answer.seconds, 4, "s", _cpu([answer]))
        yield Line("first visit: settled", whole.seconds, 6, "s", _cpu([whole]))


def page_switches(browser: Browser, server: harness.Server) -> Iterator[Line]:
    """From page to page by the side bar, each page opened once before."""
    with harness.new_page(browser) as page:
        meter = Meter(page, server)
        harness.visit(page, server.url)
        found = page.locator(SIDEBAR_LINKS).all_inner_texts()
        names = [text.splitlines()[-1] for text in found]  # an icon's name comes before
        spent: dict[str, list[Spent]] = {name: [] for name in names}
        for turn in range(1 + ROUNDS):
            for place, name in enumerate(names):
                with meter.counted() as once:
                    _switch(page, place)
                if turn:
                    spent[name].append(once)
    for name, each in spent.items():
        taken = statistics.median(one.seconds for one in each)
        print(f"  {name:<24} {taken:6.2f} s {each[-1].kib:6.0f} KiB{_cpu(each)}", flush=True)
    rising = sorted(one.seconds for each in spent.values() for one in each)
    cpu = _cpu([one for each in spent.values() for one in each])
    yield Line("page switch settled, p50 of all pages", statistics.median(rising), 1, "s", cpu)
    yield Line("page switch settled, p95", rising[math.ceil(0.95 * len(rising)) - 1], 1, "s")


def _switch(page: Page, place: int) -> None:
    with harness.rerun(page):
        page.locator(SIDEBAR_LINKS).nth(place).click()


def token_click(browser: Browser, server: harness.Server) -> Iterator[Line]:
    """A token of the shown document is picked, in the text or the heatmap; until its panel is
    there."""
    with harness.new_page(browser) as page:
        meter = Meter(page, server)
        harness.visit(page, f"{server.url}/Token_routing")
        tokens = [page.locator(".token").nth(place) for place in (5, 9, 14, 20, 27)]
        yield from _clicks("token", meter, page, [token.click for token in tokens])
        plot = page.locator(HEATMAP).first
        size = plot.bounding_box() or {"width": 0, "height": 0}
        places = [(0.1, 0.2), (0.2, 0.3), (0.15, 0.45), (0.3, 0.5), (0.25, 0.7)]
        cells = [
            partial(plot.click, position={"x": x * size["width"], "y": y * size["height"]})
            for x, y in places
        ]
        yield from _clicks("cell of the heatmap", meter, page, cells)


def _clicks(
    what: str, meter: Meter, page: Page, clicks: Sequence[Callable[[], None]]
) -> Iterator[Line]:
    spent = []
    for click_it in clicks:
        with meter.counted() as once, harness.rerun(page):
            click_it()
        spent.append(once)
    taken = statistics.median(one.seconds for one in spent)
    name = f"click on a {what}"
    yield Line(f"{name}, to its panel, median of {len(spent)}", taken, 0.3, "s", _cpu(spent))
    yield Line(f"{name}: sent, largest", max(one.kib for one in spent), 40, "KiB")


def slider_drag(browser: Browser, server: harness.Server, address: str) -> Iterator[Line]:
    """The page's slider is dragged from end to end: the slowest frame, and what the server sent."""
    with harness.new_page(browser) as page:
        meter = Meter(page, server)
        harness.visit(page, f"{server.url}/{address}")
        slider = page.locator(SLIDER).first
        with meter.counted() as spent:
            frames, moved = _dragged(page, slider)
        page.mouse.up()
        harness.settle(page)
    rising = sorted(frames) or [math.inf]
    name = address.replace("_", " ") or "Home"
    late = rising[math.ceil(0.95 * len(rising)) - 1]
    yield Line(f"{name}: slider dragged over {moved} places, p95 of frames", late, 50, "ms")
    yield Line(f"{name}: sent while it is dragged", spent.kib, 1, "KiB", _cpu([spent]))


def _dragged(page: Page, slider: Locator) -> tuple[list[float], int]:
    """Milliseconds of the frames while the mouse drags along the slider's whole length, its button
    still held after; and at how many places the slider stood."""
    slider.scroll_into_view_if_needed()
    track = slider.bounding_box() or {"x": 0, "y": 0, "width": 0, "height": 0}
    middle, places = track["y"] + track["height"] / 2, set()
    page.mouse.move(track["x"] + track["width"] / 2, middle)
    page.mouse.down()
    page.evaluate(FRAMES)
    for step in range(DRAG_STEPS):
        share = math.sin(2 * math.pi * step / DRAG_STEPS) / 2
        page.mouse.move(track["x"] + (0.5 + 0.98 * share) * track["width"], middle)
        places.add(slider.evaluate(PLACE))
    frames: list[float] = page.evaluate(FRAMES_SEEN)
    return frames, len(places)


def clusters_bytes(browser: Browser, server: harness.Server) -> Iterator[Line]:
    """All that the first visit of each tab of the clusters page sends."""
    for level in ("Tokens", "Documents"):
        with harness.new_page(browser) as page:
            meter = Meter(page, server)
            with meter.counted() as spent:
                harness.visit(page, f"{server.url}/Document_clusters?cluster_level={level}")
            cpu = _cpu([spent])
        yield Line(f"clusters page, {level.lower()}: sent", spent.kib / 1024, 1, "MiB", cpu)


def own_text(browser: Browser, server: harness.Server) -> Iterator[Line]:
    """Texts of 255 tokens that nobody has asked for, the models in memory: a run of the page."""
    from emo_viz.ui.shell import routes

    queries = [urlencode(routes.routing_of_text(text)) for text in _texts(OWN_TOKENS)]
    visitor = Visitor(int(server.url.rpartition(":")[2]), random.Random(0), Found())
    with ThreadPoolExecutor(1) as apart:  # Playwright has a loop of its own in this thread
        ask = lambda some: asyncio.run(visitor.follow("Token_routing", some))  # noqa: E731
        apart.submit(ask, queries[:1]).result()
        before = cpu_seconds(server.pid)
        seconds = apart.submit(ask, queries[1:]).result()
    used = (cpu_seconds(server.pid) - before) / len(seconds)
    cpu = f"  (CPU: server {used:.2f} s)"
    yield Line("own text of 255 tokens, median of 5", statistics.median(seconds), 0.5, "s", cpu)


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


PORTIONS: dict[str, Callable[[Browser, harness.Server], Iterator[Line]]] = {
    "first": first_visit,
    "switch": page_switches,
    "token": token_click,
    "home": lambda browser, server: slider_drag(browser, server, ""),
    "cut": lambda browser, server: slider_drag(browser, server, "Subset_ablation"),
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
            for line in PORTIONS[name](browser, server):
                print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
