"""Home: what the findings are read from, each once for all visitors."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from emo_viz.analysis import routing, tokens
from emo_viz.analysis.curves import Measured, read_together
from emo_viz.analysis.origins import Origins
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.server import assets, library
from emo_viz.trace import Trace
from emo_viz.ui.parts import freshness, unseen
from emo_viz.ui.shell import routes

Found = tuple[Measured, dict[str, tuple[int, ...]], Origins, str]


def offer_new() -> bool:
    """Asks whether the curves are to be of new documents alone, where the documents tell."""
    try:
        documents = library.documents()
    except library.Missing:
        return False
    return unseen.offer(st, documents, routes.HOME_SEEN)


def only_new() -> bool:
    """What `offer_new` was answered."""
    return bool(st.session_state.get(routes.HOME_SEEN) == unseen.NEW)


def curves(runs: Comparison, only_new: bool) -> tuple[Measured, dict[str, tuple[int, ...]]]:
    """The curves of the runs, and the experts of every layer of each.

    only_new: over the documents that training has hardly seen.
    """
    measured, experts, origins, _ = _curves(runs, only_new)
    freshness.check("The curves", origins)
    return measured, experts


def measured_on(runs: Comparison) -> str:
    """See `unseen.measured_on`; behind a sentence."""
    said = _curves(runs, False)[-1]
    return f" {said}" if said else ""


def _curves(runs: Comparison, only_new: bool) -> Found:
    check_measured("subset curves", runs, assets.curves_path)
    paths = assets.curves_paths(runs.ids)
    key = assets.content(*paths, *(path.with_suffix(".json") for path in paths))
    if only_new:
        key += assets.content(library.documents_path())
    return _read_curves(paths, key, runs.ids, only_new)


@st.cache_resource(max_entries=4, show_spinner=False)  # read as the server starts, see prepare
def _read_curves(paths: tuple[Path, ...], key: str, runs: tuple[str, ...], only_new: bool) -> Found:
    """The curves of all domains, the experts of every layer, what they are of, and a sentence where
    they are of new documents alone."""
    read = read_together(paths).of_runs(runs)
    experts = {run: read.experts(run) for run in runs}
    rows = unseen.restricted(read, library.documents(), True).rows if only_new else read.rows
    return Measured.of(rows), experts, read.origins, unseen.measured_on(read)


def coverage(run: Run) -> routing.Coverage:
    """What a run's trace says of its use of experts."""
    trace = library.trace(run.id)
    freshness.check(f"The traces of {run.label}", library.trace_origins(run.id, trace))
    return _coverage(library.trace_key(run.id), trace)


def shared(run: Run) -> int:
    """Experts of a layer that serve every token, as a run's trace knows."""
    return library.trace(run.id).manifest.model.num_shared_experts


@st.cache_resource(max_entries=4, show_spinner=False)
def _coverage(key: str, _trace: Trace) -> routing.Coverage:
    return routing.coverage(_trace)


@st.cache_resource(max_entries=4, show_spinner=False)
def tokens_headline(paths: tuple[Path, ...], key: str) -> tokens.Headline:
    """What the files of token clusters say."""
    return tokens.headline(*paths)


def check_measured(what: str, runs: Comparison, path_of: Callable[[str], Path]) -> None:
    """Raises ValueError, which names the runs, if some have no such file."""
    if lacking := [run.label for run in runs if not path_of(run.id).exists()]:
        raise ValueError(f"Not measured yet: there are no {what} of {' and '.join(lacking)}.")
