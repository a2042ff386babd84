"""Clusters page: how good the clusters are, and how those of the two runs go together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.alignment import Alignment, alignment, contingency
from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.quality import Quality, quality
from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.tokens import Headline
from emo_viz.figures.clusters import confusion_heatmap
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.ui.clusters.data import Data
from emo_viz.ui.clusters.documents import Clustered, View, vectors
from emo_viz.ui.parts import export
from emo_viz.ui.parts.lazy_tabs import Tab
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell.words import count, escape_plotly, interval

SCALES = (
    "NMI: 0 to 1; ARI (adjusted Rand index): 0 by chance, 1 for the same groups. Silhouette, by "
    "cosine distance: 1 where clusters lie far apart, 0 where they touch. Stability: mean ARI of "
    "every two clusterings that differ in their seed alone."
)
Value = Interval | float | int
Row = tuple[str, dict[str, Value]]
"""A measure, and its value by run id."""


@dataclass(frozen=True)
class OfSample:
    """Clusters of the sampled tokens in one run: against the domains, by themselves, their sizes
    [K]."""

    domain: Alignment
    quality: Quality
    sizes: NDArray[np.int64]


def of_documents(data: Data, view: View, found: Mapping[str, Clustered]) -> None:
    """The quality of the documents' clusters, a column a run."""
    rows = list[Row]()
    known = data.has_domains
    with st.spinner("Measuring the clusters, again with other seeds …"):
        made = {run: _quality(data.version, run, view.k, view.layer, data, found) for run in found}
    seeds = next(iter(made.values())).seeds
    if known:
        rows += [
            _row("NMI with the domain", found, lambda one: found[one].measured.nmi),
            _row("NMI by chance", found, lambda one: found[one].measured.chance_nmi),
            _row("ARI with the domain", found, lambda one: found[one].measured.ari),
        ]
    rows += [
        _row("Silhouette", found, lambda one: made[one].silhouette),
        _row(f"Stability over {seeds} seeds", found, lambda one: made[one].stability),
        _row("Largest cluster", found, lambda one: int(found[one].clustering.sizes.max())),
        _row("Smallest cluster", found, lambda one: int(found[one].clustering.sizes.min())),
    ]
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    _table(data.runs, rows, "document clusters", f"{view.k} clusters, {data.size}, {where}")
    st.caption(
        f"{view.k} clusters of {data.size}, routing of {where}. In brackets the 95 % interval over "
        f"documents. {SCALES}"
    )


def of_tokens(runs: Comparison, said: Headline) -> None:
    """The quality of the stored clusters of all tokens, a column a run."""
    measured = said.runs
    first = measured[runs.first.id]
    size = f"{count(first.tokens, 'token')} of {count(said.documents, 'document')}"
    st.markdown(f"**{first.clusters} clusters of all {count(first.tokens, 'token')}**")
    _table(
        runs,
        [
            _row("NMI with the domain", measured, lambda one: measured[one].domain),
            _row("NMI with the domain by chance", measured, lambda o: measured[o].chance),
            _row("NMI with the token itself", measured, lambda o: measured[o].token),
        ],
        "token clusters",
        size,
    )
    st.caption(
        f"Those of the headline: {size}, routing of all layers. In brackets the 95 % interval over "
        "documents."
    )


def of_sample(runs: Comparison, made: Mapping[str, OfSample], of: str) -> None:
    """The quality of the sampled tokens' own clusters, a column a run. of: which tokens and layers,
    in words."""
    seeds = next(iter(made.values())).quality.seeds
    clusters = len(next(iter(made.values())).sizes)
    st.markdown(f"**{clusters} clusters of the sampled tokens alone**")
    _table(
        runs,
        [
            _row("NMI with the domain", made, lambda one: made[one].domain.nmi),
            _row("NMI with the domain by chance", made, lambda o: made[o].domain.chance_nmi),
            _row("ARI with the domain", made, lambda one: made[one].domain.ari),
            _row("Silhouette", made, lambda one: made[one].quality.silhouette),
            _row(f"Stability over {seeds} seeds", made, lambda o: made[o].quality.stability),
            _row("Largest cluster", made, lambda one: int(made[one].sizes.max())),
            _row("Smallest cluster", made, lambda one: int(made[one].sizes.min())),
        ],
        "clusters of the sample",
        of,
    )
    st.caption(
        f"{clusters} clusters of the sample alone: {of}, which is all that is stored of the "
        "routing of single tokens; so its NMI differs a little from that of all tokens, and "
        f"silhouette and stability are known of it alone. {SCALES}"
    )


