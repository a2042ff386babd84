"""Writes a corpus from a spool of documents: tokens, split, filters, digest.

Texts and tokens are in memory a part at a time (`model.data.spool`, `model.data.tokens`); what
stays is a row a document, without its text.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from model.data.alike import Alike
from model.data.documents import COLUMNS, CorpusError, Reason, digest, held_out_parents
from model.data.heldout import seen_shares
from model.data.places import read_texts_at
from model.data.shards import DTYPES, FORMAT, SPLITS, Ids, digest_files, version_of
from model.data.spool import wheres
from model.data.tokenizer import load_tokenizer, sample_of, train_on, vocabulary_size
from model.data.tokens import Job, Part, Recipe, each_part, jobs_of, make_parts
from model.files import new_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH = 1024
MOST_UNKNOWN = 0.5  # of a corpus' tokens; more say that the tokenizer is for other texts
SCHEMA = pa.schema(
    [(name, {"part": pa.int64(), "seen": pa.float64()}.get(name, pa.string())) for name in COLUMNS]
)
Leaving = dict[str, NDArray[np.object_]]


@dataclass(frozen=True)
class Settings:
    """What shapes a corpus besides its sources; kept in the manifest.

    heldout_fraction: 0 is left to the build, which fits it to the documents.
    no_repetition: documents that repeat a few tokens over and over leave the training split.
    apart: so do those that are as alike as this, or more, to a held-out one (0 to 1).
    """

    max_bytes_per_domain: int
    heldout_fraction: float
    seed: int
    no_repetition: bool = False
    apart: float | None = None


def ordered(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The rows of a spool with their `split`, held-out ones first, each in an order that mixes the
    domains and depends on nothing but ids and seed."""
    held = pd.Series(False, rows.index)
    for _, own in rows.groupby("domain", sort=False):
        documents = own[["parent", "group", "bytes"]].itertuples(index=False, name=None)
        parents = held_out_parents(documents, settings.heldout_fraction)
        held.loc[own.index] = own["parent"].isin(parents)
    split = np.where(held, "heldout", "train")
    keys = [digest(settings.seed, name) for name in rows["id"]]
    return (
        rows.assign(split=split, key=keys)
        .sort_values(["split", "key"], kind="stable")
        .drop(columns="key")
        .reset_index(drop=True)
    )


def make_tokenizer(
    documents: pd.DataFrame, spool: Path, vocab_size: int
) -> "PreTrainedTokenizerFast":
    """A tokenizer trained on as much of each domain's training split; kept in the spool."""
    if (spool / "tokenizer").is_dir():
        return load_tokenizer(spool / "tokenizer")
    train = documents[documents["split"] == "train"]
    samples = (sample_of(read_texts_at(spool, wheres(rows))) for _, rows in train.groupby("domain"))
    tokenizer = train_on((text for sample in samples for text in sample), vocab_size)
    with new_folder(spool / "tokenizer") as folder:
        tokenizer.save_pretrained(str(folder))
    return tokenizer


def write_corpus(
    documents: pd.DataFrame,
    spool: Path,
    tokenizer: "PreTrainedTokenizerFast",
    settings: Settings,
    left_out: Counter[Reason],
    out: Path,
    workers: int = 1,
) -> dict[str, Any]:
    """Writes the corpus to `out` and returns its manifest.

    documents: `ordered` rows; left_out: pieces that are no documents, by reason, to which those
    are added that leave the training split here. All or nothing: a failed build leaves the old
    corpus as it was. Any number of workers gives the same bytes. Raises CorpusError if nothing is
    left to train on, or the tokenizer does not know the texts.
    """
    version = version_of(vocabulary_size(tokenizer))
    recipe = _recipe(tokenizer, settings, DTYPES[version])
    jobs = _make_tokens(documents, spool, recipe, workers)
    leaving = _leaving(jobs, settings)
    left_out.update(reason for reason in leaving["train"] if reason)
    kept = documents[np.concatenate([leaving[split] == "" for split in sorted(SPLITS)])]
    if set(kept["split"]) != set(SPLITS):
        raise CorpusError("Every training document is left out; ask for less, or give more texts.")
    with new_folder(out.resolve()) as folder:
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        splits = {name: _write_split(folder, name, kept, jobs, leaving) for name in SPLITS}
        _check_known(splits)
        kept = kept.assign(seen=_seen(folder, kept, DTYPES[version]))
        _write_documents(folder / "documents.parquet", kept, spool)
        about = {"format_version": version, "splits": splits, "left_out": dict(left_out)}
        manifest = _manifest(kept, tokenizer, settings) | about
        manifest["digest"] = digest_files(folder)
        write_json(folder / "manifest.json", manifest)
    return manifest


