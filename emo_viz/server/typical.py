"""The document that stands for the others: on the first screen, in the tour, in the stories, and
where Token routing is opened without saying which.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import pandas as pd

from emo_viz.analysis.curves import read_together
from emo_viz.analysis.glance import load_glances
from emo_viz.analysis.runs import Comparison
from emo_viz.runs.glance import choose
from emo_viz.server import assets, caches, library

GLANCE = "glance.npz"


def document(runs: Comparison) -> pd.Series:
    """Its row in the documents. Raises Missing where there are none."""
    documents = library.documents(runs.ids)
    chosen = _chosen(runs.ids, key(runs.ids))
    return library.row_of(documents, chosen)


def among(ids: Sequence[str], runs: Comparison) -> str:
    """The id of the document that a page shows first, of those that it offers: the first of them
    where the usual one is none."""
    with suppress(library.Missing):
        usual = str(document(runs)["id"])
        if usual in set(ids):
            return usual
    return ids[0]


def key(runs: Iterable[str]) -> str:
    """Of all that decides which document of some runs it is, and on what experts are chosen."""
    ids = tuple(runs)
    path, curves = assets.documents_path(ids), assets.curves_paths(ids)
    beside = (path.with_name("calibration.parquet"), assets.measured_path(GLANCE, ids))
    return assets.content(path, *beside, *curves, *(each.with_suffix(".json") for each in curves))


@caches.for_all(16)
def _chosen(runs: tuple[str, ...], key: str) -> str:
    documents = library.documents(runs)
    with suppress(ValueError):
        stored = load_glances(assets.measured_path(GLANCE, runs)).of(runs).text.id
        if stored in set(documents["id"]):
            return stored
    rows = None
    with suppress(ValueError):  # of no curves: the shortest will do
        rows = read_together(assets.curves_paths(runs)).of_runs(runs).rows
    return choose(documents, rows)
