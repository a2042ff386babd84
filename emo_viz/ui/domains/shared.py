"""Domains page: what domains share, how widely they spread, and which experts they would keep."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis import domains
from emo_viz.analysis.experts import ExpertUse
from emo_viz.figures import domains as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import library
from emo_viz.ui.domains.view import View, where
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.frame import sized
from emo_viz.ui.shell.words import escape_markdown, share

USUAL_KEPT = 16
ORDER = (
    "The order of the domains, one for both runs and all layers, puts those together that have "
    "much routing in common (average linkage on the mean of the runs)."
)
KEPT = (
    "A domain keeps the experts with the largest share of its choices in each layer, here of the "
    "recorded documents; the page Subset ablation chooses them from calibration documents apart "
    "from these. The overlap is the Jaccard index: experts in both sets, of those in either; the "
    "average is over pairs, {where}. Shared experts are always kept: they count among the number "
    "and not in the overlap."
)


def similarity(view: View) -> None:
    """How much of their routing every two domains have in common."""
    layer = view.layer()
    found = {
        run: _similarity(known.use, view.keys[run], view.place(run, layer))
        for run, known in view.known.items()
    }
    _say_similar(view, found)
    matrices = {run: one.matrix for run, one in found.items()}
    _matrices(view, matrices, "What domains have in common of their routing", "of the routing")
    _nearest(view, matrices, "Routing in common")
    _export(view, "similarity", matrices)
    view.explain(
        "For each domain the share of its expert choices that goes to each expert of a layer; two "
        "domains have in common the sum of the smaller of both shares, 1 if they are alike. The "
        f"answer is the mean over pairs, {where(layer)}. {ORDER}"
    )


def _say_similar(view: View, found: Mapping[str, domains.Similarity]) -> None:
    between = in_each(view.runs, lambda run: f"**{share(found[run].between)}**")
    halves = in_each(view.runs, lambda run: share(found[run].halves))
    dealt = in_each(view.runs, lambda run: share(found[run].shuffled))
    view.say(
        f"Of their routing, two domains have in common {between}.",
        f"Two random halves of one domain: {halves}; random groups of documents: {dealt}.",
    )


def _names(view: View) -> Sequence[str]:
    """Of the domains, which are the same in all runs."""
    return next(iter(view.known.values())).use.domains


def _matrices(view: View, matrices: Mapping[str, np.ndarray], title: str, what: str) -> None:
    names = _names(view)
    order = _order([known.use for known in view.known.values()], tuple(view.keys.values()))
    ordered = {run: matrix[np.ix_(order, order)] for run, matrix in matrices.items()}
    st.plotly_chart(
        sized(figures.matrices(view.runs, ordered, [names[place] for place in order], title, what)),
        key="domains_square",
        config=CHART_CONFIG,
        alt=f"{title}, for every two of {len(names)} domains; the table below has the nearest "
        "domain of each.",
    )


@st.cache_resource(max_entries=32, show_spinner=False)
def _order(_uses: Sequence[ExpertUse], keys: tuple[str, ...]) -> list[int]:
    """Of the domains, by what they have in common over all layers, whatever is shown."""
    return domains.order([domains.overlap(domains.profiles(use)) for use in _uses])


def _export(view: View, what: str, matrices: Mapping[str, np.ndarray]) -> None:
    names = _names(view)
    tables = {
        run.label: partial(pd.DataFrame, matrices[run.id], names, list(names)) for run in view.runs
    }
    named = {label: partial(_with_names, table) for label, table in tables.items()}
    view.export(what, {"Domains by domains": "domains_square"}, named)


def _with_names(table: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    return table().rename_axis("domain").reset_index()


def _nearest(view: View, matrices: Mapping[str, np.ndarray], column: str) -> None:
    """For each domain the one that it has most in common with, in every run."""
    names = _names(view)
    if len(names) < 2:
        return
    table = pd.DataFrame({"Domain": names})
    for run in view.runs:
        others = np.where(np.eye(len(names), dtype=bool), -1, matrices[run.id])
        best = others.argmax(axis=1)
        table[f"Nearest in {run.label}"] = [names[place] for place in best]
        table[f"{column}, {run.label}"] = 100 * others.max(axis=1)
    what = "The nearest domain of each, and what the two have in common."
    _table(table, "domains_nearest", {column: "%.1f %%"}, what)


def _table(table: pd.DataFrame, key: str, forms: Mapping[str, str], what: str) -> None:
    """forms: how numbers are written, by how the names of their columns begin. what: its name."""
    columns = {
        name: st.column_config.NumberColumn(format=form)
        for begin, form in forms.items()
        for name in map(str, table)
        if name.startswith(begin)
    }
    st.dataframe(
        table,
        key=key,
        hide_index=True,
        height="content",
        row_height=28,
        column_config=columns,
        alt=what,
    )


@st.cache_resource(max_entries=32, show_spinner=False)
def _similarity(_use: ExpertUse, key: str, layer: int | None) -> domains.Similarity:
    return domains.similarity(_use, layer)


def coverage(view: View) -> None:
    """How many experts each domain needs."""
    layer = view.layer()
    found = {
        run: domains.coverage(known.use, view.place(run, layer))
        for run, known in view.known.items()
    }
    _say_covered(view, found)
    _spread(view, found)
    table = _needed(view, found)
    forms = {"Experts": "%.1f", "Entropy": "%.2f"}
    what = "Of each domain the experts that carry half of its routing, and its entropy."
    _table(table, "domains_coverage_table", forms, what)
    view.export("coverage", {"Coverage": "domains_coverage"}, {"Coverage": lambda: table})
    view.explain(
        "The fewest experts of a layer that together carry half of a domain's choices, and the "
        f"entropy of its choices over all of them; the answer is the mean over domains, "
        f"{where(layer)}."
    )


def _say_covered(view: View, found: Mapping[str, domains.Coverage]) -> None:
    half = in_each(view.runs, lambda run: f"**{found[run].half.mean():.1f}** experts")
    together = in_each(view.runs, lambda run: f"{found[run].all_half:.1f}")
    nats = in_each(view.runs, lambda run: f"{found[run].entropy.mean():.2f}")
    most = {f"{found[run].most:.2f}" for run in view.known}
    even = most.pop() if len(most) == 1 else in_each(view.runs, lambda r: f"{found[r].most:.2f}")
    view.say(
        f"Half of a domain's routing goes to {half}.",
        f"All documents together: {together}. Entropy in nats: {nats}; even use has {even}.",
    )


def _spread(view: View, found: Mapping[str, domains.Coverage]) -> None:
    order = list(np.argsort(found[view.runs.first.id].half, kind="stable"))
    st.plotly_chart(
        sized(figures.coverage(view.runs, found, _names(view), order)),
        key="domains_coverage",
        config=CHART_CONFIG,
        alt="For every domain the number of experts that carry half of its routing, and its "
        "entropy; the table below has the numbers.",
    )


def _needed(view: View, found: Mapping[str, domains.Coverage]) -> pd.DataFrame:
    table = pd.DataFrame({"Domain": _names(view)})
    for run in view.runs:
        table[f"Experts for half, {run.label}"] = found[run.id].half
        table[f"Entropy (nats), {run.label}"] = found[run.id].entropy
    return table


def kept(view: View) -> None:
    """How far the experts that domains would keep are the same."""
    layer = view.layer()
    shared = {run: _shared_experts(run) for run in view.known}
    keep = _how_many(view, max(shared.values()))
    found = {
        run: domains.kept_sets(known.use, keep - shared[run], view.place(run, layer))
        for run, known in view.known.items()
    }
    _say_kept(view, keep, found)
    matrices = {run: one.matrix for run, one in found.items()}
    _matrices(view, matrices, f"The {keep} experts that domains would keep", "overlap (Jaccard)")
    _nearest(view, matrices, "Overlap (Jaccard)")
    _export(view, "kept", matrices)
    view.explain(f"{KEPT.format(where=where(layer))} {ORDER}")


def _how_many(view: View, counted: int) -> int:
    """The experts kept in every layer; counted: the shared ones, which are always kept."""
    most = min(max(known.use.routed) for known in view.known.values()) + counted
    return links.slider(
        view.controls,
        "Experts kept in every layer",
        1 + counted,
        most,
        min(USUAL_KEPT, most),
        routes.DOMAINS_KEEP,
        width=260,
    )


def _say_kept(view: View, keep: int, found: Mapping[str, domains.KeptSets]) -> None:
    names = _names(view)
    between = in_each(view.runs, lambda run: f"**{share(found[run].between)}**")
    nearest = in_each(view.runs, lambda run: _strongest(found[run].matrix, names))
    chance = in_each(view.runs, lambda run: share(found[run].by_chance))
    view.say(
        f"The sets of {keep} experts that two domains would keep overlap by {between} on average; "
        f"the two nearest by {nearest}.",
        f"Random sets of as many: {chance}.",
    )


def _strongest(matrix: np.ndarray, names: Sequence[str]) -> str:
    """ "**80 %** (fiction and religion)": the pair with the largest value, in Markdown."""
    above = np.triu(np.ones_like(matrix, dtype=bool), 1)
    one, other = np.unravel_index(np.where(above, matrix, -1).argmax(), matrix.shape)
    pair = f"{escape_markdown(names[int(one)])} and {escape_markdown(names[int(other)])}"
    return f"**{share(matrix[one, other])}** ({pair})"


def _shared_experts(run: str) -> int:
    return library.trace(run).manifest.model.num_shared_experts