def _recipe(
    tokenizer: "PreTrainedTokenizerFast", settings: Settings, kind: "np.dtype[Ids]"
) -> Recipe:
    return Recipe(
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.eos_token_id,
        tokenizer.unk_token_id,
        kind.str,
        settings.no_repetition,
        settings.apart is not None,
    )


def _make_tokens(
    documents: pd.DataFrame, spool: Path, recipe: Recipe, workers: int
) -> dict[str, list[Job]]:
    jobs = {
        split: jobs_of(split, spool, wheres(documents[documents["split"] == split]))
        for split in SPLITS
    }
    with tqdm(total=len(documents), desc="tokens", unit=" documents") as bar:
        make_parts([job for split in SPLITS for job in jobs[split]], recipe, workers, bar.update)
    return jobs


def _leaving(jobs: dict[str, list[Job]], settings: Settings) -> Leaving:
    """Why each document leaves the training split, "" for those that stay [documents]."""
    alike = Alike(settings.apart) if settings.apart is not None else None
    held = 0
    for part in each_part(jobs["heldout"]):
        held += len(part.lengths)
        if alike:
            alike.add(part.signatures)
    reasons = [why for part in each_part(jobs["train"]) for why in _reasons(part, alike)]
    return {"heldout": np.full(held, "", object), "train": np.array(reasons, object)}


def _reasons(part: Part, alike: Alike | None) -> Iterator[str]:
    repeats = part.repeats if len(part.repeats) else np.zeros(len(part.lengths), bool)
    for number, repetitive in enumerate(repeats):
        near = alike is not None and not repetitive and alike.found(part.signatures[number])
        yield "repetitive" if repetitive else "near_heldout" if near else ""


def _write_split(
    folder: Path, split: str, kept: pd.DataFrame, jobs: dict[str, list[Job]], leaving: Leaving
) -> dict[str, int]:
    unknown, lengths, done = 0, [np.zeros(1, np.int64)], 0
    with (folder / f"{split}.bin").open("wb") as file:
        for part in each_part(jobs[split]):
            stays = leaving[split][done : done + len(part.lengths)] == ""
            file.write(part.ids[np.repeat(stays, part.lengths)].tobytes())
            lengths.append(part.lengths[stays])
            done, unknown = done + len(stays), unknown + int(part.unknown.sum())
    offsets = np.cumsum(np.concatenate(lengths)).astype(np.int64)
    np.save(folder / f"{split}.offsets.npy", offsets)
    rows = kept.loc[kept["split"] == split, ["id", "domain"]]
    rows.to_parquet(folder / f"{split}.index.parquet", index=False)
    counts = {"tokens": int(offsets[-1]), "documents": len(rows)}
    return counts | ({"unknown": unknown} if unknown else {})


def _check_known(splits: dict[str, dict[str, int]]) -> None:
    tokens = sum(split["tokens"] for split in splits.values())
    unknown = sum(split.get("unknown", 0) for split in splits.values())
    if unknown > MOST_UNKNOWN * tokens:
        raise CorpusError(
            f"The tokenizer does not know these texts: {unknown / tokens:.0%} of {tokens:,} tokens "
            "are its unknown one; give another --tokenizer, or none to train one."
        )


def _seen(folder: Path, kept: pd.DataFrame, kind: "np.dtype[Ids]") -> NDArray[np.float64]:
    """The column `seen` [documents]."""
    train, heldout = (np.memmap(folder / f"{name}.bin", kind, "r") for name in SPLITS)
    offsets = np.load(folder / "heldout.offsets.npy")
    pairs = zip(offsets[:-1], offsets[1:], strict=True)
    shares = seen_shares(train, [heldout[start:end] for start, end in pairs])
    column = np.full(len(kept), np.nan)
    column[(kept["split"] == "heldout").to_numpy()] = shares
    return column


def _write_documents(path: Path, kept: pd.DataFrame, spool: Path) -> None:
    """The table of documents, a batch of texts in memory at a time."""
    with path.open("wb") as raw, pq.ParquetWriter(raw, SCHEMA) as file:
        for start in tqdm(range(0, len(kept), BATCH), desc="documents", unit=" batches"):
            rows = kept.iloc[start : start + BATCH]
            rows = rows.assign(text=list(read_texts_at(spool, wheres(rows))))
            file.write_table(pa.Table.from_pandas(rows[COLUMNS], SCHEMA, preserve_index=False))


def _manifest(
    documents: pd.DataFrame, tokenizer: "PreTrainedTokenizerFast", settings: Settings
) -> dict[str, Any]:
    domains = {str(name): _domain_counts(rows) for name, rows in documents.groupby("domain")}
    return {
        "format": FORMAT,
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
        "bytes": int(rows["bytes"].sum()),
        **{split: int((rows["split"] == split).sum()) for split in SPLITS},
    }
