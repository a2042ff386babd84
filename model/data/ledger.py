"""The documents of a build, a row each, on disk: where their texts lie, their split, their order.

SQLite holds a few megabytes of it in memory, however many documents there are. The file is made
anew by every build, from the parts of its spool.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.documents import digest, held_groups
from model.data.known import new_database
from model.data.places import Where

NAME = "documents.sqlite"
TABLES = """
CREATE TABLE arrived (
  number INTEGER PRIMARY KEY, id TEXT, domain TEXT, source TEXT, licence TEXT, rights TEXT,
  parent TEXT, part INTEGER, file INTEGER, start INTEGER, bytes INTEGER);
CREATE TABLE parents (
  domain TEXT, parent TEXT, "group" TEXT, bytes INTEGER, PRIMARY KEY (domain, parent)
) WITHOUT ROWID;
CREATE TABLE groups (
  domain TEXT, key TEXT, name TEXT, bytes INTEGER, PRIMARY KEY (domain, key, name)) WITHOUT ROWID;
CREATE TABLE held (domain TEXT, name TEXT, PRIMARY KEY (domain, name)) WITHOUT ROWID;
CREATE TABLE keys (split TEXT, key TEXT, number INTEGER, PRIMARY KEY (split, key, number)
) WITHOUT ROWID;
CREATE TABLE documents (
  position INTEGER PRIMARY KEY, number INTEGER, split TEXT, why TEXT DEFAULT '', seen REAL);
CREATE VIEW rows AS SELECT * FROM documents CROSS JOIN arrived USING (number);
"""
ARRIVE = "INSERT INTO arrived VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
ARRIVING = ("id", "domain", "source", "licence", "rights", "parent", "part")
ADD = """
INSERT INTO parents VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes"""
# Each goes through its tables in the order of their keys: nothing is sorted in memory.
GROUP = """
INSERT INTO groups SELECT domain, order_of('heldout', "group"), "group", bytes FROM parents
WHERE true ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes"""
KEY = """
INSERT INTO keys SELECT iif(held.name IS NULL, 'train', 'heldout'), order_of(?, id), number
FROM arrived CROSS JOIN parents USING (domain, parent)
LEFT JOIN held ON held.domain = parents.domain AND held.name = parents."group" """
ORDER = """
INSERT INTO documents (position, number, split)
SELECT row_number() OVER (ORDER BY split, key, number) - 1, number, split FROM keys"""


class Ledger:
    """Takes the rows of a spool; once they are ordered, a document is a position, 0 upwards.

    documents, bytes: of each domain, as they arrived.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / NAME
        self._base = new_database(self.file, TABLES)
        self._base.create_function("order_of", 2, digest, deterministic=True)
        self.documents: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def close(self) -> None:
        """Lets go of the file."""
        self._base.close()

    def fill(self, parts: Iterable[list[dict[str, Any]]]) -> None:
        """Takes the rows of each part in turn, with `file`, the part's number."""
        for number, rows in enumerate(parts):
            self._base.execute("BEGIN")
            self._base.executemany(
                ARRIVE,
                (
                    (*(row[name] for name in ARRIVING), number, row["start"], row["bytes"])
                    for row in rows
                ),
            )
            names = ("domain", "parent", "group", "bytes")
            self._base.executemany(ADD, ([row[name] for name in names] for row in rows))
            self._base.execute("COMMIT")
            for row in rows:
                self.documents[row["domain"]] += 1
                self.bytes[row["domain"]] += row["bytes"]

    def order(self, heldout_fraction: float, seed: int) -> None:
        """Splits the documents and orders them: held-out ones first, each split in an order that
        mixes the domains and depends on nothing but ids and seed."""
        self._base.execute("BEGIN")
        self._base.execute(GROUP)
        for domain, size in self.bytes.items():
            query = "SELECT name, bytes FROM groups WHERE domain = ? ORDER BY key"
            names = held_groups(self._base.execute(query, (domain,)), heldout_fraction * size)
            self._base.executemany("INSERT INTO held VALUES (?, ?)", ((domain, n) for n in names))
        self._base.execute(KEY, (seed,))
        self._base.execute(ORDER)
        self._base.execute("COMMIT")

    def span(self, split: str) -> range:
        """The positions of a split."""
        query = "SELECT count(*) FROM keys WHERE split = ?"
        sizes = [self._base.execute(query, (name,)).fetchone()[0] for name in ("heldout", "train")]
        return range(sizes[0]) if split == "heldout" else range(sizes[0], sum(sizes))

    def sizes(self, positions: range) -> Iterator[int]:
        """The bytes of the texts at these positions."""
        query = "SELECT bytes FROM rows WHERE position >= ? AND position < ? ORDER BY position"
        return (size for (size,) in self._base.execute(query, _ends(positions)))

    def wheres(self, positions: range) -> Iterator[tuple[str, Where]]:
        """Domain and place of each text at these positions."""
        return _wheres(self._base, positions)

    def leave(self, reasons: Iterable[tuple[int, str]]) -> None:
        """Leaves out documents: the position of each, and why."""
        self._base.executemany(
            "UPDATE documents SET why = ? WHERE position = ?", ((why, at) for at, why in reasons)
        )

    def stays(self, positions: range) -> NDArray[np.bool_]:
        """Whether the documents at these positions stay [positions]."""
        query = "SELECT position FROM documents WHERE position >= ? AND position < ? AND why <> ''"
        stays = np.ones(len(positions), bool)
        for (position,) in self._base.execute(query, _ends(positions)):
            stays[position - positions.start] = False
        return stays

    def see(self, shares: Iterable[float]) -> None:
        """Says what is seen of the held-out documents, in their order."""
        self._base.executemany(
            "UPDATE documents SET seen = ? WHERE position = ?",
            ((share, at) for at, share in enumerate(shares)),
        )

    def batches(self, size: int, split: str | None = None) -> Iterator[list[Mapping[str, Any]]]:
        """The rows that stay, in order, so many at a time; of one split if asked."""
        query = "SELECT * FROM rows WHERE why = '' AND split = ifnull(?, split) ORDER BY position"
        cursor = self._base.execute(query, (split,))
        names = [column[0] for column in cursor.description]
        while rows := cursor.fetchmany(size):
            yield [dict(zip(names, row, strict=True)) for row in rows]


def texts_at(file: Path, positions: range) -> list[Where]:
    """Where the texts at some positions of the ledger `file` lie; any process may ask."""
    with closing(sqlite3.connect(file.absolute().as_uri() + "?mode=ro", uri=True)) as base:
        return [where for _, where in _wheres(base, positions)]


def _wheres(base: sqlite3.Connection, positions: range) -> Iterator[tuple[str, Where]]:
    query = (
        "SELECT domain, file, start, bytes FROM rows WHERE position >= ? AND position < ? "
        "ORDER BY position"
    )
    return ((row[0], Where(*row[1:])) for row in base.execute(query, _ends(positions)))


def _ends(positions: range) -> tuple[int, int]:
    return positions.start, positions.stop
