"""Home: where the first screen comes from.

What `python -m emo_viz glance` wrote, if it is of what lies here: no model is needed. Else the
models themselves; of a run that cannot be run, its trace. Raises ValueError, in words for the
visitor, where there is nothing to show.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from emo_viz.analysis.glance import (
    Glance,
    Glances,
    Text,
    by_use,
    load_glances,
    notches,
    same_share,
    shares,
    shortest,
)
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.runs.glance import calibration_texts, read, text_of, usual_notches
from emo_viz.server import assets, catalogue, library, recordings, typical
from emo_viz.server.library import LoadedModel
from emo_viz.trace import absent
from emo_viz.ui.parts import freshness
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell.words import escape_markdown

if TYPE_CHECKING:
    from emo_viz.trace import Trace


HEAVY = 1 << 30  # bytes of weights: seconds of loading, and memory that others need


@st.cache_resource(max_entries=4, show_spinner=False)
def _load(path: Path, key: str) -> Glances:
    return load_glances(path)


def stored(runs: Comparison) -> tuple[Glances, str] | None:
    """What lies here of all the runs, and the key of its content; None if it is of others."""
    path = assets.measured_path(typical.GLANCE, runs.ids)
    try:
        key = assets.content(path)
        found = _load(path, key).of(runs.ids)
        freshness.check("The first look", found.origins)
    except ValueError:
        return None
    return found, key


def is_heavy(runs: Comparison) -> bool:
    """Whether loading the models is more than a visit of the home page may ask for."""
    known = [catalogue.entry(run).model for run in runs]
    return sum(one.bytes for one in known if one) > HEAVY


def made(
    runs: Comparison, load: bool = True, document: str | None = None
) -> tuple[Glances, str, list[str]]:
    """Made now: of the models that can be run, else of traces; and a sentence for each run that is
    left out. load: whether models may be loaded. document: its id, else the usual one. Raises
    Missing, or ValueError, one safe for Markdown, if there is none."""
    loaded, left_out = _models(runs) if load else ([], [])
    if not loaded:
        return _of_traces(runs, left_out, document)
    row = (
        typical.document(runs)
        if document is None
        else library.row_of(library.documents(runs.ids), document)
    )
    keeps = usual_notches(loaded[0].live)
    texts = typical.key(runs.ids)
    found = {one.run: _read(one, one.key, texts, str(row["id"]), keeps) for one in loaded}
    key = repr([one.key for one in loaded] + [texts, row["id"]])
    return Glances(text_of(row), found), key, left_out


def _models(runs: Comparison) -> tuple[list[LoadedModel], list[str]]:
    loaded, left_out = list[LoadedModel](), list[str]()
    for run in runs:
        try:
            loaded.append(library.model(run))
        except library.Missing as error:
            left_out.append(escape_markdown(error.sentence))
    return loaded, left_out


@st.cache_resource(max_entries=32, show_spinner="Reading one document with every cut …")
def _read(
    _loaded: LoadedModel, key: str, texts: str, document: str, keeps: tuple[int, ...]
) -> Glance:
    documents = library.documents()
    row = library.row_of(documents, document)
    try:
        calibration = library.calibration_documents()
    except ValueError:
        calibration = documents
    domain, live = str(row["domain"]), _loaded.live
    given = calibration_texts(live, calibration, domain, without=document)
    return read(live, str(row["text"]), given, keeps, guard=lambda: run_exclusive(_loaded))


def _of_traces(
    runs: Comparison, left_out: Sequence[str], document: str | None
) -> tuple[Glances, str, list[str]]:
    traces = {name: recordings.opened(name) for name in recordings.of_shown()}
    tokens = {name: trace for name, trace in traces.items() if trace.has_tokens}
    if not tokens:
        said = [
            escape_markdown(absent.sentence(one.path.name, "tokens")) for one in traces.values()
        ]
        raise ValueError(" ".join([*left_out, *said]))
    first = next(iter(tokens.values()))
    ids = first.facts["id"].astype(str).tolist()
    found, sentences = dict[str, Glance](), list[str]()
    if document is not None and document not in ids:
        sentences.append(_another(document, first))
    row = shortest(first.facts["n_tokens"].fillna(0).astype(int).tolist())
    row = ids.index(document) if document in ids else row
    document, keeps = ids[row], tuple[int, ...]()
    for run in runs:
        if run.id not in tokens or document not in set(tokens[run.id].facts["id"].astype(str)):
            sentences.append(_lacks(run))
            continue
        keeps = keeps or _notches(tokens[run.id])
        found[run.id] = _recorded(tokens[run.id], library.trace_key(run.id), document, keeps)
    key = repr([document, *(library.trace_key(run) for run in found)])
    return Glances(_text(first, row), found), key, sentences


def _another(document: str, trace: "Trace") -> str:
    return (
        f"The document {escape_markdown(document)} is not shown: its runs are not loaded, and the "
        f"trace {escape_markdown(trace.path.name)} does not hold it. This is the shortest document "
        "of that trace."
    )


def _lacks(run: Run) -> str:
    return (
        f"{escape_markdown(run.label)} is not shown: neither its checkpoint nor the tokens of this "
        "document are here."
    )


def _notches(trace: "Trace") -> tuple[int, ...]:
    model = trace.manifest.model
    return notches(_per_token(trace), max(model.routed) + model.num_shared_experts)


def _per_token(trace: "Trace") -> int:
    """Experts that a token uses; 1 where the trace does not know."""
    model = trace.manifest.model
    return model.num_experts_per_tok or 1 + model.num_shared_experts


@st.cache_resource(max_entries=16, show_spinner=False)
def _recorded(_trace: "Trace", key: str, document: str, keeps: tuple[int, ...]) -> Glance:
    """What a trace says of a document: experts ranked by their use in others of its domain."""
    facts, model = _trace.facts, _trace.manifest.model
    row = facts["id"].astype(str).tolist().index(document)
    recorded = _trace.recorded(row)
    own = [layer for layer, experts in enumerate(model.routed) if experts]
    ids = recorded.expert_ids[own][:, 1:].astype("int64")
    weights = recorded.gate_weights[own][:, 1:] if _trace.has("gate_weights") else None
    others = _others(facts, row)
    use = _trace.usage[others or [row]].astype("float32").mean(axis=0)[own]
    routed = tuple(model.routed[layer] for layer in own)
    return Glance(
        pieces=_pieces(_trace, row)[: ids.shape[1]],
        layers=tuple(model.own_layers[layer] for layer in own),
        routed=routed,
        shared=model.num_shared_experts,
        per_token=_per_token(_trace),
        ranked_on=len(others),
        keeps=same_share(keeps, _per_token(_trace), max(routed) + model.num_shared_experts),
        expert_ids=ids,
        weights=shares(weights, ids),
        ranking=by_use(use, routed),
        losses=None,
    )


def _others(facts: pd.DataFrame, row: int) -> list[int]:
    same = facts["domain"] == facts["domain"].iloc[row]
    return [other for other in range(len(facts)) if other != row and bool(same.iloc[other])]


def _pieces(trace: "Trace", row: int) -> tuple[str, ...]:
    """The tokens' texts, else their places."""
    recorded = trace.recorded(row)
    if trace.has("token_texts"):
        with suppress(absent.Absent):
            return tuple(map(str, recorded.token_texts[1:]))
    return tuple(f"{place} " for place in range(1, recorded.expert_ids.shape[1]))


def _text(trace: "Trace", row: int) -> Text:
    facts = trace.facts.iloc[row]

    def said(name: str) -> str:
        value = facts.get(name)
        return "" if value is None or pd.isna(value) else str(value)

    return Text(
        said("id"), said("domain"), said("parent") or said("id"), said("source"), said("licence")
    )
