"""Search by token: every place of one piece of a vocabulary, out of a trace or of a tokenizer.

Positions are those of the pages: the first token of a text is 1. Shapes: D documents, N tokens.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.search import Hits
from emo_viz.trace import Trace

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

BATCH = 256  # documents tokenised at once
LONGEST = 100_000  # characters of a text that are tokenised
MOST_ALIKE = 12


@dataclass(frozen=True)
class Piece:
    """A piece of the vocabulary as text, and how often it stands in the documents."""

    text: str
    count: int


class Tokens(Protocol):
    """The tokens of the documents that a `TextIndex` holds, in its rows."""

    @property
    def total(self) -> int:
        """Tokens of all documents, those that open them left out."""
        ...

    def find(self, piece: str) -> Hits:
        """Every token that is exactly this piece."""
        ...

    def alike(self, query: str) -> list[Piece]:
        """The most frequent pieces that hold the query, whatever the case and the spaces."""
        ...

    def pieces(self, row: int) -> list[str]:
        """What each token of a document shows of its text; together they are the text."""
        ...


class TokenizedTexts:
    """Texts as a tokenizer.json reads them, token by token; nothing of the model is loaded.

    As `model.run.inference.encode_after`: no special tokens, none read out of the text. A piece is
    what its id decodes to by itself. Raises ValueError where the file cannot be read.
    """

    def __init__(self, texts: Sequence[str], file: Path) -> None:
        self._texts, self._tokenizer = list(texts), _open(file)

    @cached_property
    def _ids(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """All tokens [N], and where those of each document begin [D + 1]."""
        parts = [
            np.asarray(encoding.ids, np.int32)
            for at in range(0, len(self._texts), BATCH)
            for encoding in self._encode(self._texts[at : at + BATCH])
        ]
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return np.concatenate(parts) if parts else np.empty(0, np.int32), starts

    @cached_property
    def _vocabulary(self) -> list[str]:
        ids = range(self._tokenizer.get_vocab_size())
        return [self._tokenizer.decode([i], skip_special_tokens=False) for i in ids]

    def _encode(self, texts: Sequence[str]) -> "list[Encoding]":
        return self._tokenizer.encode_batch(
            [text[:LONGEST] for text in texts], add_special_tokens=False
        )

    @property
    def total(self) -> int:
        return len(self._ids[0])

    def find(self, piece: str) -> Hits:
        ids, starts = self._ids
        known = [i for i, text in enumerate(self._vocabulary) if text == piece]
        places = np.flatnonzero(np.isin(ids, known))
        rows = np.searchsorted(starts, places, side="right") - 1
        return Hits(rows, positions=places - starts[rows] + 1)

    def alike(self, query: str) -> list[Piece]:
        numbers = np.bincount(self._ids[0], minlength=len(self._vocabulary))
        counts = Counter[str]()
        for text, number in zip(self._vocabulary, numbers.tolist(), strict=True):
            counts[text] += number
        return _alike(counts, query)

    def pieces(self, row: int) -> list[str]:
        text = self._texts[row]
        ends = [end for _, end in self._encode([text])[0].offsets]
        bounds = [0, *accumulate(ends, max)]
        bounds[-1] = min(len(text), LONGEST)
        return [text[start:end] for start, end in pairwise(bounds)]


class RecordedTokens:
    """The tokens of a trace that has their texts. Raises Absent where it has not."""

    def __init__(self, trace: Trace) -> None:
        trace.need("token_texts")
        self._trace, self._first = trace, 0 if trace.manifest.opening_eos else 1

    @cached_property
    def _counts(self) -> "Counter[str]":
        sql = (
            "select text, count(*) as n from tokens where position >= ? and text <> '' group by all"
        )
        found = self._trace.query(sql, [1 - self._first])
        return Counter(dict(zip(found["text"], map(int, found["n"]), strict=True)))

    @property
    def total(self) -> int:
        return self._trace.manifest.tokens

    def find(self, piece: str) -> Hits:
        sql = "select document, position from tokens where text = ? and position >= ? order by all"
        return _hits(self._trace.query(sql, [piece, 1 - self._first]), self._first)

    def alike(self, query: str) -> list[Piece]:
        return _alike(self._counts, query)

    def pieces(self, row: int) -> list[str]:
        return self._trace.recorded(row).token_texts[1:]


def _hits(found: Any, first: int) -> Hits:
    rows, positions = (found[name].to_numpy(np.int64) for name in ("document", "position"))
    return Hits(rows, positions=positions + first)


def _alike(counts: "Counter[str]", query: str) -> list[Piece]:
    wanted = query.strip().lower()
    found = [Piece(text, n) for text, n in counts.items() if n and wanted in text.lower()]
    # The piece itself with and without its spaces first, then what goes on from it.
    found.sort(key=lambda one: (one.text.strip().lower() != wanted, -one.count, one.text))
    return found[:MOST_ALIKE]


def _open(file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(f"The tokenizer {file} cannot be read.") from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def expert_counts(trace: Trace, layer: int, expert: int) -> NDArray[np.int64] | None:
    """How many tokens of each document chose an expert, [D]; None where the trace cannot say.

    layer: its place in the trace. Exact: out of the tokens, or where there are none out of the
    share of tokens times their number, both of which are whole to less than half a token.
    """
    if trace.has_tokens:
        rows = expert_tokens(trace, layer, expert).rows
        return np.bincount(rows, minlength=trace.manifest.documents)
    if not (trace.has("activation") and trace.has("n_tokens")):
        return None
    tokens = trace.facts["n_tokens"].fillna(0).to_numpy(np.float64)
    share = np.asarray(trace.activation[:, layer, expert], np.float64)
    counts: NDArray[np.int64] = np.rint(share * tokens).astype(np.int64)
    return counts


def expert_tokens(trace: Trace, layer: int, expert: int) -> Hits:
    """Every token that chose an expert. Raises Absent for a trace without tokens."""
    slots = trace.manifest.model.slots
    start = sum(slots[:layer])
    first = 0 if trace.manifest.opening_eos else 1
    # Places of a list count from 1 in SQL, and the last one belongs to the slice.
    sql = (
        "select document, position from tokens where position >= ? and "
        "list_contains(list_slice(expert_ids::int[], ?, ?), ?) order by all"
    )
    values = [1 - first, start + 1, start + slots[layer], expert]
    return _hits(trace.query(sql, values), first)
