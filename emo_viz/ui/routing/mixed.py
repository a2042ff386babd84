"""Token routing page of a model beside a recording of another run, which cannot be run here.

The documents are those of the recording whose texts are known: the model reads them now. Where both
have the same tokens they stand side by side; where they have not, a sentence says why, and one of
them is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.difference import Documents, RoutedDocument
from emo_viz.analysis.matching import Weights, trained_apart
from emo_viz.analysis.routed import Numbered, common_layers, known, of_document, of_recording
from emo_viz.analysis.routing import text_routing
from emo_viz.analysis.runs import Comparison, Facts, Run
from emo_viz.server import assets, library, recordings
from emo_viz.server.library import LoadedModel, Models
from emo_viz.ui.parts import reading as live
from emo_viz.ui.parts import together
from emo_viz.ui.parts.reading import MOST_TOKENS, Chosen, Reading
from emo_viz.ui.parts.same_experts import weights_of
from emo_viz.ui.parts.token_text import recorded_pieces
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.routing import matching, page, recorded, traced, view
from emo_viz.ui.routing.matching import Others
from emo_viz.ui.routing.traced import Traced
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.words import count, escape_markdown

if TYPE_CHECKING:
    from emo_viz.analysis.routed import Layers
    from emo_viz.trace import Trace
    from emo_viz.trace.recorded import RecordedDocument

RECORDED, OWN = "Recorded document", routes.OWN_SOURCE
FEWEST = 0.5  # of the shorter one's tokens that must be the same before two stand side by side


@dataclass(frozen=True, eq=False)
class Beside:
    """A model, and the recording beside it. runs: both, in their order and colours. documents: of
    the recording, with their texts and the row of each in it."""

    runs: Comparison
    loaded: LoadedModel
    run: Run
    trace: "Trace"
    documents: pd.DataFrame

    @property
    def layers(self) -> "Layers":
        """Raises ValueError, one sentence, where they have none in common."""
        first, second = (self._numbered(run) for run in self.runs)
        one, other = self.runs
        return common_layers(first, second, (one.label, other.label))

    def _numbered(self, run: Run) -> Numbered:
        if run.id == self.loaded.run:
            return Numbered(tuple(self.loaded.live.own_layers), self.loaded.routed)
        return Numbered.of_trace(self.trace)


def found(models: Models) -> Beside | Models:
    """The recording beside the one model that can be run here; the models, which then say why
    another run is left out, if there is none to show."""
    runs = library.comparison()
    if runs.second is None or len(models.loaded) != 1:
        return models
    loaded = models.first
    other = next(run for run in runs if run.id != loaded.run)
    if other.id not in recordings.of_shown():
        return models
    trace = recordings.opened(other.id)
    if not trace.has_tokens:
        said = f"{other.label} is recorded by document, not by token"
        return _alone_as(models, f"{said}, so {loaded.label} stands alone.")
    documents = recordings.readable(other.id)
    if documents.empty:
        return _alone_as(
            models,
            f"The recording of {other.label} holds no texts, and none of its documents is among "
            f"the held-out ones, so {loaded.label} cannot read them and stands alone.",
        )
    return Beside(runs, loaded, other, trace, documents)


def _alone_as(models: Models, sentence: str) -> Models:
    """The same, with one sentence more on why the other run is not beside them."""
    return replace(models, left_out=(" ".join((*models.left_out, sentence)),))


def _say(sentence: str) -> None:
    st.info(sentence, icon=":material/visibility_off:")


def draw(beside: Beside) -> None:
    """The page of both."""
    headline = st.container()
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    source = links.choice(
        row,
        "Text",
        [RECORDED, OWN],
        routes.ROUTING_SOURCE,
        on_change=page.swap_selection,
        label_visibility="collapsed",
    )
    if source == OWN:
        _own(beside, headline, row)
        return
    document = page.choose_document(beside.documents, row)
    text = recordings.text_of(beside.trace, document)
    chosen = Chosen(text, page.origin(document), document["id"])
    shown, others = _of_document(beside, chosen, int(document["row"]))
    with headline:
        page.answer(replace(shown, absent=()))
        if shown.absent:
            words = escape_markdown(" ".join(shown.absent))
            st.caption(f":material/visibility_off: {words}")
        if shown.runs.ids == (beside.run.id,):
            recorded.what_is_absent(shown.runs, {beside.run.id: beside.trace}, shown)
    if shown.runs.ids == (beside.loaded.run,):
        live.cut_notice(shown)
    view.explore(shown, others)


def _own(beside: Beside, headline: st.delta_generator.DeltaGenerator, row: object) -> None:
    """A text of the visitor's, which the recording says nothing of."""
    page.FIELD.examples(row)
    page.FIELD.file_picker(row)
    chosen = page.own_text()
    if chosen is None:
        missing.end()
    shown = live.read(_alone(beside), chosen)
    with headline:
        page.answer(shown)
        name = escape_markdown(beside.run.label)
        st.caption(
            f":material/visibility_off: {name} is a recording, which says nothing of texts of your "
            "own; its documents are under “Recorded document”."
        )
    live.cut_notice(shown)
    view.explore(shown)


