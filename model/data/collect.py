"""Collects documents: new ones only, and no more of a domain than its share of bytes.

The documents go to disk as they come (`model.data.spool`), with how far the reading is: one that
was cut short goes on there.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from model.data.documents import (
    REASONS,
    CorpusError,
    Marks,
    Reason,
    Text,
    marks,
    to_pieces,
    unfit,
)
from model.data.known import Known
from model.data.own import read_texts
from model.data.sources import DOMAINS, domain_texts
from model.data.spool import Spool, State

NAMED = 3  # of what is not UTF-8


class Collector:
    """Takes texts and puts their documents into a spool until a domain has `limit` bytes.

    `left_out` counts, by reason, the pieces of texts that were read and not kept; `unread` names
    the first of what was not UTF-8.
    """

    def __init__(self, limit: int, spool: Spool) -> None:
        self.limit, self.spool = limit, spool
        self.sizes: Counter[str] = Counter()
        self.left_out: Counter[Reason] = Counter()
        self.unread: list[str] = []
        self._read: Counter[str] = Counter()  # texts, by stream
        self._done: set[str] = set()  # streams
        self._skipping = False
        self.found: set[str] = set()  # domains of your own data, wanted or not
        self._known = Known(spool.folder / "known.sqlite")
        spool.take_up(self._take_up)
        if spool.state:
            self._go_on(spool.state)

    def _take_up(self, rows: pd.DataFrame) -> None:
        """Knows documents again that a build before has kept."""
        names = ["domain", "letters", "lines", "id", "place", "bytes"]
        for domain, letters, lines, name, place, size in zip(
            *(rows[each].tolist() for each in names), strict=True
        ):
            own = Marks(letters, [int(line) for line in lines])
            self._known.remember(domain, own, name, place)
            self.sizes[domain] += size

    def _state(self) -> State:
        counts = {"left_out": dict(self.left_out), "read": dict(self._read)}
        names = {"done": sorted(self._done), "found": sorted(self.found)}
        return counts | {"unread": self.unread} | names

    def _go_on(self, state: State) -> None:
        self.left_out.update(state["left_out"])
        self._read.update(state["read"])
        self.unread = state["unread"]
        self._done, self.found = set(state["done"]), set(state["found"])

    def is_full(self, domain: str) -> bool:
        """Whether the domain has its bytes."""
        return self.sizes[domain] >= self.limit

    def is_done(self, stream: str) -> bool:
        """Whether a stream of texts was read to its end."""
        return stream in self._done

    def end(self, stream: str) -> None:
        """Says that a stream of texts needs no reading any more."""
        self._done.add(stream)
        self.spool.write(self._state())

    def read(self, stream: str, texts: Iterable[Text]) -> Iterator[Text]:
        """The texts of a stream that were not read before."""
        before, self._read[stream] = self._read[stream], 0
        self._skipping = before > 0
        for text in texts:
            self._read[stream] += 1
            if self._read[stream] > before:
                yield text
                self.spool.text_ends(self._state)
            self._skipping = self._read[stream] < before

    def skip(self, place: str) -> None:
        """Counts something that is not UTF-8."""
        if self._skipping:
            return
        self.left_out["not_utf8"] += 1
        if len(self.unread) < NAMED:
            self.unread.append(place)

    def add(self, text: Text) -> None:
        """Keeps the new documents of a text. Raises CorpusError for an id that came before."""
        for document in to_pieces(text):
            reason = unfit(document) or ("over_limit" if self.is_full(document.domain) else None)
            if reason or (reason := self._known.why_not(document.domain, own := marks(document))):
                self.left_out[reason] += 1
                continue
            self._check_id(document.id, text.place)
            self._known.remember(document.domain, own, document.id, text.place)
            self.sizes[text.domain] += len(document.text.encode())
            self.spool.add(document, own, text.place)

    def _check_id(self, name: str, place: str) -> None:
        if (before := self._known.place_of(name)) is not None:
            places = " and ".join(filter(None, [before, place]))
            raise CorpusError(
                f"The id {name} stands twice{places and f' ({places})'}; ids must be unique."
            )

    def close(self) -> None:
        """Forgets what was known: nothing more is added."""
        self._known.close()

    def losses(self) -> str:
        """What `left_out` counts, in words; empty if nothing was left out."""
        return losses(self.left_out, self.unread)

    def fill(self, domain: str, texts: Iterable[Text]) -> None:
        """Reads the texts of one domain only as far as there is room."""
        for text in self.read(domain, texts):
            if self.is_full(domain):
                return
            self.add(text)


def losses(left_out: Mapping[Reason, int], unread: Sequence[str] = ()) -> str:
    """Counts by reason in words; unread: places of the first that were not UTF-8."""
    said = []
    for reason, words in REASONS.items():
        if count := left_out.get(reason, 0):
            more = "; ..." if count > len(unread) else ""
            named = f" ({'; '.join(unread)}{more})" if reason == "not_utf8" and unread else ""
            said.append(f"{count:,} {words}{named}")
    return ", ".join(said)


def collect_sources(domains: list[str], downloads: Path, collector: Collector) -> None:
    """The documents of the table of sources; all its domains when `domains` is empty.

    Raises CorpusError for an unknown domain and a package that cannot be read, Unreachable for one
    that cannot be had.
    """
    _check_domains(domains, DOMAINS)
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix="unpacked-") as scratch:
        for domain in (bar := tqdm(domains or DOMAINS, unit="domain")):
            bar.set_description(domain)
            if collector.is_done(domain):
                continue
            collector.fill(domain, domain_texts(domain, downloads, Path(scratch)))
            if not collector.sizes[domain]:
                raise CorpusError(f"The packages of {domain} gave no documents.")
            collector.end(domain)


def collect_own(spec: str, domains: list[str], collector: Collector) -> None:
    """The documents of your own data, see `own.read_texts`; of some domains if asked.

    Raises CorpusError for data that cannot be read and for a domain that is not there.
    """
    if collector.is_done(spec):
        return
    texts = read_texts(spec, collector.skip)
    for text in tqdm(collector.read(spec, texts), desc=spec, unit=" texts"):
        collector.found.add(text.domain)
        if not domains or text.domain in domains:
            collector.add(text)
    if not collector.found and not collector.left_out:
        raise CorpusError(f"{spec} holds no documents.")
    if collector.found:
        _check_domains(domains, sorted(collector.found))
    collector.end(spec)


def _check_domains(asked: list[str], existing: list[str]) -> None:
    if missing := [name for name in asked if name not in existing]:
        raise CorpusError(
            f"There are no documents of {', '.join(missing)}; choose from {', '.join(existing)}."
        )
