"""How the pages open a large trace: python -m benchmarks.large_trace

A trace of 10,000 documents and 2 million tokens at the geometry of the 1B/14B models (made by
`benchmarks.trace_size`, routing as random as it gets) is the only run. Every page is opened twice
in a process of its own, whose first opening imports what the page needs; then in one that has
imported what a server imports in its first seconds (emo_viz/server/warm.py), but has read nothing;
and then all of them in one process. A line is a page: wall and CPU seconds of the first opening,
wall of the second, peak memory of the process, KiB sent to the browser, and what the page says is
missing.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
BAR_SECONDS, BAR_MIB = 3.0, 1000
VIEWS = {"Document_clusters": ({}, {"cluster_level": "Documents"})}
SECONDS = 600
Address = tuple[str, dict[str, str]]


@click.command()
@click.option("--documents", default=10_000, show_default=True)
@click.option("--tokens", default=200, show_default=True, help="Of a document.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the trace here, or find it.")
@click.option("--only", default="", help="Pages whose name holds this.")
@click.option("--opened", hidden=True, default="")
@click.option("--warmed", hidden=True, is_flag=True)
def main(
    documents: int, tokens: int, folder: Path | None, only: str, opened: str, warmed: bool
) -> None:
    """Print seconds and peak memory of every page."""
    if opened:
        _open_all([(page, params) for page, params in json.loads(opened)], warmed)
        return
    with tempfile.TemporaryDirectory() as place:
        assets = folder or Path(place) / "assets"
        _write(assets / "traces" / "large", documents, tokens)
        environment = os.environ | {"EMO_VIZ_ASSETS": str(assets), "EMO_VIZ_HOME": f"{place}/home"}
        found = [each for each in addresses() if only.lower() in _name(*each).lower()]
        print(f"{'page':<36} {'first':>7} {'CPU':>7} {'again':>7}  {'MiB':>5} {'KiB':>6}")
        for each in found:
            _run([each], environment)
        print("each in a process that has imported what a server imports as it starts")
        for each in found:
            _run([each], environment, "--warmed")
        print("all in one process")
        _run(found, environment)


def addresses() -> list[Address]:
    """Every page of the app, with each of the views that differ in what they read."""
    names = ["app.py", *sorted(f"pages/{file.name}" for file in (ROOT / "pages").glob("*.py"))]
    return [(name, params) for name in names for params in VIEWS.get(_short(name), ({},))]


def _short(page: str) -> str:
    return Path(page).stem.partition("_")[2]


def _name(page: str, params: dict[str, str]) -> str:
    return " ".join([_short(page).replace("_", " ") or "Home", *params.values()])


def _write(folder: Path, documents: int, tokens: int) -> None:
    if (folder / "manifest.json").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = [f"--folder={folder}", f"--documents={documents}", f"--tokens={tokens}"]
    command = [sys.executable, "-m", "benchmarks.trace_size", "--stage=write", *made]
    subprocess.run(command, check=True, cwd=ROOT)


def _run(pages: Sequence[Address], environment: dict[str, str], *options: str) -> None:
    command = [sys.executable, "-m", "benchmarks.large_trace", "--opened", json.dumps(pages)]
    subprocess.run([*command, *options], check=True, cwd=ROOT, env=environment)


def _open_all(pages: Sequence[Address], warmed: bool) -> None:
    import logging

    logging.disable(logging.WARNING)  # Streamlit's, of running outside of its server
    from streamlit.testing.v1 import AppTest

    AppTest.from_string("").run()  # a server has Streamlit itself imported
    if warmed:
        _import_as_a_server()
    for page, params in pages:
        _measure(_name(page, params), page, params)


def _import_as_a_server() -> None:
    from emo_viz.server import imports, warm

    for name in (*warm.FOR_PAGES, *imports.FOR_MODELS, *warm.FOR_CLUSTERS):
        imports.alone(name)


def _measure(name: str, page: str, params: dict[str, str]) -> None:
    (first, used, said, sent), (again, *_) = (_seconds(page, params) for _ in range(2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    bar = "" if first <= BAR_SECONDS and peak <= BAR_MIB else "  over the bar"
    times = f"{first:6.2f}s {used:6.2f}s {again:6.2f}s"
    print(f"{name:<36} {times}  {peak:5.0f} {sent:6.0f}{bar}{said}", flush=True)


def _seconds(page: str, params: dict[str, str]) -> tuple[float, float, str, float]:
    """Wall and CPU seconds of one opening, what it lacked or met, and the KiB it sent."""
    at = _visitor(page, params)
    started, used = time.perf_counter(), time.process_time()
    at.run()
    wall, used = time.perf_counter() - started, time.process_time() - used
    if at.exception:
        raise SystemExit(f"{page}: {at.exception[0].value}")
    lacking = any("Nothing to show yet" in each.value for each in at.markdown)
    return wall, used, "  (needs more than a trace)" * lacking, _sent(at)


def _visitor(page: str, params: dict[str, str]) -> Any:
    from streamlit.testing.v1 import AppTest

    at = AppTest.from_file(ROOT / "app.py", default_timeout=SECONDS)
    if page != "app.py":
        at.switch_page(page)
    for name, value in params.items():
        at.query_params[name] = value
    return at


def _sent(at: Any) -> float:
    """KiB of the elements of a page."""
    return sum(len(each.proto.SerializeToString()) for each in _elements(at._tree)) / 1024


def _elements(block: Any) -> Any:
    for child in block.children.values():
        if hasattr(child, "children"):
            yield from _elements(child)
        elif getattr(child, "proto", None) is not None:
            yield child


if __name__ == "__main__":
    main()
