"""The documents of a fine-tuning: what trains, what chooses the experts, what measures.

A corpus' training documents of the domain train, and the first of them choose a module; held-out
documents of the domain say what was gained, those of all other domains what was forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.heldout import MIN_TOKENS
from model.data.seen import seen_shares
from model.data.shards import Ids, TokenShard

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """Held-out documents to measure with: ids, domains, tokens (end-of-text first) of each.

    seen: the share of each one's sequences of 20 tokens that occur in what trains.
    """

    ids: tuple[str, ...]
    domains: tuple[str, ...]
    texts: tuple[Tokens, ...]
    seen: tuple[float, ...]

    @property
    def counts(self) -> NDArray[np.float64]:
        """Tokens that have a loss, of each document."""
        return np.array([len(text) - 1 for text in self.texts], np.float64)

    def to_json(self) -> dict[str, Any]:
        """As a result keeps them: no text."""
        counts = self.counts.astype(int).tolist()
        return {
            "id": list(self.ids),
            "domain": list(self.domains),
            "tokens": counts,
            "seen": [round(share, 4) for share in self.seen],
        }


@dataclass(frozen=True)
class Texts:
    """All that a fine-tuning reads of a corpus.

    stream: the training documents of the domains, joined. calibration: the first of them, and
    their ids. own, others: held-out documents of the domains, and of all other domains.
    """

    stream: NDArray[Ids]
    calibration: tuple[Tokens, ...]
    calibration_ids: tuple[str, ...]
    own: Measured
    others: Measured

    def to_json(self) -> dict[str, Any]:
        """What measures, as a result keeps it: no text."""
        return {"own": self.own.to_json(), "others": self.others.to_json()}

    @classmethod
    def read(
        cls,
        folder: Path,
        domains: Sequence[str],
        length: int,
        *,
        calibration: int = 16,
        own: int = 48,
        others: int = 4,
    ) -> "Texts":
        """So many documents for each purpose: `own` and `calibration` a domain, `others` of each
        other domain, all cut to `length` tokens.

        Raises ValueError if the corpus is missing or damaged, or lacks a domain.
        """
        train, heldout = TokenShard.open(folder, "train"), TokenShard.open(folder, "heldout")
        _check_domains(folder, domains, train, heldout)
        places = np.flatnonzero(train.index["domain"].isin(domains))
        stream = np.concatenate([train.document(int(place)) for place in places])
        chosen = [p for name in domains for p in _first(train, name, calibration)]
        measured = [p for name in domains for p in _first(heldout, name, own)]
        elsewhere = sorted(set(heldout.index["domain"]) - set(domains))
        rest = [p for name in elsewhere for p in _first(heldout, name, others)]
        return cls(
            stream,
            tuple(_text(train, place, length) for place in chosen),
            tuple(_id(train, place) for place in chosen),
            _measured(heldout, measured, length, stream),
            _measured(heldout, rest, length, stream),
        )


def _check_domains(
    folder: Path, domains: Sequence[str], train: TokenShard, heldout: TokenShard
) -> None:
    known = sorted(set(train.index["domain"]))
    for name in domains:
        if name not in known:
            raise ValueError(
                f"The corpus in {folder} has no domain {name!r}; it has {', '.join(known)}."
            )
        if len(_first(heldout, name, 2)) < 2:
            raise ValueError(
                f"The domain {name!r} has fewer than 2 held-out documents of more than "
                f"{MIN_TOKENS} tokens to measure with; hold more out."
            )


def _first(shard: TokenShard, domain: str, number: int) -> list[int]:
    """Places of a domain's first documents that are long enough to say something."""
    long = np.diff(shard.offsets) > MIN_TOKENS
    places = np.flatnonzero((shard.index["domain"] == domain).to_numpy() & long)
    return [int(place) for place in places[:number]]


def _text(shard: TokenShard, place: int, length: int) -> Tokens:
    return shard.document(place)[:length].astype(np.int64)


def _id(shard: TokenShard, place: int) -> str:
    return str(shard.index["id"].iloc[place]) if "id" in shard.index else f"train-{place}"


def _measured(
    shard: TokenShard, places: Sequence[int], length: int, stream: NDArray[Ids]
) -> Measured:
    texts = tuple(_text(shard, place, length) for place in places)
    return Measured(
        tuple(_id(shard, place) for place in places),
        tuple(str(shard.index["domain"].iloc[place]) for place in places),
        texts,
        tuple(seen_shares(stream, texts)) if texts else (),
    )
