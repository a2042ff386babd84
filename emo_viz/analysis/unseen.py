"""Held-out documents of which training has seen next to nothing.

A document's `seen` is the share of its sequences of 20 tokens that the training texts hold too:
templates and boilerplate recur however documents are split. `python -m emo_viz documents` writes
it; documents from elsewhere need not say it.
"""

import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

BELOW = 0.01  # what counts as next to nothing, on the pages


def says_seen(documents: pd.DataFrame) -> bool:
    """Whether any document says how much of it was seen."""
    return "seen" in documents and bool(_shares(documents).notna().any())


def read_seen(path: Path) -> pd.DataFrame:
    """Ids of the documents in a Parquet file and, where they say it, how much of each was seen.

    Raises ValueError, one sentence, for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file)
            there = [name for name in ("id", "seen") if name in table.schema_arrow.names]
            found: pd.DataFrame = table.read(there).to_pandas()
            return found
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} cannot be read as Parquet; --seen-below needs the documents that were "
            "measured."
        ) from error


def with_seen(documents: pd.DataFrame, said: pd.DataFrame) -> pd.DataFrame:
    """Documents with what `read_seen` has found of each; as they are where it has found nothing."""
    if "seen" not in said or "id" not in said:
        return documents
    shares = dict(zip(said["id"].astype(str), said["seen"], strict=True))
    return documents.assign(seen=documents["id"].astype(str).map(shares))


def unseen_ids(documents: pd.DataFrame, below: float = BELOW) -> frozenset[str]:
    """Ids of the documents of which a smaller share than `below` was seen in training.

    Raises ValueError where no document says it, or none is left.
    """
    if not says_seen(documents):
        raise ValueError(
            "The documents do not say how much of them was seen in training; choose them again "
            "from their corpus with `python -m emo_viz documents`."
        )
    ids = frozenset(documents.loc[_shares(documents) < below, "id"].astype(str))
    if not ids:
        raise ValueError(f"Training has seen {in_words(below)} or more of every document.")
    return ids


def in_words(below: float) -> str:
    """A share as a percentage."""
    return f"{100 * below:.3g}\u00a0%"


def _shares(documents: pd.DataFrame) -> "pd.Series[float]":
    """What is no share from 0 to 1 says nothing."""
    shares = pd.to_numeric(documents["seen"], errors="coerce").astype(float)
    return shares.where(shares.between(0, 1), math.nan)
