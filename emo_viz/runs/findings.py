"""What was measured on one run or two: as Markdown, and each claim with whether it holds."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.curves import (
    FULL,
    GREEDY,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
    Measured,
    read_curves,
)
from emo_viz.analysis.origins import Origins, assets_origins, stale
from emo_viz.analysis.runs import Comparison, Run, compare, label_of
from emo_viz.analysis.tokens import Headline, headline
from emo_viz.analysis.unseen import in_words as percent
from emo_viz.analysis.unseen import read_seen, unseen_ids
from emo_viz.analysis.widths import in_words

METHODS = {
    ROUTER_PROBABILITY: "experts of the domain",
    GREEDY: "experts of the domain, greedy",
    OTHER_DOMAIN: "experts of another domain",
    RANDOM: "random experts",
}
RATIO_AT = 16


@dataclass(frozen=True)
class Bar:
    """One claim: what it says, the number it is about, and whether that number meets it."""

    claim: str
    value: Interval
    met: bool

    def __str__(self) -> str:
        return f"{'met' if self.met else 'MISSED':>6}  {self.claim}: {_span(self.value)}"


@dataclass(frozen=True)
class Findings:
    """Curves and token clusters of the same runs; experts: of every layer, by run id.

    seen_below: the curves are of the documents of which less than this was seen in training; the
    token clusters are always of all."""

    runs: Comparison
    measured: Measured
    clusters: Headline
    experts: dict[str, tuple[int, ...]]
    seen_below: float | None = None

    def report(self) -> Iterator[str]:
        """The lines of the Markdown."""
        counts = {count for experts in self.experts.values() for count in experts}
        every = in_words(sorted(counts))
        yield from _report(self.runs, self.measured, self.clusters, every, self.seen_below)

    def bars(self) -> Iterator[Bar]:
        """The claims, each judged by its measured value: that the first run can be cut down, and
        more so than the second. ValueError if one was not measured."""
        yield from _bars(self.runs, self.measured, self.clusters)


def read_findings(
    assets: Path,
    curves_path: Path | None = None,
    clusters_paths: Sequence[Path] = (),
    warn: Callable[[str], None] | None = None,
    seen_below: float | None = None,
) -> Findings:
    """What lies in the folder `assets`, or in the files named.

    seen_below: only of the documents of which training has seen a smaller share.

    Raises ValueError for what is not there or damaged, and for results of other models or documents
    than are there, or than each other; `warn`, where it is given, gets a sentence on these instead.
    """
    analysis = assets / "analysis"
    curves = read_curves(curves_path or analysis / "curves.parquet")
    runs = compare([Run(run, label_of(run)) for run in curves.runs])
    files = clusters_paths or [analysis / f"clusters-{run}.npz" for run in runs.ids]
    clusters = headline(*files)
    if set(clusters.runs) != set(runs.ids):
        raise ValueError(
            f"The curves are of {', '.join(runs.ids)} and the token clusters of "
            f"{', '.join(clusters.runs)}; name files of the same runs."
        )
    # Curves from elsewhere are judged by what lies with them, not by the bundled pair.
    root = curves_path.absolute().parent.parent if curves_path else assets
    _check_origins(curves.origins, clusters.origins, assets_origins(root), warn)
    experts = {run: curves.experts(run) for run in runs.ids}
    if curves.seen_below is not None and not (seen_below and seen_below <= curves.seen_below):
        seen_below = curves.seen_below  # there are no others in the file
    elif seen_below is not None:
        documents = root / "documents" / "documents.parquet"
        curves = curves.of_documents(unseen_ids(read_seen(documents), seen_below))
    return Findings(runs, Measured.of(curves.rows), clusters, experts, seen_below)


def _check_origins(
    curves: Origins, clusters: Origins, present: Origins, warn: Callable[[str], None] | None
) -> None:
    found = stale("The curves", curves, present) + stale("The token clusters", clusters, present)
    found = found or stale("The token clusters", clusters, curves)
    for sentence in found:
        if warn is None:
            raise ValueError(f"{sentence} With --force they are printed as they are.")
        warn(sentence)


def _report(
    runs: Comparison,
    measured: Measured,
    clusters: Headline,
    experts: str,
    seen_below: float | None = None,
) -> Iterator[str]:
    keys = {key[:3] for key in measured.cells.keys if key.method != FULL}
    keep = sorted({keep_k for _, _, keep_k in keys})
    unseen = (
        "" if seen_below is None else f"training has seen under {percent(seen_below)} of each, "
    )
    yield (
        f"{measured.documents:,} held-out documents of {len(measured.cells.tokens)} domains, "
        f"{unseen}{measured.tokens:,} tokens. Loss increase over all {experts} experts in nats a "
        "token, mean over domains, with 95 % bootstrap intervals over documents:"
    )
    yield ""
    yield "| Experts kept in every layer | " + " | ".join(map(str, keep)) + " |"
    yield "|---|" + "--:|" * len(keep)
    for method, words in METHODS.items():
        for run in runs:
            points = [(run.id, method, k) for k in keep]
            if not keys & set(points):
                continue
            cells = (_span(measured.increase(*each)) if each in keys else "" for each in points)
            yield f"| {run.label}, {words} | " + " | ".join(cells) + " |"
    yield ""
    if runs.second and {(run, ROUTER_PROBABILITY, RATIO_AT) for run in runs.ids} <= keys:
        first, second = runs.first.label, runs.second.label
        yield f"- {second} over {first} at {RATIO_AT} experts: {_ratio(runs, measured)}."
    for run in runs:
        yield f"- {run.label}, all experts: {_span(measured.full_loss(run.id))} nats a token."
    if runs.second:
        difference = measured.full_difference(*runs.ids)
        yield f"- {_less(runs)}, all experts: {_span(difference, '+z.3f')} nats a token."
    yield f"- {_clusters_sentence(runs, clusters)}"


def _less(runs: Comparison) -> str:
    return " less ".join(run.label for run in runs)


def _ratio(runs: Comparison, measured: Measured) -> str:
    ratio = _second_over_first(runs, measured)
    if not math.isfinite(ratio.mean):
        return f"{runs.first.label} loses nothing there, so it has no ratio"
    return f"{_span(ratio, '.1f')} times"


def _clusters_sentence(runs: Comparison, clusters: Headline) -> str:
    own = clusters.runs
    spans = ", ".join(f"{run.label} {_span(own[run.id].domain)}" for run in runs)
    of_token = ", ".join(f"{run.label} {_span(own[run.id].token)}" for run in runs)
    first = own[runs.first.id]
    return (
        f"{first.clusters} token clusters, normalised mutual information (NMI) with the domain: "
        f"{spans}{_clusters_apart(runs, clusters)}. With the token id: {of_token} "
        f"({clusters.documents:,} documents, {first.tokens:,} tokens)."
    )


def _clusters_apart(runs: Comparison, clusters: Headline) -> str:
    if clusters.difference is None or clusters.ratio is None:
        return ""
    times = clusters.ratio.mean
    ratio = "" if math.isnan(times) else f", {_span(clusters.ratio, '.2f')} times as much"
    return f"; {_less(runs)} {_span(clusters.difference, '+z.3f')}{ratio}"


def _bars(runs: Comparison, measured: Measured, clusters: Headline) -> Iterator[Bar]:
    first, label = runs.first.id, runs.first.label
    for keep_k, most in ((32, 0.03), (16, 0.12), (8, 0.35)):
        one = measured.increase(first, ROUTER_PROBABILITY, keep_k)
        claim = f"{label} loses at most {most} nats a token with {keep_k} experts"
        yield Bar(claim, one, one.mean <= most)
    own = (first, ROUTER_PROBABILITY, RATIO_AT)
    other = measured.ratio((first, OTHER_DOMAIN, RATIO_AT), own)
    claim = f"another domain's {RATIO_AT} experts cost {label} at least 8 times its own"
    yield Bar(claim, other, other.mean >= 8)
    if runs.second and clusters.ratio:
        yield from _bars_of_two(runs, measured, clusters.ratio)


def _bars_of_two(runs: Comparison, measured: Measured, clusters: Interval) -> Iterator[Bar]:
    one, other = (run.label for run in runs)
    ratio = _second_over_first(runs, measured)
    claim = f"{other} loses at least 8 times as much as {one} with {RATIO_AT} experts"
    yield Bar(claim, ratio, ratio.mean >= 8)
    gap = measured.full_difference(*runs.ids)
    claim = f"full {one} is within 0.03 nats a token of full {other}"
    yield Bar(claim, gap, abs(gap.mean) <= 0.03)
    claim = f"token clusters share at least 1.5 times as much with the domain in {one} (NMI)"
    yield Bar(claim, clusters, clusters.mean >= 1.5)


def _second_over_first(runs: Comparison, measured: Measured) -> Interval:
    first, second = runs.ids
    at = (ROUTER_PROBABILITY, RATIO_AT)
    return measured.ratio((second, *at), (first, *at))


def _span(one: Interval, spec: str = "z.3f") -> str:
    """A number and its interval; z in the spec: no minus on what rounds to zero."""
    if math.isnan(one.mean):
        return "no ratio"
    if math.isnan(one.low):
        return f"{one.mean:{spec}} (no interval)"
    return f"{one.mean:{spec}} [{one.low:{spec}}, {one.high:{spec}}]"
