"""Token routing page: which expert of one run is which of the other, for pictures of differences.

In one model an id means the same whatever its precision; in two models that were trained apart it
means nothing. There, experts are matched by the tokens of other documents that chose both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.difference import Documents, Left, Pair, RoutedDocument, pair_of
from emo_viz.analysis.matching import CoUse, Weights, co_use, trained_apart
from emo_viz.analysis.routed import of_recording
from emo_viz.figures.kept import beside
from emo_viz.server import assets, library
from emo_viz.server.library import LoadedModel, Models
from emo_viz.ui.parts.few import Few
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.parts.same_experts import ways, weights_of
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell.words import count

if TYPE_CHECKING:
    from emo_viz.trace import Trace

DOCUMENTS = 24  # that experts are matched by
TOKENS = 256  # of each that a model reads
MOST_KEPT = 4


@dataclass(frozen=True, eq=False)
class Others:
    """Documents that both runs of a reading route, to match their experts by.

    key: what counts of them go by. apart: whether the runs are known to be of two models. read: a
    document of each run by its id.
    """

    key: str
    apart: Callable[[], bool]
    ids: Sequence[str]
    read: Callable[[str], Documents]


@dataclass(frozen=True, eq=False)
class Matching:
    """The experts of one layer, those of the second run under the ids of the first.

    ids [R']: the column of each of the second's experts, from R on those without a match. names:
    of the columns. said: how they were matched, in words.
    """

    ids: NDArray[np.int64]
    names: list[str]
    said: str


def of_models(models: Models, documents: pd.DataFrame) -> Others:
    """Held-out documents, of every domain one in turn, as two models read them."""
    few = beside(documents, "of every domain", lambda: some(documents))
    texts = dict(zip(few["id"], few["text"], strict=True))
    first, second = models

    def read(document: str) -> Documents:
        ids = library.encoded(first, texts[document], TOKENS).token_ids
        return _routed(first, document, ids), _routed(second, document, ids)

    stored = assets.content(library.documents_path())  # other texts may come under the same ids
    return Others(
        repr((first.key, second.key, stored, list(texts))),
        lambda: trained_apart(weights_of(first), weights_of(second)),
        list(texts),
        read,
    )


def some(documents: pd.DataFrame) -> pd.DataFrame:
    """Of every domain one in turn: in a sorted file the first ones are all of one."""
    turn = documents.groupby(documents["domain"].fillna(""), sort=False).cumcount()
    return documents.iloc[np.argsort(turn.to_numpy(), kind="stable")[:DOCUMENTS]]


def _routed(loaded: LoadedModel, document: str, token_ids: NDArray[np.integer]) -> RoutedDocument:
    with run_exclusive(loaded):
        recording = loaded.live.record(token_ids)
    return of_recording(document, recording, range(len(recording.expert_ids)))


def of_traces(
    key: str, traces: "Sequence[Trace]", ids: Sequence[str], read: Callable[[str], Documents]
) -> Others:
    """Some of the documents, of every domain one in turn, that two traces have in common."""
    first, second = traces
    facts = first.facts.assign(id=first.facts["id"].astype(str)).drop_duplicates("id")
    few = some(facts[facts["id"].isin(set(ids))])

    def apart() -> bool:
        return trained_apart(Weights.of_trace(first), Weights.of_trace(second))

    return Others(key, apart, few["id"].tolist(), read)


def options(reading: Reading, others: Others) -> list[str]:
    """The ways to tell that two experts are the same; the first is the usual one."""
    return ways(not same_ids(reading, others))


def same_ids(reading: Reading, others: Others | None) -> bool:
    """Whether an id is one expert in both runs, as far as is known."""
    return others is not None and reading.even_routed is not None and not others.apart()


def matched(reading: Reading, others: Others, layer: int) -> Matching | None:
    """The experts of a layer, by its place; None where no document says anything of them."""
    most = tuple(max(reading.routed[run.id]) for run in reading.runs)
    counts = _counted(others, (most[0], most[1]))
    own = _own(reading) if reading.chosen.document in others.ids else None
    counts = counts if own is None else counts.less(own)
    if not counts.tokens:
        return None
    first, second = (reading.routed[run.id][layer] for run in reading.runs)
    partners = counts.partners(layer)[:second]
    alone = np.flatnonzero(partners < 0)
    ids = partners.astype(np.int64)
    ids[alone] = first + np.arange(len(alone))
    back = dict(zip(ids.tolist(), range(second), strict=True))
    names = [
        f"{expert}={back[expert]}" if expert in back else f"{expert}" for expert in range(first)
    ]
    names += [f"={expert}" for expert in alone]
    pairs = second - len(alone)
    said = (
        f"{count(pairs, 'expert')} of each are matched one to one by the tokens that chose both, "
        f"in {count(counts.documents, 'other document')} of {count(counts.tokens, 'token')}"
    )
    return Matching(ids, names, said)


def _own(reading: Reading) -> Pair | None:
    """What the shown document adds to the counts, if it is among the others: its first tokens."""
    routed = [
        of_recording("", reading.recordings[run], range(reading.num_layers))
        for run in reading.runs.ids
    ]
    # Of the same tokens, as the reading has made sure of.
    one, other = (replace(_first_tokens(each), token_ids=None) for each in routed)
    return pair_of(one, other, Left())


def _first_tokens(document: RoutedDocument) -> RoutedDocument:
    ids = document.token_ids
    return RoutedDocument(
        document.id,
        document.expert_ids[: TOKENS - 1],
        token_ids=None if ids is None else ids[: TOKENS - 1],
    )


def _counted(others: Others, experts: tuple[int, int]) -> CoUse:
    """Counted once for all visitors."""
    return _kept().of(others.key, lambda: co_use(_pairs(others), experts))


@st.cache_resource(max_entries=1, show_spinner=False)
def _kept() -> Few[CoUse]:
    return Few(MOST_KEPT)


def _pairs(others: Others) -> Iterator[Pair]:
    """Of each document the first tokens. A visitor who chooses something else ends it."""
    place = st.empty()
    for number, document in enumerate(others.ids):
        place.progress(
            number / len(others.ids),
            f"Matching experts: document {number + 1} of {len(others.ids)} in both runs …",
        )
        one, other = map(_first_tokens, others.read(document))
        pair = pair_of(one, other, Left())
        if pair is not None:
            yield pair
    place.empty()
