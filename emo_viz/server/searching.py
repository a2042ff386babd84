"""What can be searched of the runs that a visitor sees: texts, tokens and experts, cached.

Two runs over the same documents are searched as one; a run that is not recorded has the
held-out documents, as on the page Token routing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis.origins import documents_digest
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.analysis.search import Hits, TextIndex
from emo_viz.analysis.search_tokens import (
    RecordedTokens,
    TokenizedTexts,
    Tokens,
    expert_counts,
    expert_tokens,
)
from emo_viz.server import assets, caches, library, recordings
from model.files import inside

if TYPE_CHECKING:
    from emo_viz.trace import Trace

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents of one run, or of two that have the same. key: what caches of it go by."""

    runs: tuple[Run, ...]
    index: TextIndex
    key: str

    @property
    def label(self) -> str:
        return " and ".join(run.label for run in self.runs)


@dataclass(frozen=True)
class Searchable:
    """The corpora of a comparison. left_out: a sentence for each run without one."""

    corpora: tuple[Corpus, ...]
    left_out: tuple[str, ...]

    def of(self, run: str) -> Corpus | None:
        """The corpus of a run."""
        return next((one for one in self.corpora if run in [r.id for r in one.runs]), None)


def searchable(runs: Comparison) -> Searchable:
    """What there is to search of these runs. Raises Missing for a file that cannot be read."""
    found: dict[str, list[Run]] = {}
    tables: dict[str, tuple[pd.DataFrame | Trace, str]] = {}
    left_out = []
    for run in runs:
        if assets.trace_path(run.id).exists():
            trace, key = library.trace(run.id), library.trace_key(run.id)
            name = _trace_digest(trace, key)
            tables.setdefault(name, (trace, key))
        elif library.can_run(run.id):
            documents = library.documents()
            name = _documents_digest(documents, assets.content(library.documents_path()))
            tables.setdefault(name, (documents, name))
        else:
            left_out.append(f"There is no trace of {run.label} here, so nothing of it to search.")
            continue
        found.setdefault(name, []).append(run)
    corpora = [Corpus(tuple(of), _index(*tables[name]), name) for name, of in found.items()]
    return Searchable(tuple(corpora), tuple(left_out))


@caches.for_all(8)
def _trace_digest(_trace: "Trace", key: str) -> str:
    facts = _trace.documents if _trace.has("text") else _trace.facts.assign(text="")
    return documents_digest(facts)


@caches.for_all(2)
def _documents_digest(_documents: pd.DataFrame, key: str) -> str:
    return documents_digest(_documents)


@caches.for_all(4, "Reading the documents …")
def _index(_source: "pd.DataFrame | Trace", key: str) -> TextIndex:
    if isinstance(_source, pd.DataFrame):
        return TextIndex(_source)
    return TextIndex(_source.documents if _source.has("text") else _source.facts)


def tokens(corpus: Corpus, run: str) -> Tokens | None:
    """The tokens of a corpus in one of its runs: as they were recorded, else as the run's tokenizer
    reads the texts; None where there is neither.

    Raises ValueError for a file that cannot be read.
    """
    trace = _trace(run)
    if trace is not None and trace.has_tokens and trace.has("token_texts"):
        return _recorded(trace, library.trace_key(run))
    file = _tokenizer(run)
    if file is None or not corpus.index.has_texts:
        return None
    return _tokenized(corpus, file, corpus.key, assets.content(file))


def same_tokens(runs: Sequence[Run]) -> bool:
    """Whether the runs read texts by one tokenizer, as far as is known."""
    files = [file for run in runs if (file := _tokenizer(run.id))]
    return len({assets.content(file) for file in files}) <= 1


def _tokenizer(run: str) -> Path | None:
    folder = assets.checkpoint_path(run)
    return inside(folder, TOKENIZER) if (folder / TOKENIZER).is_file() else None


@caches.for_all(2)
def _recorded(_trace: "Trace", key: str) -> Tokens:
    return RecordedTokens(_trace)


@caches.for_all(2, "Reading the documents token by token …")
def _tokenized(_corpus: Corpus, _file: Path, corpus: str, tokenizer: str) -> Tokens:
    return TokenizedTexts(_corpus.index.facts["text"].tolist(), _file)


@dataclass(frozen=True, eq=False)
class ExpertUse:
    """Where a run uses an expert. counts [D]: tokens of each document that chose it, None where the
    trace cannot say. usage [D]: its share of the document's routing. hits: the tokens, where they
    are recorded; else None."""

    counts: NDArray[np.int64] | None
    usage: NDArray[np.float64]
    hits: Hits | None


def expert_layers(run: str) -> list[tuple[int, int]]:
    """The model's own number and the routed experts of every layer of a run's trace; none without
    a trace."""
    if not assets.trace_path(run).exists():
        return []
    model = library.trace(run).manifest.model
    return list(zip(model.own_layers, model.routed, strict=True))


def expert_use(run: str, layer: int, expert: int) -> ExpertUse:
    """layer: the model's own number. Raises Missing where the run has no trace."""
    trace = library.trace(run)
    place = trace.manifest.model.own_layers.index(layer)
    return _expert_use(trace, library.trace_key(run), place, expert)


@caches.for_all(32)
def _expert_use(_trace: "Trace", key: str, layer: int, expert: int) -> ExpertUse:
    hits = expert_tokens(_trace, layer, expert) if _trace.has_tokens else None
    usage = np.asarray(_trace.usage[:, layer, expert], np.float64)
    return ExpertUse(expert_counts(_trace, layer, expert), usage, hits)


def recorded_tokens(run: str, row: int) -> int | None:
    """How many tokens of a document were recorded; None where that is not known."""
    if not assets.trace_path(run).exists():
        return None
    number = library.trace(run).facts["n_tokens"].to_numpy(float, na_value=np.nan)[row]
    return None if np.isnan(number) else int(number)


def can_be_opened(document: str, runs: Sequence[Run]) -> bool:
    """Whether the page Token routing knows a document of these runs by its id."""
    return document in recordings.of_routing([run.id for run in runs])


def _trace(run: str) -> "Trace | None":
    return library.trace(run) if assets.trace_path(run).exists() else None
