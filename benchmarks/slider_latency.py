"""How long a move of the keep-k slider takes in the server: python -m benchmarks.slider_latency

Runs the page itself (AppTest, no browser), moves the slider to random keep-ks that it has not
shown before, and prints the 50th and 95th percentile in milliseconds of
- live losses: choosing both subsets and running both cut models on the document;
- page: one whole run of the script, figure and coloured tokens included. The page writes the
  continuations last, after everything else is on the screen; their time is given apart.
Reads the assets folder (EMO_VIZ_ASSETS).
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import click
import numpy as np
from streamlit.testing.v1 import AppTest

from emo_viz.server import assets
from emo_viz.ui.ablation import page, view

PAGE = "pages/3_Subset_ablation.py"


@click.command()
@click.option("--moves", default=30, show_default=True, help="Slider moves to measure.")
@click.option("--domain", default=None, help="Domain to look at; all of them without it.")
@click.option("--seed", default=0, show_default=True)
def main(moves: int, domain: str | None, seed: int) -> None:
    """Measure the latency of the keep-k slider."""
    taken: dict[str, list[float]] = defaultdict(list)
    timed(page, "compute_live", taken["live losses"])
    timed(view, "continuations", taken["continuations"])
    at = AppTest.from_file(str(assets.APP_FOLDER / "app.py"), default_timeout=120)
    at.switch_page(PAGE)
    if domain is not None:
        at.query_params["subset_domain"] = domain
    at.run()
    slider = at.slider(key="k")
    others = [k for k in range(int(slider.min), int(slider.max)) if k != slider.value]
    for times in taken.values():
        times.clear()
    for keep_k in random.Random(seed).sample(others, min(moves, len(others))):
        at.slider(key="k").set_value(keep_k)
        started = time.perf_counter()
        at.run()
        taken["whole run"].append(time.perf_counter() - started)
        assert not at.exception, at.exception
    taken["page"] = [
        whole - rest for whole, rest in zip(taken["whole run"], taken["continuations"], strict=True)
    ]
    for name in ("live losses", "page", "continuations"):
        middle, high = np.percentile(np.array(taken[name]) * 1000, [50, 95])
        click.echo(
            f"{name:>14}: p50 {middle:6.0f} ms, p95 {high:6.0f} ms, {len(taken[name])} moves"
        )


def timed(module: Any, name: str, times: list[float]) -> None:
    """Replace a function of a module by one that notes how long each call takes."""
    function: Callable[..., Any] = getattr(module, name)

    def wrapper(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            times.append(time.perf_counter() - started)

    setattr(module, name, wrapper)


if __name__ == "__main__":
    main()
