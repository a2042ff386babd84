"""Documents on disk while a corpus is built: their texts are never all in memory.

Part 7 is `texts-00007.bin`, UTF-8 texts end to end, and `rows-00007.parquet`, written after it: a
row a document, and in its metadata how far the reading had come. In memory is the part that has
begun.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from model.data.documents import Document, Marks
from model.data.places import texts_file
from model.files import new_file

PART_BYTES = 1 << 22  # of texts
STATE = b"emo-viz-state"
TEXT = pa.string()
SCHEMA = pa.schema(
    {
        **dict.fromkeys(("id", "domain", "source", "licence", "rights", "parent", "group"), TEXT),
        "part": pa.int64(),
        "start": pa.int64(),
        "bytes": pa.int64(),
        "place": TEXT,
        "letters": TEXT,
        "lines": pa.list_(pa.uint64()),
    }
)
ROWS = [name for name in SCHEMA.names if name not in ("place", "letters", "lines")]
State = dict[str, Any]


class Spool:
    """Takes documents, in order, and gives their rows and texts back.

    `state` is the reading's at the end of the last part that is whole, None if there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state: State | None = None
        self.parts = 0
        self._texts, self._rows = bytearray(), list[dict[str, Any]]()

    def take_up(self, known: Callable[[pd.DataFrame], None]) -> None:
        """Goes on after the parts that are whole; `known` gets the rows of each, with marks."""
        while (table := self._part(self.parts)) is not None:
            known(table.to_pandas())
            self.state = json.loads(table.schema.metadata[STATE])
            self.parts += 1

    def _part(self, number: int) -> "pa.Table | None":
        with suppress(OSError, pa.ArrowException):
            table = pq.read_table(rows_file(self.folder, number))
            size = int(pa.compute.sum(table.column("bytes")).as_py() or 0)
            if texts_file(self.folder, number).stat().st_size == size:
                return table
        return None

    def add(self, document: Document, own: Marks, place: str) -> None:
        """Keeps a document."""
        row = asdict(document)
        encoded = row.pop("text").encode()
        row |= {"start": len(self._texts), "bytes": len(encoded), "place": place}
        self._rows.append(row | own._asdict())
        self._texts += encoded

    def text_ends(self, state: Callable[[], State]) -> None:
        """Says that all documents of a text are in; a part that is full is written."""
        if len(self._texts) >= PART_BYTES:
            self.write(state())

    def write(self, state: State) -> None:
        """Writes the part that has begun. Raises ValueError if it cannot be written."""
        with new_file(texts_file(self.folder, self.parts)) as temporary:
            temporary.write_bytes(self._texts)
        table = pa.Table.from_pylist(self._rows, SCHEMA)
        with new_file(rows_file(self.folder, self.parts)) as temporary:
            pq.write_table(table.replace_schema_metadata({STATE: json.dumps(state)}), temporary)
        self.state, self.parts = state, self.parts + 1
        self._texts, self._rows = bytearray(), []

    def rows(self) -> Iterator[list[dict[str, Any]]]:
        """The rows of each part, columns ROWS, in the order they came."""
        for number in range(self.parts):
            yield pq.read_table(rows_file(self.folder, number), columns=ROWS).to_pylist()


def rows_file(folder: Path, number: int) -> Path:
    """Where the rows of a part are."""
    return folder / f"rows-{number:05d}.parquet"
