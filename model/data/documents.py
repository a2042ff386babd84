"""What a document is, and how texts become documents: cleaned, cut, deduplicated, split.

Everything here depends on its input alone, so a corpus built twice is the same twice.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

MIN_CHARS = 400
# Well below the 20,000 a document may have: short enough to read, and enough of them a domain.
MAX_CHARS = 6_000
LONG_LINE = 50
NEAR, FURTHER = 256, 16  # characters before the middle to look for a boundary; times as many next
NEAR_DUPLICATE_SHARE = 0.6
# A group that would carry the held-out part past this multiple of its target stays in training.
HELDOUT_SLACK = 1.15

# Half a surrogate pair is no character: no file can hold it.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\ufeff\ud800-\udfff]")
BLANK_LINES = re.compile(r"\n{3,}")
# From the most to the least natural place to cut: between blocks, paragraphs, lines, sentences,
# words.
BOUNDARIES = tuple(
    re.compile(pattern)
    for pattern in (r"\n\n(?=\S)", r"\n\n", r"\n", r"[.!?。！？][\"'’”」]*\s*", r" ")
)


# Why a text, or a piece of one, is not in the corpus.
Reason = Literal[
    "not_utf8",
    "short",
    "undecodable",
    "duplicate",
    "near_duplicate",
    "over_limit",
    "repetitive",
    "near_heldout",
]
REASONS: dict[Reason, str] = {
    "not_utf8": "that are not UTF-8",
    "short": f"shorter than {MIN_CHARS} characters",
    "undecodable": "with characters that could not be decoded",
    "duplicate": "the same as another",
    "near_duplicate": "mostly the lines of others",
    "over_limit": "over --max-bytes-per-domain",
    "repetitive": "that repeat a few tokens over and over",
    "near_heldout": "almost the same as a held-out document",
}


class CorpusError(ValueError):
    """A mistake the caller can mend, in one sentence."""


class Unreachable(ValueError):
    """What cannot be had for now, in one sentence: nothing is wrong with what was read before."""


def printable(name: str) -> str:
    """A name of a file as it can be stored and shown: a byte that is not UTF-8 is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Text:
    """One text as a source gives it. Texts of one `group` stay on one side of the split.

    `place` says where it stands, for messages: "own.jsonl, line 3".
    """

    domain: str
    parent: str
    text: str
    group: str = ""
    source: str = ""
    licence: str = ""
    rights: str = "open"
    id: str = ""
    place: str = ""


@dataclass(frozen=True)
class Document:
    """One row of documents.parquet (`group` is used for the split and not stored)."""

    id: str
    domain: str
    source: str
    licence: str
    rights: str
    parent: str
    part: int
    split: str
    text: str
    group: str


# `seen`: of a held-out document, the share of its sequences of 20 tokens that training has too.
COLUMNS = [*(name for name in Document.__dataclass_fields__ if name != "group"), "seen"]


def clean(text: str) -> str:
    """Plain newlines, no control characters, no trailing spaces, at most one blank line."""
    text = CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).expandtabs(4)
    return BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


def cut(text: str, limit: int = MAX_CHARS) -> list[str]:
    """Pieces of at most `limit` characters that join to exactly `text`.

    Halves at the natural boundary nearest the middle, so no piece is a short remainder.
    """
    if len(text) <= limit:
        return [text]
    middle = _boundary(text)
    return cut(text[:middle], limit) + cut(text[middle:], limit)


def _boundary(text: str) -> int:
    found = (_nearest(pattern, text) for pattern in BOUNDARIES)
    return next((place for place in found if place is not None), len(text) // 2)


def _nearest(pattern: re.Pattern[str], text: str) -> int | None:
    """Where a match in the middle half of a text ends, the nearest to the middle.

    Looked for from the middle outwards: a text may have a match at every character.
    """
    low, middle, high = (len(text) * quarters // 4 for quarters in (1, 2, 3))
    reach = NEAR
    while True:
        start = max(low, middle - reach)
        before, after = _around(pattern.finditer(text, start, high), middle)
        if before is not None or start == low:
            break
        reach = len(text) if after is None else FURTHER * reach
    if before is None or after is None:
        return after if before is None else before
    return before if middle - before <= after - middle else after


def _around(matches: Iterator[re.Match[str]], middle: int) -> tuple[int | None, int | None]:
    """Where the last match that ends before the middle does so, and the next one."""
    before = None
    for match in matches:
        if match.end() >= middle:
            return before, match.end()
        before = match.end()
    return before, None


def fingerprint(text: str) -> str:
    """Same for texts that differ only in case, spacing and punctuation."""
    letters = "".join(char for char in text.casefold() if char.isalnum())
    return hashlib.sha1((letters or text).encode()).hexdigest()


def to_pieces(item: Text) -> Iterator[Document]:
    """Cleaned pieces of a text in their order, whether or not they are fit to be documents."""
    pieces = cut(clean(item.text))
    for part, piece in enumerate(piece.strip("\n").rstrip() for piece in pieces):
        yield _document(item, part, len(pieces), piece)


def unfit(piece: Document) -> Reason | None:
    """Why a piece is no document whatever else there is, or None."""
    if len(piece.text) < MIN_CHARS:
        return "short"
    return "undecodable" if "\ufffd" in piece.text else None


def _document(item: Text, part: int, parts: int, piece: str) -> Document:
    given = item.id and (item.id if parts == 1 else f"{item.id}-{part}")
    return Document(
        id=given or fingerprint(piece)[:16],
        domain=item.domain,
        source=item.source,
        licence=item.licence,
        rights=item.rights,
        parent=item.parent,
        part=part,
        split="train",
        text=piece,
        group=item.group or item.parent,
    )


class Marks(NamedTuple):
    """What tells a document from others: a hash of its letters, and one of each long line."""

    letters: str
    lines: list[int]


def marks(document: Document) -> Marks:
    """The marks by which a document is known again."""
    lines = [line for line in map(str.strip, document.text.split("\n")) if len(line) > LONG_LINE]
    return Marks(fingerprint(document.text), [_line_hash(line) for line in lines])


def _line_hash(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest())


def held_groups(groups: Iterable[tuple[str, int]], target: float) -> Iterator[str]:
    """The groups of one domain that are held out, about `target` bytes.

    groups: name and bytes of each, in the order of a hash of their names, so that the choice
    depends on nothing but names and sizes. A parent belongs to the group of its first document.
    """
    taken = 0
    for name, size in groups:
        if taken < target and taken + size <= target * HELDOUT_SLACK:
            yield name
            taken += size


def digest(*parts: object) -> str:
    """A stable key to sort by when an order should look random."""
    return hashlib.sha1("|".join(map(str, parts)).encode()).hexdigest()
