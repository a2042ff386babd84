"""Writes a corpus from a ledger and a spool of documents: tokens, filters, digest.

Texts and tokens are in memory a part at a time (`model.data.spool`, `model.data.tokens`), and some
bytes a document: where its tokens end, and what of a held-out one is seen.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from model.data.alike import Alike
from model.data.documents import COLUMNS, CorpusError, Reason
from model.data.ledger import Ledger
from model.data.places import Where, read_texts_at
from model.data.seen import TokenFile, seen_shares
from model.data.shards import DTYPES, FORMAT, SPLITS, Ids, digest_files, version_of
from model.data.tokenizer import SAMPLE_CHARS, load_tokenizer, train_on, vocabulary_size
from model.data.tokens import Job, Part, Recipe, each_part, jobs_of, make_parts
from model.files import new_folder, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH, INDEX_BATCH = 1024, 1 << 16
MOST_UNKNOWN = 0.5  # of a corpus' tokens; more say that the tokenizer is for other texts
SCHEMA = pa.schema(
    [(name, {"part": pa.int64(), "seen": pa.float64()}.get(name, pa.string())) for name in COLUMNS]
)


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


def make_tokenizer(ledger: Ledger, spool: Path, vocab_size: int) -> "PreTrainedTokenizerFast":
    """A tokenizer trained on as much of each domain's training split; kept in the spool."""
    if (spool / "tokenizer").is_dir():
        return load_tokenizer(spool / "tokenizer")
    places = _samples(ledger, spool)
    texts = (text for name in sorted(places) for text in read_texts_at(spool, places[name]))
    tokenizer = train_on(texts, vocab_size)
    with new_folder(spool / "tokenizer") as folder:
        tokenizer.save_pretrained(str(folder))
    return tokenizer


def _samples(ledger: Ledger, spool: Path) -> dict[str, list[Where]]:
    """What each domain gives to the tokenizer's training: its first documents."""
    left: dict[str, int] = dict.fromkeys(ledger.documents, SAMPLE_CHARS)
    places: dict[str, list[Where]] = {name: [] for name in left}
    for domain, place in ledger.wheres(ledger.span("train")):
        if left[domain] > 0:
            places[domain].append(place)
            left[domain] -= sum(map(len, read_texts_at(spool, [place])))
    return places


def write_corpus(
    ledger: Ledger,
    spool: Path,
    tokenizer: "PreTrainedTokenizerFast",
    settings: Settings,
    left_out: Counter[Reason],
    out: Path,
    workers: int = 1,
) -> dict[str, Any]:
    """Writes the corpus to `out` and returns its manifest.

    ledger: ordered; left_out: pieces that are no documents, by reason, to which those are added
    that leave the training split here. All or nothing: a failed build leaves the old corpus as it
    was. Any number of workers gives the same bytes. Raises CorpusError if nothing is left to train
    on, or the tokenizer does not know the texts.
    """
    version = version_of(vocabulary_size(tokenizer))
    recipe = _recipe(tokenizer, settings, DTYPES[version])
    jobs = _make_tokens(ledger, spool, recipe, workers)
    left = Counter(reason for _, reason in _leave(ledger, jobs, settings, spool))
    left_out.update(left)
    if left.total() == len(ledger.span("train")):
        raise CorpusError("Every training document is left out; ask for less, or give more texts.")
    with new_folder(out.resolve()) as folder:
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        splits = {name: _write_split(folder, name, ledger, jobs[name]) for name in SPLITS}
        _check_known(splits)
        ledger.see(_seen(folder, DTYPES[version], spool))
        domains = _write_documents(folder / "documents.parquet", ledger, spool)
        about = {"format_version": version, "splits": splits, "left_out": dict(left_out)}
        manifest = _manifest(domains, tokenizer, settings) | about
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


def _make_tokens(ledger: Ledger, spool: Path, recipe: Recipe, workers: int) -> dict[str, list[Job]]:
    jobs = {split: jobs_of(split, spool, ledger) for split in SPLITS}
    with tqdm(total=ledger.documents.total(), desc="tokens", unit=" documents") as bar:
        make_parts([job for split in SPLITS for job in jobs[split]], recipe, workers, bar.update)
    return jobs


