"""Reads token shards, memory-mapped.

>>> shard = TokenShard.open("data/corpus", "train")  # doctest: +SKIP
>>> shard.document(0)[0]  # every document opens with the end-of-text token  # doctest: +SKIP
0
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.files import read_json

FORMAT = "emo-viz-corpus"
FORMAT_VERSION = 1
SPLITS = ("train", "heldout")
TOKEN_DTYPE = np.dtype("<u2")
# What a training run sees of a corpus.
DIGESTED = ("train.bin", "heldout.bin", "heldout.offsets.npy", "tokenizer/tokenizer.json")


@dataclass(frozen=True)
class TokenShard:
    """One split of a corpus.

    tokens: uint16 [tokens], memory-mapped; each document is the end-of-text id and its tokens.
    offsets: int64 [documents + 1], where each document starts.
    index: one row a document, columns id and domain, in the order of the tokens; of a packed
    corpus (`model.data.pack`) domain alone in training, role and seen as well of held-out ones.
    """

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    index: pd.DataFrame

    @classmethod
    def open(cls, folder: str | Path, split: str) -> Self:
        """Maps a split. Raises ValueError when the corpus is missing, foreign or damaged."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        if split not in SPLITS:
            raise ValueError(f"There is no split {split!r}; choose train or heldout.")
        try:
            offsets = np.load(folder / f"{split}.offsets.npy")
            index = _read_index(folder, split)
            tokens = np.memmap(folder / f"{split}.bin", dtype=TOKEN_DTYPE, mode="r")
        except (OSError, ValueError, EOFError, TokenError) as error:
            raise ValueError(_damaged(folder, split)) from error
        if not _fit(offsets, index, tokens) or not _as_counted(manifest, split, tokens):
            raise ValueError(_damaged(folder, split))
        return cls(tokens, offsets, index)

    def __len__(self) -> int:
        return len(self.index)

    def document(self, position: int) -> NDArray[np.uint16]:
        """Token ids of a document, end-of-text first: uint16 [length]."""
        return self.tokens[self.offsets[position] : self.offsets[position + 1]]


def _read_index(folder: Path, split: str) -> pd.DataFrame:
    """JSON in a packed corpus, else Parquet. Raises OSError or ValueError if it cannot be read."""
    packed = folder / f"{split}.index.json"
    if packed.is_file():
        return pd.DataFrame(read_json(packed))
    import pyarrow as pa  # a machine that has a packed corpus may lack it

    try:
        return pd.read_parquet(folder / f"{split}.index.parquet")
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _fit(offsets: NDArray[Any], index: pd.DataFrame, tokens: NDArray[np.uint16]) -> bool:
    """Whether the documents that the offsets tell apart are those of the index and the tokens."""
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) != len(index) + 1:
        return False
    in_order = bool((offsets[1:] >= offsets[:-1]).all())
    return bool(offsets[0] == 0 and offsets[-1] == len(tokens) and in_order)


def _as_counted(manifest: dict[str, Any], split: str, tokens: NDArray[np.uint16]) -> bool:
    try:
        return bool(manifest["splits"][split]["tokens"] == len(tokens))
    except (LookupError, TypeError):  # a manifest that does not say
        return True


def _damaged(folder: Path, split: str) -> str:
    return f"{folder}/{split}.* are incomplete or damaged; run python -m model.data build again."


def corpus_digest(folder: Path) -> str:
    """What tells a corpus from every other: its manifest's digest, computed if it has none.

    Raises ValueError when the corpus is missing, foreign or damaged.
    """
    given = read_manifest(folder).get("digest")
    if isinstance(given, str) and given:
        return given
    try:
        return digest_files(folder)
    except OSError as error:
        raise ValueError(
            f"{error.filename} cannot be read; run python -m model.data build again."
        ) from error


def digest_files(folder: Path) -> str:
    """SHA-256 of the files DIGESTED, their names and lengths. Raises OSError if one is missing."""
    digest = hashlib.sha256()
    for name in DIGESTED:
        with (folder / name).open("rb") as file:
            digest.update(f"{name}:{(folder / name).stat().st_size}:".encode())
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished corpus; ValueError when there is none or it is foreign."""
    if not (folder / "manifest.json").is_file():
        raise ValueError(
            f"The corpus in {folder} does not exist or was not finished; "
            "run python -m model.data build."
        )
    try:
        manifest = read_json(folder / "manifest.json")
    except ValueError as error:
        raise ValueError(
            f"{folder}/manifest.json is damaged; run python -m model.data build again."
        ) from error
    found = (manifest.get("format"), manifest.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"The corpus in {folder} is {found[0]} version {found[1]}, not {FORMAT} version "
            f"{FORMAT_VERSION}; run python -m model.data build again."
        )
    return manifest
