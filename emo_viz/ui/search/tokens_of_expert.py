"""The tokens that chose an expert: as they were recorded, else as the model routes the documents of
one page of results again, which takes a few of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.search import OPENING, Hits, Line, line
from emo_viz.server import library, searching
from emo_viz.server.library import LoadedModel, Missing
from emo_viz.trace.absent import Absent
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.search.query import Query
from emo_viz.ui.shell.words import escape_markdown, share

Lines = Callable[[slice], list[tuple[Line, str]]]
LONGEST = 2048  # tokens of a document that are routed again


@dataclass(frozen=True, eq=False)
class Found:
    """An expert's documents.

    layer: the model's own number. rows: of the documents, those that use it most first. weights
    [D]: tokens that chose it, or its share of the document's routing; 0 for what is filtered out.
    """

    query: Query
    layer: int
    expert: int
    use: searching.ExpertUse
    rows: NDArray[np.int64]
    weights: NDArray[Any]

    @property
    def measure(self) -> str:
        """What `weights` are."""
        return "Share" if self.use.counts is None else "Tokens"

    @property
    def unit(self) -> str:
        """Of the numbers of `domains`."""
        return "documents" if self.use.counts is None else "tokens"

    def domains(self) -> list[tuple[str, int]]:
        """Tokens, or where they are not known documents, of each domain, most first."""
        names = self.query.corpus.index.facts["domain"].iloc[self.rows]
        known = self.use.counts is not None
        numbers = self.weights[self.rows] if known else np.ones(len(self.rows))
        sums: dict[str, int] = {}
        for name, number in zip(names, numbers.tolist(), strict=True):
            sums[name] = sums.get(name, 0) + int(number)
        return sorted(((n, s) for n, s in sums.items() if n), key=lambda one: (-one[1], one[0]))

    def documents(self, part: slice) -> list[tuple[Line, str]]:
        """A line a document, with how much of it the expert has."""
        index = self.query.corpus.index
        return [
            (
                Line(
                    int(row),
                    None,
                    "",
                    str(index.facts["title"].iat[row]),
                    index.text(row)[:OPENING],
                ),
                share(self.weights[row]) if self.use.counts is None else f"{self.weights[row]:,}",
            )
            for row in self.rows[part]
        ]

    def tokens(self) -> tuple[Lines | None, str]:
        """A line a token, the documents in the order of `rows`; or None and why there is none."""
        if self.use.hits is not None:
            return self._pages(self._recorded), ""
        if self.use.counts is None or not self.query.corpus.index.has_texts:
            return None, "Which tokens they are was not recorded."
        try:
            loaded = library.model(self._run)
        except Missing as error:
            return (
                None,
                f"Which tokens they are was not recorded. {escape_markdown(error.sentence)}",
            )
        return self._pages(lambda row: self._routed(loaded, row)), ""

    @property
    def _run(self) -> Any:
        return next(run for run in self.query.corpus.runs if run.id == self.query.run)

    def _pages(self, of_row: Callable[[int], list[tuple[Line, str]]]) -> Lines:
        """Lines of a slice, out of the documents that it reaches into alone."""
        ends = np.cumsum(self.weights[self.rows]).astype(int)

        def lines(part: slice) -> list[tuple[Line, str]]:
            first = int(np.searchsorted(ends, part.start, side="right"))
            last = int(np.searchsorted(ends, part.stop, side="left"))
            begin = int(ends[first - 1]) if first else 0
            found = [one for row in self.rows[first : last + 1] for one in of_row(int(row))]
            return found[part.start - begin : part.stop - begin]

        return lines

    def _recorded(self, row: int) -> list[tuple[Line, str]]:
        assert self.use.hits is not None
        hits = self.use.hits.only(self.use.hits.rows == row)
        trace = library.trace(self.query.run)
        recorded, place = trace.recorded(row), trace.manifest.model.own_layers.index(self.layer)
        try:
            weights, pieces = recorded.gate_weights[place], _pieces(recorded)
        except Absent:
            weights, pieces = None, _pieces(recorded)
        return self._lines(hits, recorded.expert_ids[place], weights, pieces)

    def _routed(self, loaded: LoadedModel, row: int) -> list[tuple[Line, str]]:
        place = loaded.live.own_layers.index(self.layer)
        known = searching.recorded_tokens(self.query.run, row)
        most = loaded.live.most_tokens(min(known or LONGEST, LONGEST) + 1)
        encoded = library.encoded(loaded, self.query.corpus.index.text(row), most)
        ids, weights = _recording(loaded, loaded.key, encoded.token_ids)
        positions = 1 + np.flatnonzero((ids[place, 1:] == self.expert).any(axis=1))
        hits = Hits(np.full(len(positions), row), positions=positions)
        return self._lines(hits, ids[place], weights[place], encoded.texts[1:])

    def _lines(
        self, hits: Hits, ids_TK: Any, weights_TK: Any, pieces: list[str] | None
    ) -> list[tuple[Line, str]]:
        assert hits.positions is not None
        notes = [
            "" if weights_TK is None else f"{weights_TK[at][ids_TK[at] == self.expert].max():.3f}"
            for at in hits.positions
        ]
        index = self.query.corpus.index
        return [(line(index, hits, number, pieces), note) for number, note in enumerate(notes)]


def _pieces(recorded: Any) -> list[str] | None:
    try:
        texts: list[str] = recorded.token_texts[1:]
    except Absent:
        return None
    return texts


@st.cache_resource(max_entries=64, show_spinner=False)
def _recording(_loaded: LoadedModel, key: str, token_ids: NDArray[Any]) -> tuple[Any, Any]:
    with run_exclusive(_loaded):
        recording = _loaded.live.record(token_ids)
    return recording.expert_ids, recording.gate_weights
