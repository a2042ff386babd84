"""Builds a corpus: what may be written where, and each step from the sources to the folder.

A build that is killed goes on where it was (`model.data.work`).
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.data.collect import Collector, collect_own, collect_sources, losses
from model.data.documents import REASONS, CorpusError, Reason, digest
from model.data.ledger import Ledger
from model.data.own import (
    LARGEST_VOCABULARY,
    LEAST_HELD_OUT,
    heldout_fraction,
    inputs_state,
    vocabulary_for,
)
from model.data.shards import FORMAT, SPLITS
from model.data.sources import SOURCES
from model.data.spool import Spool
from model.data.tokenizer import load_tokenizer
from model.data.work import work_folder
from model.data.write import Settings, make_tokenizer, write_corpus
from model.files import check_writable, contents, read_json

SPLIT_FILES = (".bin", ".offsets.npy", ".index.parquet")
CORPUS_NAMES = {
    *("manifest.json", "documents.parquet", "tokenizer", ".DS_Store"),
    *(split + ending for split in SPLITS for ending in SPLIT_FILES),
}


@dataclass(frozen=True)
class Inputs:
    """What a corpus is made of: `own` documents (see `own.read_texts`), or, if None, the packages
    in `downloads`; of all domains if `domains` is empty. A saved `tokenizer`, or None to train one
    of `vocab_size` tokens, 0 for as many as fit the texts."""

    own: str | None
    downloads: Path
    domains: list[str]
    vocab_size: int
    tokenizer: Path | None


def build_corpus(
    inputs: Inputs, settings: Settings, out: Path, workers: int, tell: Callable[[str], None]
) -> tuple[dict[str, Any], str]:
    """Builds the corpus `out`; returns its manifest and, in words, what was left out.

    Raises CorpusError or ValueError for what cannot be read or written, and a tokenizer that does
    not fit.
    """
    local = inputs.own is not None and not inputs.own.startswith("hf:")
    own = Path(inputs.own) if inputs.own and local else None
    check_out(out, own, None if inputs.own else inputs.downloads)
    given = load_tokenizer(inputs.tokenizer) if inputs.tokenizer else None
    with work_folder(out.resolve(), _identity(inputs, settings), tell) as folder:
        spool = Spool(folder)
        with closing(Collector(settings.max_bytes_per_domain, spool)) as collector:
            if inputs.own is None:
                collect_sources(inputs.domains, inputs.downloads, collector)
            else:
                collect_own(inputs.own, inputs.domains, collector)
        with closing(Ledger(folder)) as ledger:
            ledger.fill(spool.rows())
            settings, vocab_size = _fitted(inputs, settings, ledger)
            ledger.order(settings.heldout_fraction, settings.seed)
            check_documents(ledger, collector.losses())
            tokenizer = given or make_tokenizer(ledger, folder, vocab_size)
            left_out: Counter[Reason] = Counter(dict.fromkeys(REASONS, 0))
            left_out.update(collector.left_out)
            manifest = write_corpus(ledger, folder, tokenizer, settings, left_out, out, workers)
    return manifest, losses(left_out, collector.unread)


def _fitted(inputs: Inputs, settings: Settings, ledger: Ledger) -> tuple[Settings, int]:
    """The settings and the size of the vocabulary, those that were left open by the documents."""
    own = inputs.own is not None
    fraction = heldout_fraction(list(ledger.documents.values())) if own else LEAST_HELD_OUT
    vocabulary = vocabulary_for(ledger.bytes.total()) if own else LARGEST_VOCABULARY
    settings = replace(settings, heldout_fraction=settings.heldout_fraction or fraction)
    return settings, inputs.vocab_size or vocabulary


def _identity(inputs: Inputs, settings: Settings) -> dict[str, Any]:
    """What decides the corpus: an unfinished build of another one is not gone on with."""
    files = (
        inputs_state(inputs.own)
        if inputs.own is not None
        else digest([(each.domain, each.package) for each in SOURCES])
    )
    chosen = inputs.tokenizer and (inputs.tokenizer / "tokenizer.json").read_bytes()
    return {
        "documents": inputs.own or "",
        "files": files,
        "domains": inputs.domains,
        "vocab_size": inputs.vocab_size,
        "tokenizer": hashlib.sha256(chosen).hexdigest() if chosen else "",
        "settings": asdict(settings),
    }


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
    names = {path.name for path in contents(out)}
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


def check_documents(ledger: Ledger, losses: str) -> None:
    """Raises CorpusError when there are none, or none on one side of the split.

    losses: what was left out, as `Collector.losses` says it.
    """
    if not ledger.documents:
        raise CorpusError(f"No document is left: {losses or 'there are no texts'}.")
    if not all(ledger.span(split) for split in SPLITS):
        raise CorpusError(
            "The documents are too few, or of too few parents, to hold some out"
            f"{losses and f' (left out: {losses})'}; give more of them or a larger "
            "--heldout-fraction."
        )
