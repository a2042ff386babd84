"""Reads token shards, memory-mapped.

>>> shard = TokenShard.open("data/corpus", "train")  # doctest: +SKIP
>>> shard.document(0)[0]  # every document opens with the end-of-text token  # doctest: +SKIP
0
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FORMAT = "emo-viz-corpus"
FORMAT_VERSION = 1
SPLITS = ("train", "heldout")
TOKEN_DTYPE = np.dtype("<u2")


@dataclass(frozen=True)
class TokenShard:
    """One split of a corpus.

    tokens: uint16 [tokens], memory-mapped; each document is the end-of-text id and its tokens.
    offsets: int64 [documents + 1], where each document starts.
    index: one row a document, columns id and domain, in the order of the tokens.
    """

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    index: pd.DataFrame

    @classmethod
    def open(cls, folder: str | Path, split: str) -> Self:
        """Maps a split. Raises ValueError when the corpus is missing, foreign or damaged."""
        folder = Path(folder)
        read_manifest(folder)
        if split not in SPLITS:
            raise ValueError(f"There is no split {split!r}; choose train or heldout.")
        try:
            offsets = np.load(folder / f"{split}.offsets.npy")
            index = pd.read_parquet(folder / f"{split}.index.parquet")
            tokens = np.memmap(folder / f"{split}.bin", dtype=TOKEN_DTYPE, mode="r")
        except (OSError, ValueError) as error:
            raise ValueError(_damaged(folder, split)) from error
        if len(offsets) != len(index) + 1 or offsets[-1] != len(tokens):
            raise ValueError(_damaged(folder, split))
        return cls(tokens, offsets, index)

    def __len__(self) -> int:
        return len(self.index)

    def document(self, position: int) -> NDArray[np.uint16]:
        """Token ids of a document, end-of-text first: uint16 [length]."""
        return self.tokens[self.offsets[position] : self.offsets[position + 1]]


def _damaged(folder: Path, split: str) -> str:
    return f"{folder}/{split}.* are incomplete or damaged; run python -m model.data build again."


def read_manifest(folder: Path) -> dict[str, object]:
    """The manifest of a finished corpus; ValueError when there is none or it is foreign."""
    try:
        manifest = dict(json.loads((folder / "manifest.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"The corpus in {folder} does not exist or was not finished; "
            "run python -m model.data build."
        ) from None
    except (ValueError, TypeError):
        raise ValueError(
            f"{folder}/manifest.json is damaged; run python -m model.data build again."
        ) from None
    found = (manifest.get("format"), manifest.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"The corpus in {folder} is {found[0]} version {found[1]}, not {FORMAT} version "
            f"{FORMAT_VERSION}; run python -m model.data build again."
        )
    return manifest