def _leave(
    ledger: Ledger, jobs: dict[str, list[Job]], settings: Settings, spool: Path
) -> Iterator[tuple[int, Reason]]:
    """The documents that leave the training split, which the ledger is told: position and why."""
    with ExitStack() as ends:
        alike = None
        if settings.apart is not None:
            alike = ends.enter_context(closing(Alike(settings.apart, spool / "alike.sqlite")))
            for part in each_part(jobs["heldout"]):
                alike.add(part.signatures)
        for job, part in zip(jobs["train"], each_part(jobs["train"]), strict=True):
            left = list(_reasons(part, alike, job.documents.start))
            ledger.leave(left)
            yield from left


def _reasons(part: Part, alike: Alike | None, start: int) -> Iterator[tuple[int, Reason]]:
    for number in range(len(part.lengths)):
        if len(part.repeats) and part.repeats[number]:
            yield start + number, "repetitive"
        elif alike is not None and alike.found(part.signatures[number]):
            yield start + number, "near_heldout"


def _write_split(folder: Path, split: str, ledger: Ledger, jobs: list[Job]) -> dict[str, int]:
    unknown, ends = 0, array("q", [0])
    with (folder / f"{split}.bin").open("wb") as file:
        for job, part in zip(jobs, each_part(jobs), strict=True):
            stays = ledger.stays(job.documents)
            file.write(part.ids[np.repeat(stays, part.lengths)].tobytes())
            ends.extend((ends[-1] + np.cumsum(part.lengths[stays])).tolist())
            unknown += int(part.unknown.sum())
    np.save(folder / f"{split}.offsets.npy", np.frombuffer(ends, np.int64))
    _write_index(folder / f"{split}.index.parquet", split, ledger)
    counts = {"tokens": ends[-1], "documents": len(ends) - 1}
    return counts | ({"unknown": unknown} if unknown else {})


def _write_index(path: Path, split: str, ledger: Ledger) -> None:
    schema = pa.Schema.from_pandas(pd.DataFrame({"id": ["a"], "domain": ["a"]}), False)
    with path.open("wb") as raw, pq.ParquetWriter(raw, schema) as file:
        for rows in ledger.batches(INDEX_BATCH, split):
            file.write_table(pa.Table.from_pylist(rows, schema))


def _check_known(splits: dict[str, dict[str, int]]) -> None:
    tokens = sum(split["tokens"] for split in splits.values())
    unknown = sum(split.get("unknown", 0) for split in splits.values())
    if unknown > MOST_UNKNOWN * tokens:
        raise CorpusError(
            f"The tokenizer does not know these texts: {unknown / tokens:.0%} of {tokens:,} tokens "
            "are its unknown one; give another --tokenizer, or none to train one."
        )


def _seen(folder: Path, kind: "np.dtype[Ids]", spool: Path) -> list[float]:
    """The column `seen` of the held-out documents."""
    train, heldout = (TokenFile(folder / f"{name}.bin", kind) for name in SPLITS)
    ends = np.load(folder / "heldout.offsets.npy")
    documents = (heldout[start:end] for start, end in pairwise(ends))
    return seen_shares(train, documents, scratch=spool)


def _write_documents(path: Path, ledger: Ledger, spool: Path) -> dict[str, Counter[str]]:
    """The table of documents, a batch of texts at a time; returns what each domain has."""
    counts: dict[str, Counter[str]] = {}
    with path.open("wb") as raw, pq.ParquetWriter(raw, SCHEMA) as file:
        for rows in tqdm(ledger.batches(BATCH), desc="documents", unit=" batches"):
            places = (Where(row["file"], row["start"], row["bytes"]) for row in rows)
            texts = {"text": list(read_texts_at(spool, places))}
            columns = {name: [row[name] for row in rows] for name in COLUMNS if name != "text"}
            file.write_table(pa.table(columns | texts).select(COLUMNS).cast(SCHEMA))
            for row in rows:
                own = counts.setdefault(row["domain"], Counter())
                own.update({"documents": 1, "bytes": row["bytes"], row["split"]: 1})
    return counts


def _manifest(
    domains: dict[str, Counter[str]], tokenizer: "PreTrainedTokenizerFast", settings: Settings
) -> dict[str, Any]:
    names = ("documents", "bytes", *SPLITS)
    return {
        "format": FORMAT,
        "documents": sum(counts["documents"] for counts in domains.values()),
        "domains": {
            name: {each: domains[name][each] for each in names} for name in sorted(domains)
        },
        "tokenizer": {
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        "settings": asdict(settings),
    }
