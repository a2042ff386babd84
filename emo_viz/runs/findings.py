"""What was measured on a pair: as Markdown, and each claim with whether it holds."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.curves import (
    EMO,
    FULL,
    GREEDY,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
    STANDARD,
    Measured,
    read_curves,
)
from emo_viz.analysis.origins import FOLDERS, Origins, assets_origins, stale
from emo_viz.analysis.tokens import Headline, headline
from emo_viz.analysis.widths import in_words

MODELS = {EMO: "EMO", STANDARD: "Standard MoE"}
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
    """Curves and token clusters of one pair; experts: of every layer of the curves' models."""

    measured: Measured
    clusters: Headline
    experts: tuple[int, ...]

    def report(self) -> Iterator[str]:
        """The lines of the Markdown."""
        yield from _report(self.measured, self.clusters, in_words(self.experts))

    def bars(self) -> Iterator[Bar]:
        """The claims, each judged by its measured value. ValueError if one was not measured."""
        yield from _bars(self.measured, self.clusters)


def read_findings(
    assets: Path,
    curves_path: Path | None = None,
    clusters_paths: tuple[Path, Path] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Findings:
    """What lies in the folder `assets`, or in the files named.

    Raises ValueError for what is not there or damaged, and for results of other models or documents
    than are there, or than each other; `warn`, where it is given, gets a sentence on these instead.
    """
    analysis = assets / "analysis"
    curves = read_curves(curves_path or analysis / "curves.parquet")
    files = clusters_paths or [analysis / f"clusters-{name}.npz" for name in FOLDERS.values()]
    clusters = headline(*files)
    # Curves from elsewhere are judged by what lies with them, not by the bundled pair.
    root = curves_path.absolute().parent.parent if curves_path else assets
    _check_origins(curves.origins, clusters.origins, assets_origins(root), warn)
    return Findings(Measured.of(curves.rows), clusters, curves.experts)


def _check_origins(
    curves: Origins, clusters: Origins, present: Origins, warn: Callable[[str], None] | None
) -> None:
    found = stale("The curves", curves, present) + stale("The token clusters", clusters, present)
    found = found or stale("The token clusters", clusters, curves)
    for sentence in found:
        if warn is None:
            raise ValueError(f"{sentence} With --force they are printed as they are.")
        warn(sentence)


def _report(measured: Measured, clusters: Headline, experts: str) -> Iterator[str]:
    keys = {key for key in measured.cells.keys if key.method != FULL}
    keep = sorted({key.keep_k for key in keys})
    yield (
        f"{measured.documents:,} held-out documents of {len(measured.cells.tokens)} domains, "
        f"{measured.tokens:,} tokens. Loss increase over all {experts} experts in nats a "
        "token, mean over domains, with 95 % bootstrap intervals over documents:"
    )
    yield ""
    yield "| Experts kept in every layer | " + " | ".join(map(str, keep)) + " |"
    yield "|---|" + "--:|" * len(keep)
    for method, words in METHODS.items():
        for model, label in MODELS.items():
            if not any((key.model, key.method) == (model, method) for key in keys):
                continue
            cells = (_span(measured.increase(model, method, k)) for k in keep)
            yield f"| {label}, {words} | " + " | ".join(cells) + " |"
    yield ""
    if {(model, ROUTER_PROBABILITY, RATIO_AT) for model in MODELS} <= {key[:3] for key in keys}:
        yield f"- Standard MoE over EMO at {RATIO_AT} experts: {_ratio(measured)}."
    for model, label in MODELS.items():
        yield f"- {label}, all experts: {_span(measured.full_loss(model))} nats a token."
    difference = measured.full_difference(EMO, STANDARD)
    yield f"- EMO less standard MoE, all experts: {_span(difference, '+.3f')} nats a token."
    yield f"- {_clusters_sentence(clusters)}"


def _ratio(measured: Measured) -> str:
    ratio = _standard_over_emo(measured)
    if math.isinf(ratio.mean):
        return "EMO loses nothing there, so it has no ratio"
    return f"{_span(ratio, '.1f')} times"


def _clusters_sentence(clusters: Headline) -> str:
    spans = f"EMO {_span(clusters.emo)}, standard MoE {_span(clusters.standard)}"
    times = clusters.ratio.mean
    ratio = "" if math.isnan(times) else f", {_span(clusters.ratio, '.2f')} times as much"
    of_token = f"EMO {_span(clusters.emo_token)}, standard MoE {_span(clusters.standard_token)}"
    return (
        f"{clusters.clusters} token clusters, normalised mutual information (NMI) with the domain: "
        f"{spans}; EMO less standard MoE {_span(clusters.difference, '+.3f')}"
        f"{ratio}. With the token id: {of_token} "
        f"({clusters.documents:,} documents, {clusters.tokens:,} tokens)."
    )


def _bars(measured: Measured, clusters: Headline) -> Iterator[Bar]:
    """The claims, each judged by its measured value. ValueError if one was not measured."""
    for keep_k, most in ((32, 0.03), (16, 0.12), (8, 0.35)):
        one = measured.increase(EMO, ROUTER_PROBABILITY, keep_k)
        claim = f"EMO loses at most {most} nats a token with {keep_k} experts"
        yield Bar(claim, one, one.mean <= most)
    ratio = _standard_over_emo(measured)
    claim = f"the standard MoE loses at least 8 times as much as EMO with {RATIO_AT} experts"
    yield Bar(claim, ratio, ratio.mean >= 8)
    own = (EMO, ROUTER_PROBABILITY, RATIO_AT)
    other = measured.ratio((EMO, OTHER_DOMAIN, RATIO_AT), own)
    claim = f"another domain's {RATIO_AT} experts cost EMO at least 8 times its own"
    yield Bar(claim, other, other.mean >= 8)
    gap = measured.full_difference(EMO, STANDARD)
    claim = "full EMO is within 0.03 nats a token of full standard MoE"
    yield Bar(claim, gap, abs(gap.mean) <= 0.03)
    claim = "token clusters share at least 1.5 times as much with the domain in EMO (NMI)"
    yield Bar(claim, clusters.ratio, clusters.ratio.mean >= 1.5)


def _standard_over_emo(measured: Measured) -> Interval:
    return measured.ratio(
        (STANDARD, ROUTER_PROBABILITY, RATIO_AT), (EMO, ROUTER_PROBABILITY, RATIO_AT)
    )


def _span(one: Interval, spec: str = ".3f") -> str:
    if math.isnan(one.low):  # a single document
        return f"{one.mean:{spec}} (no interval)"
    return f"{one.mean:{spec}} [{one.low:{spec}}, {one.high:{spec}}]"
