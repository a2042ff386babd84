"""Token routing page of traces without a checkpoint: all of it that needs no weights.

What a trace lacks is said in one line, with what would give it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.difference import Documents
from emo_viz.analysis.routed import known, of_trace
from emo_viz.analysis.routing import half_load
from emo_viz.analysis.runs import Comparison, compare
from emo_viz.analysis.widths import in_words
from emo_viz.figures import recorded as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import library, recordings
from emo_viz.trace import absent
from emo_viz.ui.parts import together
from emo_viz.ui.parts.reading import MOST_TOKENS, Chosen, Reading
from emo_viz.ui.routing import matching, page, traced, view
from emo_viz.ui.routing.matching import Others
from emo_viz.ui.shell.words import count, escape_markdown, shorten

if TYPE_CHECKING:
    from emo_viz.analysis.routed import Layers
    from emo_viz.trace import Trace
    from emo_viz.trace.absent import Part
    from emo_viz.trace.recorded import RecordedDocument

# What this page would show of a token, if it were there.
SHOWN: tuple["Part", ...] = ("token_texts", "gate_weights", "entropy", "loss")

Traces = Mapping[str, "Trace"]


def draw(names: Sequence[str]) -> None:
    """The page of these traces."""
    headline = st.container()
    traces = {name: recordings.opened(name) for name in names}
    runs = compare([run for run in library.comparison() if run.id in traces])
    if why := _why_not(runs, traces):
        runs = together.one_of_them(runs, why)
    documents = _documents(runs, traces)
    chosen = page.choose_document(documents, st.container(horizontal=True, gap="small"))
    if traces[runs.first.id].has_tokens:
        _tokens(runs, traces, chosen, headline)
    else:
        trace, row = traces[runs.first.id], int(chosen["row"])
        with headline:
            _answer(trace, row)
            what_is_absent(runs, traces)
        _use(trace, row)
    for run in runs:
        _notes(run.label, traces[run.id])


def _why_not(runs: Comparison, traces: Traces) -> str:
    """Why two traces do not stand side by side, whatever the document; "" if they do."""
    if runs.second is None:
        return ""
    for run in runs:
        if not traces[run.id].has_tokens:
            return absent.sentence(traces[run.id].path.name, "tokens")
    try:
        traced.layers_of(runs, traces)
    except ValueError as error:
        return str(error)
    ids = [set(traces[run.id].facts["id"].astype(str)) for run in runs]
    return "" if ids[0] & ids[1] else f"{runs.names} have no document in common."


def _documents(runs: Comparison, traces: Traces) -> pd.DataFrame:
    """The documents of the first trace that the second one has too, with their texts ("" for
    none). row: in the first trace; row_of_second: in the second."""
    first = traces[runs.first.id]
    found = first.documents if first.has("text") else first.facts.assign(text=None)
    found = found.assign(id=found["id"].astype(str), row=np.arange(len(found)))
    if runs.second is not None:
        other = traces[runs.second.id].facts["id"].astype(str)
        rows = dict(zip(other, range(len(other)), strict=True))
        found = found.assign(row_of_second=found["id"].map(rows)).dropna(subset="row_of_second")
    words = ["domain", "parent", "source", "licence"]
    shown = found["text"].fillna("").where(lambda texts: texts.str.strip() != "", found["id"])
    return found.assign(text=shown, **{name: found[name].fillna("") for name in words})


def _tokens(runs: Comparison, traces: Traces, document: pd.Series, headline: Any) -> None:
    """The views of a document; of one run alone where the tokens of two differ."""
    rows = dict(zip(runs.ids, document.reindex(["row", "row_of_second"]), strict=False))
    recorded = {run: traces[run].recorded(int(row)) for run, row in rows.items()}
    if runs.second is not None and not traced.same_tokens(*recorded.values()):
        runs = together.one_of_them(runs, f"{runs.names} have other tokens in this document.")
    layers = traced.layers_of(runs, traces)
    about = Chosen(_text(recorded), _origin(runs, traces, document), str(document["id"]))
    reading = traced.read(runs, traces, recorded, layers, about)
    if not reading.num_tokens:
        st.info("This document holds no tokens; choose another one.")
        return
    with headline:
        page.answer(reading)
        what_is_absent(runs, traces, reading, layers)
    view.explore(reading, _others(runs, traces, layers) if len(runs) > 1 else None)


def _others(runs: Comparison, traces: Traces, layers: "Layers") -> Others:
    """The documents that two traces have in common, to match their experts by."""
    first, second = (traces[run.id] for run in runs)
    rows = [
        {str(document): row for row, document in enumerate(trace.facts["id"])}
        for trace in (first, second)
    ]

    def read(document: str) -> Documents:
        one, other = (of[document] for of in rows)
        return of_trace(first, one, layers.first), of_trace(second, other, layers.second)

    key = repr(
        [(each.path, each.manifest.created, each.manifest.files) for each in traces.values()]
    )
    both = [document for document in rows[0] if document in rows[1]]
    return matching.of_traces(key, (first, second), both, read)


def _text(recorded: "Mapping[str, RecordedDocument]") -> str:
    """That of the tokens, as far as any trace has it."""
    found = [known(document, "token_texts") for document in recorded.values()]
    return next(("".join(pieces) for pieces in found if pieces is not None), "")


def _origin(runs: Comparison, traces: Traces, document: pd.Series) -> str:
    """Where a document and its recordings are from, safe for Markdown."""
    from_where = [
        f"{escape_markdown(traces[run.id].manifest.model.name)} "
        f"({escape_markdown(traces[run.id].manifest.source or 'by this program')})"
        for run in runs
    ]
    return f"{page.origin(document)}, recorded elsewhere of {' and of '.join(from_where)}"


def what_is_absent(
    runs: Comparison,
    traces: Traces,
    reading: Reading | None = None,
    layers: "Layers | None" = None,
) -> None:
    """In one line what is not shown, and what would need to be here."""
    lacking = {
        run.label: [part for part in SHOWN if not traces[run.id].has(part)]
        if traces[run.id].has_tokens
        else ["tokens"]
        for run in runs
    }
    said = [absent.sentence(run, *cast("list[Part]", parts)) for run, parts in lacking.items()]
    if len(runs) > 1 and len({*map(tuple, lacking.values())}) == 1 and said[0]:
        said[1] = f"{runs.runs[1].label} lacks the same."
    if reading is not None and not any(traces[run.id].has("token_texts") for run in runs):
        said.append("Tokens are shown by their ids or places.")
    if reading is not None and reading.dropped_tokens:
        tokens = reading.num_tokens + reading.dropped_tokens
        said.append(f"The first {MOST_TOKENS:,} of {tokens:,} tokens are shown.")
    said += [layers.note if layers else ""]
    said.append("Your own texts, next tokens and cuts need a checkpoint.")
    words = " ".join(escape_markdown(each) for each in said if each)
    st.caption(f":material/visibility_off: {words}")


def _used(trace: "Trace", document: int) -> NDArray[np.floating]:
    """[L, R]: the share of tokens that chose each expert, or where that is not known of choices."""
    used = trace.activation if trace.has("activation") else trace.usage
    return np.asarray(used[document], np.float32)


def _answer(trace: "Trace", document: int) -> None:
    """The first line where there are no tokens."""
    model, used = trace.manifest.model, _used(trace, document)
    own = [layer for layer, experts in enumerate(model.routed) if experts]  # those with a router
    used = used[own]
    known = "" if trace.has("num_experts") else "at least "
    st.markdown(
        "## In a layer, half of this text's routing goes to "
        f"**{half_load(used).mean():.1f}** of {known}"
        f"{in_words([model.routed[layer] for layer in own])} experts."
    )
    tokens = trace.facts["n_tokens"][document]
    size = "" if pd.isna(tokens) else f"{count(int(tokens), 'token')}, "
    distinct = (used > 0).sum(axis=1).mean()
    st.caption(
        f"{escape_markdown(model.name)}, recorded elsewhere "
        f"({escape_markdown(trace.manifest.source or 'by this program')}): {size}mean over "
        f"{count(len(own), 'layer')} with experts; distinct routed experts {distinct:.1f}."
    )


def _use(trace: "Trace", document: int) -> None:
    """What counts alone say: how much each expert is used, whatever the token."""
    model = trace.manifest.model
    of = "tokens" if trace.has("activation") else "choices"
    st.plotly_chart(
        figures.expert_use(_used(trace, document), model.routed, model.own_layers, of),
        key="recorded_use",
        config=CHART_CONFIG,
        alt=f"The share of {of} of document {shorten(str(trace.facts['id'][document]), 60)} that "
        f"each expert has in each of {count(model.num_layers, 'layer')}.",
    )


def _notes(label: str, trace: "Trace") -> None:
    notes = trace.manifest.notes
    if notes:
        with st.expander(f"What the import of {escape_markdown(label)} met ({len(notes)})"):
            st.markdown("\n".join(f"- {escape_markdown(note)}" for note in notes))
