"""What a build has kept so far, on disk: ids, and the hashes by which documents are known again.

SQLite holds a few megabytes of it in memory, however much there is. The file lasts as long as the
build that makes it: one that goes on fills it anew from its parts.
"""

import sqlite3
from pathlib import Path

from model.data.documents import NEAR_DUPLICATE_SHARE, Marks, Reason

CACHE = 8192  # KiB
SIGNED = 2**63  # an unsigned number of 64 bits less this is one that SQLite can hold
TABLES = """
CREATE TABLE ids (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID;
CREATE TABLE letters (hash BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE lines (domain INTEGER, hash INTEGER, PRIMARY KEY (domain, hash)) WITHOUT ROWID;
"""


def new_database(file: Path | str, tables: str) -> sqlite3.Connection:
    """A database with these empty tables at `file`, whatever was there ("": one without a name).

    It is not made to outlive the process: nothing is written twice for safety's sake.
    """
    if file:
        Path(file).unlink(missing_ok=True)
    base = sqlite3.connect(file, isolation_level=None)
    base.execute(f"PRAGMA cache_size = -{CACHE}")
    base.execute("PRAGMA journal_mode = OFF")
    base.execute("PRAGMA synchronous = OFF")
    base.executescript(tables)
    return base


class Known:
    """Says which documents are new: exact over all domains, near duplicates within a domain."""

    def __init__(self, file: Path | str = "") -> None:
        self._base = new_database(file, TABLES)
        self._base.execute("BEGIN")
        self._domains: dict[str, int] = {}

    def why_not(self, domain: str, own: Marks) -> Reason | None:
        """Why a document of a domain is not new, or None."""
        if self._one("SELECT 1 FROM letters WHERE hash = ?", bytes.fromhex(own.letters)):
            return "duplicate"
        known = self._known_lines(domain, own.lines)
        repeated = sum(line in known for line in own.lines)
        return "near_duplicate" if repeated > NEAR_DUPLICATE_SHARE * len(own.lines) else None

    def _known_lines(self, domain: str, lines: list[int]) -> set[int]:
        marks = ", ".join("?" * len(lines))
        query = f"SELECT hash FROM lines WHERE domain = ? AND hash IN ({marks})"
        values = [self._number(domain), *(line - SIGNED for line in lines)]
        return {found + SIGNED for (found,) in self._base.execute(query, values)}

    def place_of(self, name: str) -> str | None:
        """Where the document of this id stood, None if there is none."""
        found = self._one("SELECT place FROM ids WHERE id = ?", name)
        return None if found is None else str(found[0])

    def remember(self, domain: str, own: Marks, name: str, place: str) -> None:
        """Takes a document as known from now on."""
        number = self._number(domain)
        self._base.execute("INSERT INTO ids VALUES (?, ?)", (name, place))
        self._base.execute("INSERT INTO letters VALUES (?)", (bytes.fromhex(own.letters),))
        self._base.executemany(
            "INSERT OR IGNORE INTO lines VALUES (?, ?)",
            ((number, line - SIGNED) for line in own.lines),
        )

    def close(self) -> None:
        """Lets go of the file."""
        self._base.close()

    def _number(self, domain: str) -> int:
        return self._domains.setdefault(domain, len(self._domains))

    def _one(self, query: str, value: object) -> "tuple[object, ...] | None":
        found: tuple[object, ...] | None = self._base.execute(query, (value,)).fetchone()
        return found