def _alone(beside: Beside) -> Models:
    return Models(beside.runs.only(beside.loaded.run), (beside.loaded,))


def _of_document(beside: Beside, chosen: Chosen, row: int) -> tuple[Reading, Others | None]:
    """Both on a document, or the one that the visitor chooses."""
    read = live.read(_alone(beside), chosen)
    told = _traced(beside, row, chosen)
    if not told.num_tokens:
        other, own = escape_markdown(beside.run.label), escape_markdown(beside.loaded.label)
        _say(f"The recording of {other} holds no tokens of this document, so {own} stands alone.")
        return read, None
    try:
        layers = beside.layers
        why, tokens = _same(beside, read, told)
    except ValueError as error:
        why, tokens, layers = str(error), 0, None
    if layers is not None and not why:
        return _both(beside, read, told, layers, tokens), _others(beside, layers)
    one = together.one_of_them(beside.runs, why)
    return (read if one.first.id == beside.loaded.run else told), None


def _traced(beside: Beside, row: int, chosen: Chosen) -> Reading:
    """What the recording alone says of a document."""
    alone, traces = beside.runs.only(beside.run.id), {beside.run.id: beside.trace}
    documents = {beside.run.id: beside.trace.recorded(row)}
    return traced.read(alone, traces, documents, traced.layers_of(alone, traces), chosen)


