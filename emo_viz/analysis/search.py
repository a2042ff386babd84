"""Search in recorded texts: words and phrases, ids and titles, domains; every hit is counted.

The texts lie in a DuckDB of their own in memory, which narrows a search down to the documents that
can hold a hit; where in them it stands is then found character by character, so that the count is
that of the lines. What is searched for is a parameter or a literal, never SQL or a pattern.

Shapes: D documents, H hits.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MOST_CHARACTERS = 200  # of what is searched for
CONTEXT = 90  # characters of a line on either side of its hit
OPENING = 160  # characters of a document that stand for it where nothing in it is the hit
COLUMNS = ("id", "domain", "title", "source", "text")
# Any white space of a query fits any of a text: the same characters to Python and to DuckDB.
_SPACE = r"[ \t\n\r\f\v\x{a0}\x{2000}-\x{200a}\x{202f}\x{3000}]+"
_PYTHON_SPACE = re.sub(r"\\x\{(\w+)\}", lambda code: f"\\u{code[1]:0>4}", _SPACE)
# Scripts whose words stand side by side: Thai and Lao, Burmese, Khmer, kana, Han.
_SIDE_BY_SIDE = (
    r"\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff"
    r"\u31f0-\u31ff\uff66-\uff9f\U0001b000-\U0001b16f\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_LETTER = rf"[^\W{_SIDE_BY_SIDE}]"  # or a digit, of a script with spaces between its words
_IS_LETTER, _IS_SIDE_BY_SIDE = re.compile(_LETTER), re.compile(f"[{_SIDE_BY_SIDE}]")

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Hits:
    """Where something stands: rows [H] of documents, in order, and of each hit either its place in
    the text (starts and ends [H], characters) or its token (positions [H], the first is 1), or
    neither where the document as a whole is the hit."""

    rows: Ids
    starts: Ids | None = None
    ends: Ids | None = None
    positions: Ids | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def documents(self) -> int:
        """Different documents among the hits."""
        return len(np.unique(self.rows))

    def only(self, kept: NDArray[Any] | slice) -> "Hits":
        """Some of the hits: a mask, indexes or a slice."""

        def some(values: Ids | None) -> Ids | None:
            return None if values is None else values[kept]

        return Hits(self.rows[kept], some(self.starts), some(self.ends), some(self.positions))


@dataclass(frozen=True)
class Line:
    """A hit in its context. position: of its first token, None where that is not known."""

    row: int
    position: int | None
    before: str
    hit: str
    after: str


class TextIndex:
    """The documents of a run, to be searched by many visitors at once.

    documents: columns id and, where they are known, domain, parent, source and text; a row each.
    """

    def __init__(self, documents: pd.DataFrame) -> None:
        import duckdb

        self.facts = _facts(documents)
        self.has_texts = bool((self.facts["text"] != "").any())
        self._connection = duckdb.connect()
        self._connection.execute("set enable_external_access = false")
        self._connection.register("given", self.facts.assign(row=np.arange(len(self.facts))))
        self._connection.execute("create table documents as select * from given")
        self._connection.unregister("given")
        self._connection.execute("set lock_configuration = true")

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def domains(self) -> list[str]:
        """All domains there are, by name."""
        return sorted({str(domain) for domain in self.facts["domain"] if domain})

    def text(self, row: int) -> str:
        """The text of one document; "" where it is not known."""
        return str(self.facts["text"].iat[row])

    def words(self, query: str, whole: bool = True, case: bool = False) -> Hits:
        """Every place of a word or a phrase, whatever the white space between its words.

        whole: not inside a longer word. case: letters as they are written.
        """
        parts = [re.escape(part) for part in query.split()]
        if not parts:
            return _at([], [], [])
        flags = "c" if case else "i"
        # RE2 knows no look-around: it finds the documents, Python the places.
        rows = self._rows("regexp_matches(text, ?, ?)", [_SPACE.join(parts), flags])
        body = _PYTHON_SPACE.join(parts)
        pattern = _whole(body, query.strip()) if whole else body
        found = re.compile(pattern, 0 if case else re.IGNORECASE)
        texts = self.facts["text"].array
        places = [(row, *place) for row in rows for place in _places(found, texts[row], whole)]
        return _at(*zip(*places, strict=True)) if places else _at([], [], [])

    def documents(self, query: str) -> Hits:
        """Documents whose id, title or source holds the query, whatever the case."""
        sql = " or ".join(
            f"contains(lower({name}), lower(?))" for name in ("id", "title", "source")
        )
        return Hits(self._rows(sql, [query.strip()] * 3))

    def of_domain(self, query: str) -> Hits:
        """Documents of the domain of this name, else of those whose names hold it."""
        name = query.strip()
        exact = self._rows("lower(domain) = lower(?)", [name])
        return Hits(
            exact if len(exact) else self._rows("contains(lower(domain), lower(?))", [name])
        )

    def in_domain(self, hits: Hits, domain: str) -> Hits:
        """The hits in documents of one domain."""
        return hits.only((self.facts["domain"].to_numpy() == domain)[hits.rows])

    def by_domain(self, hits: Hits) -> list[tuple[str, int]]:
        """How many of the hits each domain holds, most first; those without one are left out."""
        names = self.facts["domain"].iloc[hits.rows].value_counts(sort=True)
        return [(str(name), int(number)) for name, number in names.items() if name]

    def _rows(self, condition: str, parameters: Sequence[object]) -> Ids:
        sql = f"select row from documents where {condition} order by row"
        found = self._connection.cursor().execute(sql, list(parameters)).fetchnumpy()["row"]
        return np.asarray(found, np.int64)


def _facts(documents: pd.DataFrame) -> pd.DataFrame:
    """COLUMNS as texts without nulls; a document without a title is called by its id."""
    given = documents.reset_index(drop=True)
    found = pd.DataFrame({"id": given["id"].astype(str)})
    for name, column in (("domain", "domain"), ("title", "parent"), ("source", "source")):
        found[name] = _texts(given, column)
    found["title"] = found["title"].where(found["title"] != "", found["id"])
    found["text"] = _texts(given, "text")
    return found[list(COLUMNS)]


def _texts(table: pd.DataFrame, column: str) -> "pd.Series[str]":
    if column not in table:
        return pd.Series([""] * len(table), dtype=object)
    return table[column].fillna("").astype(str).astype(object)


def _at(rows: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> Hits:
    return Hits(*(np.asarray(values, np.int64) for values in (rows, starts, ends)))


def _whole(body: str, query: str) -> str:
    """The pattern where no letter or digit goes on before or after it; marks `_places` looks at."""
    before = f"(?<!{_LETTER})" if _IS_LETTER.match(query) else ""
    after = f"(?!{_LETTER})" if _IS_LETTER.match(query[-1]) else ""
    return f"{before}{body}{after}"


def _places(found: re.Pattern[str], text: str, whole: bool) -> Iterator[tuple[int, int]]:
    """Where the pattern stands in a text, and both its edges outside of words if it is whole."""
    at = 0
    while place := found.search(text, at):
        start, end = place.span()
        inside = whole and (_is_inside(text, start) or _is_inside(text, end))
        if not inside:
            yield start, end
        at = start + 1 if inside else end


def _is_inside(text: str, place: int) -> bool:
    """Whether a place of a text lies inside a word: before a mark of its letter always, and between
    two letters unless words of their script stand side by side."""
    left, right = text[place - 1 : place], text[place : place + 1]
    if not (_is_of_word(left) and _is_of_word(right)):
        return False
    alone = _IS_SIDE_BY_SIDE.match(left) or _IS_SIDE_BY_SIDE.match(right)
    return is_mark(right) or not alone


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character == "_" or is_mark(character)


def is_mark(character: str) -> bool:
    return bool(character) and unicodedata.category(character).startswith("M")


def line(index: TextIndex, hits: Hits, number: int, pieces: Sequence[str] | None) -> Line:
    """One hit in its context.

    pieces: of the document's tokens, which together are its text; None where they are not known.
    """
    row = int(hits.rows[number])
    if hits.starts is not None and hits.ends is not None:
        start, end = int(hits.starts[number]), int(hits.ends[number])
        text = index.text(row)
        return _line(row, text, start, end, None if pieces is None else position_at(pieces, start))
    if hits.positions is not None:
        position = int(hits.positions[number])
        if pieces is None or not 0 < position <= len(pieces):
            return Line(row, position, "", "", "")
        start = sum(map(len, pieces[: position - 1]))
        end = start + len(pieces[position - 1])
        return _line(row, "".join(pieces), start, end, position)
    return Line(row, None, "", str(index.facts["title"].iat[row]), index.text(row)[:OPENING])


def _line(row: int, text: str, start: int, end: int, position: int | None) -> Line:
    before = text[max(0, start - CONTEXT) : start]
    return Line(row, position, before, text[start:end], text[end : end + CONTEXT])


def position_at(pieces: Sequence[str], character: int) -> int | None:
    """The token (the first is 1) that holds a character of the text; None beyond the last one."""
    ends = list(accumulate(map(len, pieces)))
    place = int(np.searchsorted(ends, character, side="right"))
    return place + 1 if place < len(ends) else None
