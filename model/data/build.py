"""Writes a corpus folder: documents, tokenizer, token shards and, last, the manifest."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from model.data.documents import CorpusError
from model.data.shards import FORMAT, FORMAT_VERSION, SPLITS, TOKEN_DTYPE
from model.data.tokenizer import encode

BATCH = 512


@dataclass(frozen=True)
class Settings:
    """What shapes a corpus besides its sources; kept in the manifest."""

    max_bytes_per_domain: int
    heldout_fraction: float
    seed: int


def check_out(out: Path) -> None:
    """Raises CorpusError rather than replace something that is no corpus."""
    if out.exists() and not out.is_dir():
        raise CorpusError(f"{out} is a file; --out needs a folder.")
    if out.is_dir() and any(out.iterdir()) and not _is_corpus(out):
        raise CorpusError(f"{out} holds something that is no corpus; choose another --out.")


def _is_corpus(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "manifest.json").read_text())["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def check_documents(documents: pd.DataFrame) -> None:
    """Raises CorpusError when there are none, or none on one side of the split."""
    if documents.empty:
        raise CorpusError("No document is left; a text needs at least 400 characters.")
    if set(documents["split"]) != set(SPLITS):
        raise CorpusError(
            "The documents are too few, or of too few parents, to hold some out; "
            "give more of them or a larger --heldout-fraction."
        )


def write_corpus(
    documents: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, settings: Settings, out: Path
) -> dict[str, Any]:
    """Writes the corpus to `out` and returns its manifest.

    documents: the frame of `documents.to_frame`. Everything goes to a neighbour folder that takes
    the place of `out` when it is complete, so a failed build leaves the old corpus as it was.
    """
    out = out.resolve()
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    documents.to_parquet(partial / "documents.parquet", index=False)
    tokenizer.save_pretrained(str(partial / "tokenizer"))
    splits = {name: _write_split(partial, name, documents, tokenizer) for name in SPLITS}
    manifest = _manifest(documents, tokenizer, splits, settings)
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    _replace(partial, out)
    return manifest


def _write_split(
    folder: Path, split: str, documents: pd.DataFrame, tokenizer: PreTrainedTokenizerFast
) -> dict[str, int]:
    rows = documents[documents["split"] == split]
    lengths = []
    with (folder / f"{split}.bin").open("wb") as file:
        for start in tqdm(range(0, len(rows), BATCH), desc=f"tokens of {split}", unit="batch"):
            for ids in encode(tokenizer, rows["text"].iloc[start : start + BATCH].tolist()):
                file.write(np.array([tokenizer.eos_token_id, *ids], dtype=TOKEN_DTYPE).tobytes())
                lengths.append(len(ids) + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    np.save(folder / f"{split}.offsets.npy", offsets)
    rows[["id", "domain"]].to_parquet(folder / f"{split}.index.parquet", index=False)
    return {"tokens": int(offsets[-1]), "documents": len(rows)}


def _manifest(
    documents: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    splits: dict[str, dict[str, int]],
    settings: Settings,
) -> dict[str, Any]:
    domains = {str(name): _domain_counts(rows) for name, rows in documents.groupby("domain")}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "documents": len(documents),
        "domains": domains,
        "tokenizer": {
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        "splits": splits,
        "settings": asdict(settings),
    }


def _domain_counts(rows: pd.DataFrame) -> dict[str, int]:
    return {
        "documents": len(rows),
        "bytes": sum(len(text.encode()) for text in rows["text"]),
        **{split: int((rows["split"] == split).sum()) for split in SPLITS},
    }


def _replace(partial: Path, out: Path) -> None:
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)