def confusion_tab(runs: Comparison, show: Callable[[], None]) -> list[Tab]:
    """The tab of both runs' clusters, where there are two."""
    return [] if runs.second is None else [Tab("Both runs' clusters", show, "Confusion")]


def confusion(
    runs: Comparison,
    labels: Sequence[NDArray[np.int64]],
    names: Sequence[Sequence[str] | Mapping[int, str]],
    item: str,
    documents: Sequence[str],
) -> None:
    """How the clusters of two runs go together.

    labels: of each run [N], of the same items, which lie in `documents` [N]. names: of each run's
    clusters, by number.
    """
    first, second = runs
    rows, columns, counts = contingency(labels[0], labels[1])
    table = pd.DataFrame(counts, [names[0][r] for r in rows], [names[1][c] for c in columns])
    drawn = table.rename(index=escape_plotly, columns=escape_plotly)
    key = (*map(bytes, labels), "\0".join(documents).encode("utf-8", "surrogatepass"))
    agreed = _agreement(key, labels, documents)
    size = count(len(labels[0]), item)
    st.plotly_chart(
        confusion_heatmap(runs, drawn, f"{size}: share of each cluster's {item}s", item),
        config=CHART_CONFIG,
        width="stretch",
        key="cluster_confusion",
        alt=f"Share of the {item}s of each cluster of {first.label} that lie in each cluster "
        f"of {second.label}; their normalised mutual information is {interval(agreed.nmi)}",
    )
    st.caption(
        f"A row is a cluster of {name(first)} and sums to 100 %; a column is one of "
        f"{name(second)}. The clusters of the two agree with each other by NMI "
        f"{interval(agreed.nmi)}, by chance {agreed.chance_nmi:.2f} ({size})."
    )
    export.offer(
        f"clusters of both runs {item}s",
        runs,
        charts={"Both runs' clusters": "cluster_confusion"},
        tables={"Both runs' clusters": lambda: table.rename_axis(first.label).reset_index()},
        shown=size,
    )


def _row(measure: str, runs: Iterable[str], value: Callable[[str], Value]) -> Row:
    return measure, {run: value(run) for run in runs}


def _table(runs: Comparison, rows: Sequence[Row], of: str, shown: str) -> None:
    """of: whose quality, in a few words; shown: how much of it, for who takes it home."""
    said = [
        {"Measure": measure} | {run: _said(value) for run, value in own.items()}
        for measure, own in rows
    ]
    columns = {run.id: st.column_config.TextColumn(escape_plotly(run.label)) for run in runs}
    st.dataframe(
        pd.DataFrame(said),
        hide_index=True,
        column_config=columns,
        alt="Measures of the clusters' quality, a column a run",
    )
    tables = {"Quality": partial(in_numbers, runs, rows)}
    export.offer(f"quality of {of}", runs, tables=tables, shown=shown)


def _said(value: Value) -> str:
    if isinstance(value, Interval):
        return interval(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def in_numbers(runs: Comparison, rows: Sequence[Row]) -> pd.DataFrame:
    """The same to take home: the value in each run, and the ends of its interval if it has one."""
    made: list[dict[str, Any]] = []
    for measure, own in rows:
        made.append({"measure": measure})
        for run, value in own.items():
            label = runs[run].label
            ends = (value.mean, value.low, value.high) if isinstance(value, Interval) else (value,)
            made[-1] |= dict(zip((label, f"{label}, low", f"{label}, high"), ends, strict=False))
    return pd.DataFrame(made)


@st.cache_resource(max_entries=32, show_spinner=False)
def _quality(
    key: str, run: str, k: int, layer: int | None, _data: Data, _found: Mapping[str, Clustered]
) -> Quality:
    return quality(vectors(key, run, layer, _data), _found[run].clustering)


@st.cache_resource(max_entries=8, show_spinner=False)
def _agreement(
    key: tuple[bytes, ...], _labels: Sequence[NDArray[np.int64]], _documents: Sequence[str]
) -> Alignment:
    """key: of the labels and of the documents, which decide the interval."""
    return alignment(_labels[0], _labels[1], list(_documents), "items")
