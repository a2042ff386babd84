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
# Each corpus is of the first version that can say it: 2 has ids of 32 bits.
Ids = np.uint16 | np.uint32
DTYPES: dict[int, np.dtype[Ids]] = {1: np.dtype("<u2"), 2: np.dtype("<u4")}
SPLITS = ("train", "heldout")
# What a training run sees of a corpus.
DIGESTED = ("train.bin", "heldout.bin", "heldout.offsets.npy", "tokenizer/tokenizer.json")


@dataclass(frozen=True)
class TokenShard:
    """One split of a corpus.

    tokens: uint16 [tokens] (uint32 if the vocabulary has more than 65,536 ids), memory-mapped;
    each document is the end-of-text id and its tokens.
    offsets: int64 [documents + 1], where each document starts.
    index: one row a document, columns id and domain, in the order of the tokens; of a packed
    corpus (`model.data.pack`) domain alone in training, role and seen as well of held-out ones.
    """

    tokens: NDArray[Ids]
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
            tokens = np.memmap(folder / f"{split}.bin", dtype=token_dtype(manifest), mode="r")
        except (OSError, ValueError, EOFError, TokenError) as error:
            raise ValueError(_damaged(folder, split)) from error
        if not _fit(offsets, index, tokens) or not _as_counted(manifest, split, tokens):
            raise ValueError(_damaged(folder, split))
        return cls(tokens, offsets, index)

    def __len__(self) -> int:
        return len(self.index)

    def document(self, position: int) -> NDArray[Ids]:
        """Token ids of a document, end-of-text first: [length]."""
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


def _fit(offsets: NDArray[Any], index: pd.DataFrame, tokens: NDArray[Ids]) -> bool:
    """Whether the documents that the offsets tell apart are those of the index and the tokens."""
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) != len(index) + 1:
        return False
    in_order = bool((offsets[1:] >= offsets[:-1]).all())
    return bool(offsets[0] == 0 and offsets[-1] == len(tokens) and in_order)


def _as_counted(manifest: dict[str, Any], split: str, tokens: NDArray[Ids]) -> bool:
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
    if found not in [(FORMAT, version) for version in DTYPES]:
        raise ValueError(
            f"The corpus in {folder} is {found[0]} version {found[1]}, not {FORMAT} version "
            f"{max(DTYPES)} or earlier; run python -m model.data build again."
        )
    return manifest


def token_dtype(manifest: dict[str, Any]) -> np.dtype[Ids]:
    """What the token ids of a corpus are stored as."""
    return DTYPES[manifest["format_version"]]


def version_of(vocabulary: int) -> int:
    """The first format version that has room for so many ids."""
    fitting = (
        version for version, kind in DTYPES.items() if vocabulary <= 2 ** (8 * kind.itemsize)
    )
    return next(fitting)
