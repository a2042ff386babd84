"""The study's results as Markdown tables, with intervals over documents and the spread of seeds.

Shapes: D documents, C measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluate.intervals import domain_means, span
from model.evaluate.measure import FULL, SEEN_LIMIT

FORMAT = "emo-viz-study"
FORMAT_VERSION = 1
CUTS = ("own/8", "own/16", "own/32", "own/64", "other/16", "random/16", "pool/16")
HEADS = ("8", "16", "32", "64", "another domain's 16", "random 16", "causal pool of 16")
TWINS = ("emo", "standard")
STUDENT = {3: 4.303, 4: 3.182, 5: 2.776}
"""By seeds: what their standard error is multiplied by; two are too few for an interval."""

Result = dict[str, Any]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """All runs of one name: seeds, and losses by measure, mean over seeds [D]."""

    name: str
    results: list[Result]

    @property
    def seeds(self) -> list[int]:
        return sorted(result["run"]["seed"] for result in self.results)

    def losses(self, name: str, seed: int | None = None) -> Array | None:
        """Of every document [D]; the mean over seeds unless one is named. None: not measured."""
        chosen = [r for r in self.results if seed is None or r["run"]["seed"] == seed]
        found = [result["evaluation"]["losses"].get(name) for result in chosen]
        if not found or any(values is None for values in found):
            return None
        return np.mean(np.array(found, np.float64), 0)


@dataclass(frozen=True)
class Documents:
    """What was evaluated, of one group of documents."""

    kept: NDArray[np.bool_]
    tokens: Array
    domains: NDArray[np.int64]

    @classmethod
    def of(cls, result: Result, unseen: bool) -> "Documents":
        documents = result["evaluation"]["documents"]
        names = sorted(set(documents["domain"]))
        kept = np.array(documents["seen"]) < (SEEN_LIMIT if unseen else 2.0)
        domains = np.array([names.index(name) for name in documents["domain"]], np.int64)
        return cls(kept, np.array(documents["tokens"], np.float64), domains)

    def interval(self, losses: Array) -> list[float]:
        """Mean over domains with its interval over documents."""
        columns = losses[self.kept, None]
        means, drawn = domain_means(columns, self.tokens[self.kept], self.domains[self.kept])
        return span(float(means[0]), drawn[:, 0])

    def mean(self, losses: Array) -> float:
        """The mean alone, without an interval's work."""
        sums = np.bincount(self.domains[self.kept], losses[self.kept] * self.tokens[self.kept])
        counts = np.bincount(self.domains[self.kept], self.tokens[self.kept])
        return float((sums[counts > 0] / counts[counts > 0]).mean())


def table(content: dict[str, Any]) -> str:
    """Markdown of a results file. Raises ValueError if it is no study's, or of no runs."""
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise ValueError("This is no study's results.json; run python -m model.study run.")
    results: list[Result] = list(content["runs"].values())
    if not results:
        raise ValueError("No run of the study is finished; go on with python -m model.study run.")
    _check_alike(results)
    groups = _groups(results)
    parts = [_about(results)]
    for unseen in (False, True):
        documents = Documents.of(results[0], unseen)
        if documents.kept.any():
            parts.append(_loss_table(groups, documents, unseen))
    parts += [_module_table(groups), _difference_table(groups, Documents.of(results[0], False))]
    parts += [f"Failed: {key}: {why}." for key, why in content.get("failed", {}).items()]
    return "\n\n".join(parts) + "\n"


def _check_alike(results: Sequence[Result]) -> None:
    ids = {tuple(result["evaluation"]["documents"]["id"]) for result in results}
    if len({result["corpus"] for result in results}) > 1 or len(ids) > 1:
        raise ValueError("These runs are of different corpora; make one study of one corpus.")


def _groups(results: Sequence[Result]) -> list[Group]:
    names = dict.fromkeys(result["run"]["name"] for result in results)
    return [Group(n, [r for r in results if r["run"]["name"] == n]) for n in names]


def _about(results: Sequence[Result]) -> str:
    preset = results[0]["preset"]
    devices = ", ".join(sorted({result["device"] for result in results}))
    tokens = preset["steps"] * preset["rows"] * preset["context"]
    return (
        f"{len(results)} runs of {tokens / 1e6:.1f} M tokens each (annealing on top of one), on "
        f"{devices}. Nats a token, mean over domains; brackets: 95 % bootstrap interval over "
        "documents; after a semicolon the least and the greatest seed and, of three, half the 95 % "
        "interval of their mean (Student's t)."
    )