def _same(beside: Beside, read: Reading, recorded: Reading) -> tuple[str, int]:
    """Why the tokens of both do not stand side by side, "" if they do; and how many of the first
    tokens are the same."""
    texts = recorded.pieces[1:] if beside.trace.has("token_texts") else None
    ours = _Tokens(_ids(read), read.pieces[1:], read.dropped_tokens)
    theirs = _Tokens(_ids(recorded), texts, recorded.dropped_tokens)
    same = _alike(ours, theirs)
    if same is None:
        return (
            f"{beside.runs.names} have other numbers of tokens in this document, and the recording "
            "does not say which tokens it has.",
            0,
        )
    if same >= max(1, FEWEST * min(len(ours.ids), len(theirs.ids))):
        return "", same
    return (
        f"{beside.runs.names} read this document as other tokens, from token {same + 1:,} on, so "
        "they do not compare token by token.",
        same,
    )


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The first tokens of a text: ids, -1 where they are not known; texts, None where they are not;
    and how many more there are."""

    ids: np.ndarray
    texts: Sequence[str] | None
    more: int


def _alike(ours: _Tokens, theirs: _Tokens) -> int | None:
    """How many of the first tokens are the same, as far as is known; None where of a recording
    only their number is, and that is another one."""
    shorter = min(len(ours.ids), len(theirs.ids))
    if (theirs.ids[:shorter] >= 0).all():
        equal = ours.ids[:shorter] == theirs.ids[:shorter]
    elif ours.texts is not None and theirs.texts is not None:
        equal = np.array([a == b for a, b in zip(ours.texts, theirs.texts, strict=False)], bool)
    else:
        return shorter if len(ours.ids) + ours.more == len(theirs.ids) + theirs.more else None
    return shorter if equal.all() else int(np.argmin(equal))


def _recorded_tokens(trace: "Trace", recorded: "RecordedDocument") -> _Tokens:
    ids = known(recorded, "token_ids")
    texts = recorded_pieces(recorded)[1:] if trace.has("token_texts") else None
    number = recorded.expert_ids.shape[1] - 1
    return _Tokens(np.full(number, -1) if ids is None else ids[1:], texts, 0)


def _ids(reading: Reading) -> np.ndarray:
    return next(iter(reading.recordings.values())).token_ids[1:]


def _both(
    beside: Beside, read: Reading, recorded: Reading, layers: "Layers", tokens: int
) -> Reading:
    """One reading of two runs: the layers and the first tokens that they have in common."""
    places = dict(zip(beside.runs.ids, (layers.first, layers.second), strict=True))
    mine, theirs = beside.loaded.run, beside.run.id
    ours = _part(read.recordings[mine], places[mine], tokens)
    # The places of a recording's own reading are those of its layers with experts.
    own = traced.layers_of(beside.runs.only(theirs), {theirs: beside.trace}).first
    found = recorded.recordings[theirs]
    other = _part(found, [own.index(place) for place in places[theirs]], tokens)
    recordings = {run: ours if run == mine else other for run in beside.runs.ids}
    model = beside.trace.manifest.model
    counts = {mine: beside.loaded.routed, theirs: tuple(model.routed)}
    routed = {run: tuple(counts[run][at] for at in places[run]) for run in beside.runs.ids}
    return replace(
        read,
        runs=Comparison(tuple(replace(run, facts=Facts(routed[run.id])) for run in beside.runs)),
        pieces=read.pieces[: tokens + 1],
        labels=read.labels[: tokens + 1],
        dropped_tokens=0,
        dropped_characters=0,
        recordings=recordings,
        routing={run: text_routing(one) for run, one in recordings.items()},
        routed=routed,
        shared={run: (read if run == mine else recorded).shared[run] for run in beside.runs.ids},
        tokenizer=None,
        absent=_absent(beside, read, recorded, layers, tokens),
        layer_numbers=layers.names,
        unweighed=recorded.unweighed,
        at_least=recorded.at_least,
    )


def _absent(
    beside: Beside, read: Reading, recorded: Reading, layers: "Layers", tokens: int
) -> tuple[str, ...]:
    """In sentences what is not shown of either."""
    said = [
        f"{beside.run.label} is a recording ({beside.trace.manifest.source or 'by this program'}), "
        f"{beside.loaded.label} was run now on the same text.",
        *read.absent,
    ]
    most = max(one.num_tokens + one.dropped_tokens for one in (read, recorded))
    if tokens < most:
        about = "" if read.exact else "about "
        said.append(
            f"The first {count(tokens, 'token')} of {about}{most:,} are shown: those that both "
            "have here and are the same."
        )
    return (*said, *filter(None, [layers.note]))


def _part(one: live.Recorded, layers: Sequence[int], tokens: int) -> Traced:
    """Some layers and the first tokens of a recording."""
    at, to = list(layers), tokens + 1
    return Traced(
        token_ids=one.token_ids[:to],
        router_probs=one.router_probs[at, :to],
        expert_ids=one.expert_ids[at, :to],
        gate_weights=one.gate_weights[at, :to],
        entropy=one.entropy[at, :to],
        loss=one.loss[:to],
        next_ids=one.next_ids[:to],
        next_probs=one.next_probs[:to],
    )


def _others(beside: Beside, layers: "Layers") -> Others:
    """Documents of the recording that the model reads too, to match the experts of both by."""
    few = matching.some(beside.documents.drop_duplicates("id"))
    rows: dict[str, pd.Series] = {str(row["id"]): row for _, row in few.iterrows()}
    places = dict(zip(beside.runs.ids, (layers.first, layers.second), strict=True))

    def read(document: str) -> Documents:
        text = recordings.text_of(beside.trace, rows[document])
        encoded = library.encoded(beside.loaded, text, MOST_TOKENS)
        ours = _Tokens(encoded.token_ids[1:], encoded.texts[1:], encoded.dropped)
        told = beside.trace.recorded(int(rows[document]["row"]))
        alike = _alike(ours, _recorded_tokens(beside.trace, told)) or 0  # no more is compared
        with run_exclusive(beside.loaded):
            recording = beside.loaded.live.record(encoded.token_ids[: matching.TOKENS])
        of_live = of_recording(document, recording, places[beside.loaded.run])
        recorded = of_document(document, told, places[beside.run.id])
        one, other = (
            RoutedDocument(document, own.expert_ids[:alike])
            for own in (
                of_live if run == beside.loaded.run else recorded for run in beside.runs.ids
            )
        )
        return one, other

    def apart() -> bool:
        return trained_apart(weights_of(beside.loaded), Weights.of_trace(beside.trace))

    stored = assets.content(beside.trace.path, library.documents_path())  # either has the texts
    key = repr((beside.loaded.key, stored, beside.runs.ids, list(rows)))
    return Others(key, apart, list(rows), read)
