"""Which held-out documents measure a model, and how much of each was seen in training.

Of every domain some documents are evaluated and others choose its experts (calibration); the two
share no parent. A document's `seen` is the share of its sequences of SEQUENCE tokens that occur in
the training split: templates and boilerplate recur however documents are split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.data.alike import sequence_hashes
from model.data.documents import digest
from model.data.shards import Ids, TokenShard

SEQUENCE = 20
MAX_TOKENS = 256
MIN_TOKENS = 64
EVALUATED, CALIBRATION = "evaluated", "calibration"
Role = Literal["evaluated", "calibration"]
BLOCK = 1 << 18  # training tokens hashed at a time: they stay in the processor's cache
AT_ONCE = 1 << 23  # tokens of held-out documents whose hashes are in memory


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


def seen_shares(
    train: NDArray[Ids], documents: Sequence[NDArray[Any]], length: int = SEQUENCE
) -> list[float]:
    """The share of each document's sequences of `length` tokens that are in the training stream.

    The opening end-of-text token is of no sequence. 0 for a document shorter than that. Reads the
    stream once for every AT_ONCE tokens of documents.
    """
    sizes = np.cumsum([len(tokens) for tokens in documents])
    edges = np.arange(AT_ONCE, sizes[-1] if len(sizes) else 0, AT_ONCE)
    bounds = np.unique([0, *np.searchsorted(sizes, edges), len(documents)]).tolist()
    return [
        share
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
        for share in _seen_shares(train, documents[start:end], length)
    ]


def _seen_shares(
    train: NDArray[Ids], documents: Sequence[NDArray[Any]], length: int
) -> list[float]:
    own = [sequence_hashes(np.asarray(tokens[1:]), length) for tokens in documents]
    wanted = np.unique(np.concatenate([*own, np.empty(0, np.uint64)]))
    found = np.zeros(len(wanted), bool)
    shift, likely = _sieve(wanted)
    for block in _blocks(train, length) if len(wanted) else ():
        hashes = sequence_hashes(block, length)
        hashes = hashes[likely[hashes >> shift]]
        places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        found[places[wanted[places] == hashes]] = True
    return [
        float(found[np.searchsorted(wanted, each)].mean()) if len(each) else 0.0 for each in own
    ]


def _sieve(wanted: NDArray[np.uint64]) -> tuple[np.uint64, NDArray[np.bool_]]:
    """Which first bits any of the hashes has, and how far to shift for them: one in sixteen other
    hashes has them too."""
    bits = min(28, max(8, len(wanted).bit_length() + 4))
    shift = np.uint64(64 - bits)
    likely = np.zeros(1 << bits, bool)
    likely[wanted >> shift] = True
    return shift, likely


def _blocks(train: NDArray[Ids], length: int) -> Iterator[NDArray[Ids]]:
    for start in range(0, len(train), BLOCK):
        yield train[start : start + BLOCK + length - 1]