def _loss_table(groups: Sequence[Group], documents: Documents, unseen: bool) -> str:
    which = (
        f"the {int(documents.kept.sum()):,} documents of which less than 1 % was seen in training"
        if unseen
        else f"all {int(documents.kept.sum()):,} held-out documents"
    )
    rows = [
        [group.name, str(len(group.seeds)), _cell(group, documents, FULL)]
        + [_cell(group, documents, cut) for cut in CUTS]
        for group in groups
    ]
    head = ["Run", "Seeds", "All experts", *(f"+ at {name}" for name in HEADS)]
    return (
        f"Loss with all experts, and what each cut adds to it, on {which}:\n\n"
        f"{_markdown(head, rows)}"
    )


def _cell(group: Group, documents: Documents, name: str) -> str:
    """A loss, or what a cut adds; an empty cell for what a model has not."""
    if group.losses(name) is None:
        return ""

    def value(seed: int | None) -> Array:
        losses, full = group.losses(name, seed), group.losses(FULL, seed)
        assert losses is not None and full is not None
        return losses if name == FULL else losses - full

    each = [documents.mean(value(seed)) for seed in group.seeds]
    return _spread(documents.interval(value(None)), each)


def _spread(interval: Sequence[float], each: Sequence[float]) -> str:
    mean, low, high = interval
    seeds = f"; {min(each):.3f} to {max(each):.3f}" if len(each) > 1 else ""
    if half := STUDENT.get(len(each)):
        seeds += f", ±{half * float(np.std(each, ddof=1)) / len(each) ** 0.5:.3f}"
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]{seeds}"


def _module_table(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        found = [result["evaluation"]["modules"] for result in group.results]
        summaries = [result["evaluation"]["summary"]["all"] for result in group.results]
        row = [group.name, *(_several([s[name] for s in summaries]) for name in REPEATS)]
        if all(found):
            row += [_several([f[name] for f in found]) for name in ("nmi", "modal_share")]
            row.append(f"{np.mean([f['nmi_chance'] for f in found]):.3f}")
            overlaps = [f["keep_overlap"].get("16") for f in found]
            row.append(f"{np.mean([o[0] for o in overlaps]):.3f}" if all(overlaps) else "")
        rows.append(row)
    head = [
        *("Run", "Loss at repeated pairs", "Loss elsewhere", "NMI with the domain"),
        *("Modal share", "NMI by chance", "Overlap of the 16 kept"),
    ]
    return (
        "Where a model can copy (the pair of a token and the one before has occurred in the "
        "document), and how its clusters of tokens follow domains; overlap is the Jaccard index of "
        f"the experts kept for two domains:\n\n{_markdown(head, rows)}"
    )


REPEATS = ("repeated", "elsewhere")


def _several(spans: Sequence[Sequence[float]]) -> str:
    """The mean over seeds; the interval is of one seed where there is one, else their spread."""
    means = [each[0] for each in spans]
    return _spread(np.mean(np.array(spans), 0).tolist(), means)


def _difference_table(groups: Sequence[Group], documents: Documents) -> str:
    """Full models against the twins of their seeds, paired by document."""
    by_name = {group.name: group for group in groups}
    twins = [by_name[name] for name in TWINS if name in by_name]
    rows = [
        [group.name, *(_difference(group, twin, documents) for twin in twins)] for group in groups
    ]
    head = ["Run", *(f"less {twin.name}" for twin in twins)]
    return (
        "Loss with all experts less that of the twin of the same seed, paired by document:\n\n"
        f"{_markdown(head, rows)}"
    )


def _difference(group: Group, twin: Group, documents: Documents) -> str:
    seeds = sorted(set(group.seeds) & set(twin.seeds))
    if group is twin or not seeds:
        return ""
    pairs = [(group.losses(FULL, seed), twin.losses(FULL, seed)) for seed in seeds]
    each = [a - b for a, b in pairs if a is not None and b is not None]
    means = [documents.mean(values) for values in each]
    return _spread(documents.interval(np.mean(each, 0)), means)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    padded = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *padded]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
