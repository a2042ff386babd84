"""Which held-out documents measure a model, and how much of each was seen in training.

Of every domain some documents are evaluated and others choose its experts (calibration); the two
share no parent. A document's `seen` is the share of its sequences of 20 tokens that occur in
the training split: templates and boilerplate recur however documents are split.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.data.documents import digest
from model.data.seen import seen_shares
from model.data.shards import TokenShard

MAX_TOKENS = 256
MIN_TOKENS = 64
EVALUATED, CALIBRATION = "evaluated", "calibration"
Role = Literal["evaluated", "calibration"]


@dataclass(frozen=True)
class HeldOut:
    """A held-out document: its tokens (end-of-text first), what it is for, and how much is seen."""

    id: str
    domain: str
    role: Role
    seen: float
    tokens: NDArray[np.int64]


def held_out(folder: Path, evaluated: int = 12, calibration: int = 12) -> list[HeldOut]:
    """The documents to measure a model with, so many a domain; those of a packed corpus as packed.

    Raises ValueError for a corpus that is missing or damaged, or has no domain with as many.
    """
    shard = TokenShard.open(folder, "heldout")
    index = shard.index
    if "role" not in index:
        index = index.assign(role=_roles(folder, shard, evaluated, calibration))
        index = index[index["role"] != ""]
        if index.empty:
            raise ValueError(
                f"No domain of {folder} has {evaluated} held-out documents to evaluate and "
                f"{calibration} of other parents; ask for fewer, or hold more out."
            )
    found = [(int(at), shard.document(int(at))[:MAX_TOKENS].astype(np.int64)) for at in index.index]
    if "seen" not in index:
        train = TokenShard.open(folder, "train").tokens
        index = index.assign(seen=seen_shares(train, [tokens for _, tokens in found]))
    return [
        HeldOut(str(row["id"]), str(row["domain"]), row["role"], float(row["seen"]), tokens)
        for (_, row), (_, tokens) in zip(index.iterrows(), found, strict=True)
    ]


def _roles(
    folder: Path, shard: TokenShard, evaluated: int, calibration: int
) -> NDArray[np.object_]:
    """What every held-out document is for: "" for those that are not needed [documents]."""
    try:
        parents = pd.read_parquet(folder / "documents.parquet", columns=["id", "split", "parent"])
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"{folder}/documents.parquet cannot be read; run python -m model.data build again."
        ) from error
    parents = parents[parents["split"] == "heldout"].reset_index(drop=True)
    table = shard.index.assign(parent=parents["parent"], tokens=np.diff(shard.offsets))
    roles = np.full(len(table), "", object)
    for _, rows in table[table["tokens"] > MIN_TOKENS].groupby("domain"):
        for role, places in _deal(rows, evaluated, calibration).items():
            roles[places] = role
    return roles


def _deal(rows: pd.DataFrame, evaluated: int, calibration: int) -> dict[Role, list[int]]:
    """Places of one domain's documents by role; none if it cannot fill both quotas."""
    parents = sorted(rows["parent"].unique(), key=lambda name: digest("calibration", name))
    sizes = rows["parent"].value_counts()
    total = np.cumsum([sizes[name] for name in parents])
    first = parents[: int(np.searchsorted(total, calibration)) + 1]
    turn = rows.groupby("parent").cumcount().sort_values(kind="stable").index
    rows = rows.loc[turn]  # one document of each parent before a second
    for_choice = rows["parent"].isin(first)
    sides: dict[Role, list[int]] = {
        "calibration": rows.index[for_choice].tolist()[:calibration],
        "evaluated": rows.index[~for_choice].tolist()[:evaluated],
    }
    full = len(sides["calibration"]) == calibration and len(sides["evaluated"]) == evaluated
    return sides if full else {}
