"""Collects documents: new ones only, and no more of a domain than its share of bytes."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from model.data.documents import (
    REASONS,
    CorpusError,
    Deduplicator,
    Document,
    Reason,
    Text,
    hold_out,
    to_frame,
    to_pieces,
    unfit,
)
from model.data.own import read_texts
from model.data.sources import DOMAINS, domain_texts


class Collector:
    """Takes texts and keeps their documents until a domain has `limit` bytes.

    `left_out` counts, by reason, the pieces of texts that were read and not kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sizes: Counter[str] = Counter()
        self.documents: dict[str, list[Document]] = defaultdict(list)
        self.left_out: Counter[Reason] = Counter()
        self._seen = Deduplicator()
        self._places: dict[str, str] = {}

    def is_full(self, domain: str) -> bool:
        """Whether the domain has its bytes."""
        return self.sizes[domain] >= self.limit

    def add(self, text: Text) -> None:
        """Keeps the new documents of a text. Raises CorpusError for an id that came before."""
        for document in to_pieces(text):
            reason = unfit(document) or self._unwanted(document)
            if reason:
                self.left_out[reason] += 1
                continue
            self._remember_id(document.id, text.place)
            self.sizes[text.domain] += len(document.text.encode())
            self.documents[text.domain].append(document)

    def _unwanted(self, document: Document) -> Reason | None:
        return "over_limit" if self.is_full(document.domain) else self._seen.known(document)

    def _remember_id(self, name: str, place: str) -> None:
        if name in self._places:
            places = " and ".join(filter(None, [self._places[name], place]))
            raise CorpusError(
                f"The id {name} stands twice{places and f' ({places})'}; ids must be unique."
            )
        self._places[name] = place

    def losses(self) -> str:
        """What `left_out` counts, in words; empty if nothing was left out."""
        counted = [(self.left_out[reason], words) for reason, words in REASONS.items()]
        return ", ".join(f"{count:,} {words}" for count, words in counted if count)

    def fill(self, domain: str, texts: Iterable[Text]) -> None:
        """Reads the texts of one domain only as far as there is room."""
        for text in texts:
            if self.is_full(domain):
                return
            self.add(text)

    def to_frame(self, heldout_fraction: float, seed: int) -> pd.DataFrame:
        """All documents with their split, see `documents.to_frame`."""
        domains = self.documents.values()
        split = (item for domain in domains for item in hold_out(domain, heldout_fraction))
        return to_frame(split, seed)


def collect_sources(domains: list[str], downloads: Path, limit: int) -> Collector:
    """The documents of the table of sources; all its domains when `domains` is empty.

    Raises CorpusError for an unknown domain, and for a package that cannot be had or read.
    """
    _check_domains(domains, DOMAINS)
    collector = Collector(limit)
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix="unpacked-") as scratch:
        for domain in (bar := tqdm(domains or DOMAINS, unit="domain")):
            bar.set_description(domain)
            collector.fill(domain, domain_texts(domain, downloads, Path(scratch)))
            if not collector.sizes[domain]:
                raise CorpusError(f"The packages of {domain} gave no documents.")
    return collector


def collect_own(spec: str, domains: list[str], limit: int) -> Collector:
    """The documents of your own data, see `own.read_texts`; of some domains if asked.

    Raises CorpusError for data that cannot be read and for a domain that is not there.
    """
    collector = Collector(limit)
    found: set[str] = set()
    for text in tqdm(read_texts(spec), desc=spec, unit=" texts"):
        found.add(text.domain)
        if not domains or text.domain in domains:
            collector.add(text)
    if not found:
        raise CorpusError(f"{spec} holds no documents.")
    _check_domains(domains, sorted(found))
    return collector


def _check_domains(asked: list[str], existing: list[str]) -> None:
    if missing := [name for name in asked if name not in existing]:
        raise CorpusError(
            f"There are no documents of {', '.join(missing)}; choose from {', '.join(existing)}."
        )
