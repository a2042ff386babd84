"""A run is one model as the app knows it; a comparison is one or two runs over the same documents.

A run has an id (a safe name: that of its folder), a label, a colour (its slot) and what was made of
it: a checkpoint or none, a trace, token clusters, curves. Everything that is derived from runs is
keyed by their ids. Which two runs can be compared in what is asked of the comparison, which answers
in a sentence where they cannot.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from emo_viz.analysis.widths import difference
from model.files import weights_digest

UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)
Aspect = Literal["documents", "tokens", "layers", "experts"]


class Bundled(NamedTuple):
    """A run that comes with the app: its id, what it is called, its colour, and what files of
    format version 1 call it."""

    id: str
    label: str
    slot: int
    version_1: str


# The default comparison, and the only place that knows its two folders by name.
BUNDLED = (
    Bundled("emo-nano", "EMO", 0, "emo"),
    Bundled("std-nano", "Standard MoE", 1, "standard"),
)
_BUNDLED = {each.id: each for each in BUNDLED}
VERSION_1 = {each.version_1: each.id for each in BUNDLED}  # files of that version: run ids


@dataclass(frozen=True)
class Facts:
    """What is known of a run's model and documents; None where it is not.

    routed: experts that the router of each layer chooses among. vocabulary: digest of the
    tokenizer's. documents, texts: digests of the documents' ids in their order, and of ids, domains
    and texts (`origins.documents_digest`).
    """

    routed: tuple[int, ...] | None = None
    vocabulary: str | None = None
    documents: str | None = None
    texts: str | None = None


@dataclass(frozen=True)
class Run:
    """One run; a path is None where there is no such thing. slot: 0 or 1, its colour and mark."""

    id: str
    label: str
    slot: int = 0
    checkpoint: Path | None = None
    trace: Path | None = None
    clusters: Path | None = None
    curves: Path | None = None
    facts: Facts = field(default=Facts())

    @property
    def digest(self) -> str | None:
        """SHA-256 of its weights; None if it has none that can be read."""
        try:
            return weights_digest(self.checkpoint) if self.checkpoint else None
        except (ValueError, OSError):
            return None


@dataclass(frozen=True)
class Comparison:
    """One run, or two that differ in their ids, labels and slots: see `compare`."""

    runs: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, run: str) -> Run:
        return next(each for each in self.runs if each.id == run)

    @property
    def first(self) -> Run:
        """The run on the left or on top: the one that others are turned and measured onto."""
        return self.runs[0]

    @property
    def second(self) -> Run | None:
        return self.runs[1] if len(self.runs) > 1 else None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(run.id for run in self.runs)

    @property
    def labels(self) -> dict[str, str]:
        """By run id, in order."""
        return {run.id: run.label for run in self.runs}

    @property
    def names(self) -> str:
        """ "EMO", or "EMO and Standard MoE"."""
        return " and ".join(run.label for run in self.runs)

    def only(self, run: str) -> "Comparison":
        """One of the runs alone, in its own colour."""
        return Comparison((self[run],))

    def why_not(self, aspect: Aspect) -> str:
        """Why the two runs do not compare in something, in one sentence.

        "" if they do, as far as is known, or if there is one run alone.
        """
        if self.second is None:
            return ""
        return _WHY_NOT[aspect](self.first, self.second)


def _documents(one: Run, other: Run) -> str:
    ours, theirs = one.facts, other.facts
    if not (_differ(ours.documents, theirs.documents) or _differ(ours.texts, theirs.texts)):
        return ""
    return (
        f"{one.label} and {other.label} were recorded on different documents; record both from one "
        "file to compare them."
    )


def _tokens(one: Run, other: Run) -> str:
    if not _differ(one.facts.vocabulary, other.facts.vocabulary):
        return ""
    return (
        f"{one.label} and {other.label} have different tokenizers, so they do not compare token by "
        "token, and a nat a token is not the same in both."
    )


def _layers(one: Run, other: Run) -> str:
    ours, theirs = one.facts.routed, other.facts.routed
    if ours is None or theirs is None or len(ours) == len(theirs):
        return ""
    experts = " with experts" * all((*ours, *theirs))
    layers = f"{len(ours)} layer{'s' * (len(ours) != 1)}{experts}"
    return (
        f"{one.label} has {layers} and {other.label} {len(theirs)}, so they do not compare layer "
        "by layer."
    )


def _experts(one: Run, other: Run) -> str:
    ours, theirs = one.facts.routed, other.facts.routed
    if ours is None or theirs is None or ours == theirs:
        return ""
    if said := _layers(one, other):
        return said
    found = difference(ours, theirs)
    assert found is not None
    each = len({*ours}) == len({*theirs}) == 1
    where = "a layer" if each else f"in layer {found.layer}"
    return (
        f"{one.label} has {found.one} routed experts {where} and {other.label} {found.other}, so "
        "numbers of experts do not compare; shares of them do."
    )


_WHY_NOT = {"documents": _documents, "tokens": _tokens, "layers": _layers, "experts": _experts}


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


def compare(runs: Sequence[Run]) -> Comparison:
    """One run or two side by side, the first one first, each with a slot and a label of its own.

    The bundled runs keep their colours. Raises ValueError for no run, more than two, or one twice.
    """
    if len(runs) not in (1, 2):
        raise ValueError(f"A comparison is of one or two runs, not of {len(runs)}.")
    if len({run.id for run in runs}) < len(runs):
        raise ValueError(f"The run {runs[0].id} is named twice; name two different runs.")
    same_label = len({run.label for run in runs}) < len(runs)
    labels = [f"{run.label} ({run.id})" if same_label else run.label for run in runs]
    slots = _slots([run.id for run in runs])
    parts = zip(runs, slots, labels, strict=True)
    return Comparison(tuple(replace(run, slot=slot, label=label) for run, slot, label in parts))


def _slots(ids: Sequence[str]) -> list[int]:
    """A slot for each of at most two runs: the bundled ones have theirs, the others what is left.

    A single run that is not bundled has the first.
    """
    taken = [_BUNDLED[each].slot for each in ids if each in _BUNDLED]
    free = iter([slot for slot in (0, 1) if slot not in taken])
    return [_BUNDLED[each].slot if each in _BUNDLED else next(free) for each in ids]


def label_of(run: str) -> str:
    """What a run is called: a bundled one has a name, another its id."""
    return _BUNDLED[run].label if run in _BUNDLED else run


def run_id(folder: Path) -> str:
    """A safe name for the run of a folder: the folder's own, without what a link or a file name
    cannot hold."""
    return safe_id(folder.resolve().name)


def safe_id(name: str) -> str:
    """A name without what a link or a file name cannot hold."""
    return UNSAFE.sub("-", name).strip("-.") or "run"


def run_ids(folders: Sequence[Path]) -> list[str]:
    """An id for each folder; those of one name are told apart by the folder above.

    Raises ValueError for a folder that is named twice, or for two that cannot be told apart.
    """
    ids = [run_id(folder) for folder in folders]
    ids = [
        f"{run_id(folder.resolve().parent)}-{name}" if ids.count(name) > 1 else name
        for folder, name in zip(folders, ids, strict=True)
    ]
    for folder, name in zip(folders, ids, strict=True):
        if ids.count(name) > 1:
            raise ValueError(
                f"{folder} and another of the folders are both called {name}; name different "
                "folders, or give one another name."
            )
    return ids


def runs_in(root: Path) -> list[Run]:
    """The runs of a folder that is laid out as assets/ is: the bundled ones first, then by id.

    A run is a folder in checkpoints/ or in traces/; reads the names of files only.
    """
    places = [root / "checkpoints", root / "traces"]
    found = {each.name for place in places if place.is_dir() for each in place.iterdir()}
    names = [name for name in found if not name.startswith(".")]
    order = {each.id: place for place, each in enumerate(BUNDLED)}
    names.sort(key=lambda name: (order.get(name, len(order)), name))
    return [run_at(root, name) for name in names]


def run_at(root: Path, name: str) -> Run:
    """The run of this id in a folder that is laid out as assets/ is, with what there is of it."""

    def there(path: Path) -> Path | None:
        return path if path.exists() else None

    analysis = root / "analysis"
    return Run(
        id=name,
        label=label_of(name),
        checkpoint=there(root / "checkpoints" / name),
        trace=there(root / "traces" / name),
        clusters=there(analysis / f"clusters-{name}.npz"),
        curves=there(analysis / "curves.parquet"),
    )


def default_of(runs: Sequence[Run]) -> Comparison:
    """What the app shows unless asked for another: the bundled runs that are there, else the first
    two. Raises ValueError if there is no run."""
    if not runs:
        raise ValueError("There is no checkpoint and no trace.")
    bundled = [run for run in runs if run.id in _BUNDLED]
    return compare((bundled or runs)[:2])


def from_version_1(by_model: dict[str, Any]) -> dict[str, Any]:
    """What a file of format version 1 says by model, by run id: it knew the bundled pair alone."""
    return {VERSION_1.get(name, name): value for name, value in by_model.items()}
