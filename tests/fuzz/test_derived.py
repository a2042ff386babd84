"""Damaged traces, curves, clusters and maps: read, or refused in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from emo_viz.__main__ import main
from tests.fuzz.playground import fuzz, playground

QUERIES = (
    "select domain, avg(mean_loss) as nats from documents group by domain",
    "select count(*) from documents where id > 'a'",
    "select * from routing",
    "copy documents to 'here.csv'",
    "select * from read_text('../outside/secret.json')",
    "install httpfs",
)


@fuzz(45)
@given(data=st.data())
def test_a_damaged_trace_opens_or_says_why(tiny_assets: Path, data: st.DataObject):
    from emo_viz.trace import Trace

    with playground() as place:
        folder = place.copy(tiny_assets / "traces" / "emo-nano")
        names = ["manifest.json"] * 4 + sorted(path.name for path in folder.iterdir())
        place.damage(data, folder / data.draw(st.sampled_from(names)))
        trace = place.read(lambda: Trace.open(folder))
        if trace is not None:
            query = data.draw(st.sampled_from(QUERIES))
            place.read(lambda: trace.query(query))
            place.read(lambda: trace.tokens(0))


@fuzz(25)
@given(data=st.data())
def test_damaged_curves_and_clusters_are_reported_or_say_why(
    tiny_assets: Path, data: st.DataObject
):
    with playground() as place:
        folder = place.copy(tiny_assets / "analysis")
        names = ("curves.json", "curves.parquet", "clusters-emo-nano.npz")
        place.damage(data, folder / data.draw(st.sampled_from(names)))
        clusters = (folder / f"clusters-{name}.npz" for name in ("emo-nano", "std-nano"))
        place.run(main, "findings", "--curves", folder / "curves.parquet", "--clusters", *clusters)


@fuzz(35)
@given(data=st.data())
def test_a_damaged_derived_file_is_read_or_says_why(tiny_assets: Path, data: st.DataObject):
    with playground() as place:
        folder = place.copy(tiny_assets / "analysis")
        name = data.draw(st.sampled_from(sorted(READERS)))
        place.damage(data, folder / name)
        place.read(lambda: READERS[name](folder / name))


def _maps(path: Path) -> Any:
    from emo_viz.analysis.projection import load_maps

    return load_maps(path)


def _token_map(path: Path) -> Any:
    from emo_viz.analysis.token_map import load_token_map

    return load_token_map(path)


def _clusters(path: Path) -> Any:
    from emo_viz.analysis.tokens import load_token_clusters

    return load_token_clusters(path)


def _curves(path: Path) -> Any:
    from emo_viz.analysis.curves import ROUTER_PROBABILITY, Measured, read_curves

    measured = Measured.of(read_curves(path.with_suffix(".parquet")).rows)
    return [measured.increase(key.model, ROUTER_PROBABILITY, 8) for key in measured.cells.keys]


READERS: dict[str, Callable[[Path], Any]] = {
    "maps.npz": _maps,
    "token_map.npz": _token_map,
    "clusters-emo-nano.npz": _clusters,
    "curves.parquet": _curves,
    "curves.json": _curves,
}
