"""Writes a corpus folder: documents, tokenizer, token shards and, last, the manifest."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from model.data.documents import CorpusError
from model.data.shards import FORMAT, FORMAT_VERSION, SPLITS, TOKEN_DTYPE, digest_files
from model.data.tokenizer import encode
from model.files import check_writable, new_folder, read_json, write_json

BATCH = 512
SPLIT_FILES = (".bin", ".offsets.npy", ".index.parquet")
CORPUS_NAMES = {
    *("manifest.json", "documents.parquet", "tokenizer", ".DS_Store"),
    *(split + ending for split in SPLITS for ending in SPLIT_FILES),
}


@dataclass(frozen=True)
class Settings:
    """What shapes a corpus besides its sources; kept in the manifest."""

    max_bytes_per_domain: int
    heldout_fraction: float
    seed: int


def check_out(out: Path, documents: Path | None, downloads: Path | None) -> None:
    """Try `out` before the work begins; `documents` or `downloads` are what is read.

    Raises CorpusError rather than replace something that is no corpus, or an input with the old
    corpus, or write into an input; ValueError if nothing can be written there.
    """
    if out.exists() and not out.is_dir():
        raise CorpusError(f"{out} is a file; --out needs a folder.")
    for path in (documents, downloads):
        # A folder of texts is read whole, what lies among the downloads is not.
        if path and (_holds(out, path) or (path is documents and _holds(path, out))):
            raise CorpusError(f"{out} and {path} lie one inside the other; choose another --out.")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if names and not _is_corpus(out):
        raise CorpusError(f"{out} holds something that is no corpus; choose another --out.")
    if foreign := sorted(names - CORPUS_NAMES):
        raise CorpusError(
            f"{out} holds {foreign[0]} beside its corpus, which would be lost; move it away or "
            "choose another --out."
        )
    check_writable(out.resolve())


def _holds(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _is_corpus(folder: Path) -> bool:
    try:
        return bool(read_json(folder / "manifest.json").get("format") == FORMAT)
    except ValueError:
        return False


def check_documents(documents: pd.DataFrame, losses: str) -> None:
    """Raises CorpusError when there are none, or none on one side of the split.

    losses: what was left out, as `Collector.losses` says it.
    """
    if documents.empty:
        raise CorpusError(f"No document is left: {losses or 'there are no texts'}.")
    if set(documents["split"]) != set(SPLITS):
        raise CorpusError(
            "The documents are too few, or of too few parents, to hold some out; "
            "give more of them or a larger --heldout-fraction."
        )


def write_corpus(
    documents: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    left_out: dict[str, int],
    out: Path,
) -> dict[str, Any]:
    """Writes the corpus to `out` and returns its manifest.

    documents: the frame of `documents.to_frame`; left_out: pieces that are no documents, by reason.
    All or nothing: a failed build leaves the old corpus as it was.
    """
    with new_folder(out.resolve()) as folder:
        documents.to_parquet(folder / "documents.parquet", index=False)
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        splits = {name: _write_split(folder, name, documents, tokenizer) for name in SPLITS}
        counts = {"splits": splits, "left_out": left_out, "digest": digest_files(folder)}
        manifest = _manifest(documents, tokenizer, settings) | counts
        write_json(folder / "manifest.json", manifest)
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
    documents: pd.DataFrame, tokenizer: PreTrainedTokenizerFast, settings: Settings
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
        "settings": asdict(settings),
    }


def _domain_counts(rows: pd.DataFrame) -> dict[str, int]:
    return {
        "documents": len(rows),
        "bytes": sum(len(text.encode()) for text in rows["text"]),
        **{split: int((rows["split"] == split).sum()) for split in SPLITS},
    }
