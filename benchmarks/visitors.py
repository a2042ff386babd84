"""Fifty visitors at once: python -m benchmarks.visitors [--against CHECKOUT]

Each visitor is one connection of Streamlit's own websocket protocol: it opens three pages in an
order of its own, moves the slider of each that has one, and thinks for half a second to two between
(drawn by a seed, so every server gets the same visitors). The server is a process of its own.
Printed: page runs, wall seconds, runs a second, CPU seconds of the server and of the visitors a
run, p50 and p95 of a page and of a slider move, KiB sent to a visitor, errors, the server's peak
memory. `--against` runs the same visitors on another checkout first, in turn on this machine, and
prints the ratios.
"""

import asyncio
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.Slider_pb2 import Slider
from streamlit.proto.WidgetStates_pb2 import WidgetState

ROOT = Path(__file__).parents[1]
PAGES = ("", "Token_routing", "Subset_ablation")
MOVES = 3  # of a page's slider
THINKING = (0.5, 2.0)  # seconds
SECONDS = 600.0  # that a run may take
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Found:
    """What the visitors of one server met: seconds of each page run and of each slider move."""

    pages: list[float] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sent: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    own: float = 0.0  # of this process, which is all visitors
    peak: float = 0.0

    @property
    def runs(self) -> int:
        return len(self.pages) + len(self.moves)


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--visitors", default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--against", type=FOLDER, help="Another checkout, for the ratio.")
@click.option("--warm/--cold", default=True, help="One visitor walks through all pages before.")
def main(visitors: int, seed: int, against: Path | None, warm: bool) -> None:
    """Print what the visitors waited for, and what it took."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(7)[1]))
    found = {}
    for place in filter(None, (against, ROOT)):
        print(f"{place.resolve().name} (load of the machine {os.getloadavg()[0]:.1f})", flush=True)
        found[place] = _measure(place, visitors, seed, warm)
        _report(found[place])
    if against:
        _compare(found[against], found[ROOT])


def _measure(checkout: Path, visitors: int, seed: int, warm: bool) -> Found:
    with tempfile.TemporaryDirectory() as home:
        process, port = _serve(checkout, home)
        try:
            found = asyncio.run(_all_visit(port, process.pid, visitors, seed, warm))
            found.peak = _peak(process.pid)
        finally:
            process.terminate()
            process.wait()
    return found


def _serve(checkout: Path, home: str) -> tuple[subprocess.Popen[bytes], int]:
    port = 20_000 + os.getpid() % 20_000
    options = [f"--server.port={port}", "--server.headless=true", "--server.fileWatcherType=none"]
    script = "serve.py" if (checkout / "serve.py").exists() else "app.py"
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", script, *options],
        cwd=checkout,
        env=os.environ
        | {
            "EMO_VIZ_HOME": home,
            "PYTHONPATH": str(checkout.resolve()),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=60).close()
            return process, port
        time.sleep(0.1)
    raise click.ClickException(f"The app of {checkout} did not start.")


async def _all_visit(port: int, server: int, visitors: int, seed: int, warm: bool) -> Found:
    if warm:
        await Visitor(port, random.Random(seed), Found()).visit()
    found, started, used = Found(), time.perf_counter(), cpu_seconds(server)
    own = time.process_time()
    each = [Visitor(port, random.Random(seed * 1000 + n), found).visit() for n in range(visitors)]
    await asyncio.gather(*each)
    found.wall, found.cpu = time.perf_counter() - started, cpu_seconds(server) - used
    found.own = time.process_time() - own
    return found


class Visitor:
    """One connection that walks through the pages."""

    def __init__(self, port: int, draw: random.Random, found: "Found") -> None:
        self._url = f"ws://127.0.0.1:{port}/_stcore/stream"
        self._draw, self._found = draw, found
        self._socket: Any = None
        self._sliders: dict[str, tuple[Any, str]] = {}
        self._hashes: dict[str, str] = {}
        self._page, self._query = "", ""

    async def visit(self) -> None:
        """Three pages in an order of the visitor's own; whatever fails is noted."""
        pages = self._draw.sample(PAGES, len(PAGES))
        try:
            await self._think()
            async with self._connection() as self._socket:
                for page in pages:
                    await self._open(page)
                    await self._think()
                    for _ in range(MOVES if self._sliders else 0):
                        await self._move()
                        await self._think()
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            self._found.errors.append(f"{type(error).__name__}: {error}")

    async def follow(self, page: str, queries: Sequence[str]) -> list[float]:
        """Seconds of a page's run for each of these queries, each as a visit of its own."""
        seconds = []
        for self._query in queries:
            async with self._connection() as self._socket:
                self._page, self._hashes = page, {}
                seconds.append(await self._run())
        return seconds

    def _connection(self) -> Any:
        protocols = [websockets.Subprotocol("streamlit")]
        return websockets.connect(self._url, subprotocols=protocols, max_size=None)

    async def _think(self) -> None:
        await asyncio.sleep(self._draw.uniform(*THINKING))

    async def _open(self, page: str) -> None:
        self._page, self._sliders = page, {}
        self._found.pages.append(await self._run())

    async def _move(self) -> None:
        """The page's first slider to a place drawn at random, let go there."""
        slider, fragment = next(iter(self._sliders.values()))
        state, place = WidgetState(id=slider.id), WidgetState(id=slider.id)
        if isinstance(slider, Slider):
            step = slider.step or 1
            steps = self._draw.randrange(round((slider.max - slider.min) / step) + 1)
            state.double_array_value.data.append(slider.min + step * steps)
        else:  # the component of the cut's page: its place comes as an event
            keep = self._draw.choice(json.loads(slider.bytes or slider.json)["stops"])["keep"]
            state.id = f"$$STREAMLIT_INTERNAL_KEY_{slider.id}__events"
            event = [{"event": "moved", "value": {"keep": keep, "moves": len(self._found.moves)}}]
            state.json_trigger_value = json.dumps(event)
            place.json_value = "{}"
        both = [place, state] if place.json_value else [state]
        self._found.moves.append(await self._run(fragment, *both))

    async def _run(self, fragment: str = "", *moved: WidgetState) -> float:
        """Ask for a run and wait for its end: seconds."""
        message = BackMsg()
        run = message.rerun_script
        run.query_string, run.fragment_id = self._query, fragment
        run.page_script_hash = self._hashes.get(self._page, "")
        run.page_name = "" if run.page_script_hash else self._page
        run.widget_states.widgets.extend(moved)
        started = time.perf_counter()
        await self._socket.send(message.SerializeToString())
        while not self._take(await asyncio.wait_for(self._socket.recv(), SECONDS)):
            pass
        return time.perf_counter() - started

    def _take(self, raw: bytes) -> bool:
        """Note what a message says; True for the end of a run."""
        self._found.sent += len(raw)
        message = ForwardMsg.FromString(raw)
        kind = message.WhichOneof("type")
        if kind == "new_session":
            pages = message.new_session.app_pages
            self._hashes = {
                "" if each.is_default else each.url_pathname: each.page_script_hash
                for each in pages
            }
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            self._note(message.delta.new_element, message.delta.fragment_id)
        elif kind == "script_finished":
            return bool(message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN)
        return False

    def _note(self, element: Any, fragment: str) -> None:
        kind = element.WhichOneof("type")
        if kind == "slider":
            self._sliders[element.slider.id] = element.slider, fragment
        elif kind == "bidi_component" and "slider" in element.bidi_component.component_name:
            self._sliders[element.bidi_component.id] = element.bidi_component, fragment
        elif kind == "exception":
            self._found.errors.append(f"{self._page}: {element.exception.message}")


def cpu_seconds(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _peak(pid: int) -> float:
    """MiB of memory that a process held at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _report(found: Found) -> None:
    print(
        f"  {found.runs} page runs in {found.wall:.1f} s: {found.runs / found.wall:.2f} a second, "
        f"{found.cpu / max(1, found.runs):.3f} CPU seconds each "
        f"(and {found.own / max(1, found.runs):.3f} of the visitors), "
        f"{found.sent / 1024 / max(1, found.runs):,.0f} KiB each"
    )
    for name, seconds in (("page", found.pages), ("slider move", found.moves)):
        if seconds:
            p50, p95 = _quantiles(seconds)
            print(f"  {name:<12} {len(seconds):>4}   p50 {p50:6.2f} s   p95 {p95:6.2f} s")
    print(f"  peak memory {found.peak:.0f} MiB, {len(found.errors)} errors", flush=True)
    for error in dict.fromkeys(found.errors):
        print(f"    {error}")


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    rising = sorted(seconds)
    return statistics.median(rising), rising[math.ceil(0.95 * len(rising)) - 1]


def _compare(before: Found, now: Found) -> None:
    rate = (now.runs / now.wall) / (before.runs / before.wall)
    work = (before.cpu / before.runs) / (now.cpu / now.runs)
    print(f"{rate:.1f} times the throughput; a page run takes 1/{work:.1f} of the CPU time")


if __name__ == "__main__":
    main()
