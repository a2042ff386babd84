"""Subset ablation page: its first two lines, one of all documents and one of the document shown.

What each says at every stop of the slider. The two never speak of each other's documents.
"""

from collections.abc import Iterator
from typing import Any

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.curves import (
    GREEDY,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
    Measured,
    likelihood_kept,
)
from emo_viz.analysis.widths import kept_of
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import BY_WORTH, Choice, Study
from emo_viz.ui.ablation.parts import runs_data, view
from emo_viz.ui.parts import unseen
from emo_viz.ui.shell.words import count, isolated, share, shorten, visible

SUFFIXES = {
    ROUTER_PROBABILITY: "",
    GREEDY: " chosen layer by layer",
    OTHER_DOMAIN: " chosen for another domain",
    RANDOM: " drawn at random",
}
Part = dict[str, Any]

_VIEW = view("lines", '<div class="lines" aria-live="polite"></div>')


def draw(
    study: Study, choice: Choice, found: Measured | None, live: Live, stops: list[int]
) -> None:
    """The two lines, which follow the slider."""
    _VIEW(
        key="subset_lines",
        data={
            "runs": runs_data(study.runs),
            "stops": {
                str(stop): [
                    ("all", list(_all(study, choice, found, stop))),
                    ("document", list(_document(study, live, stop, found is None))),
                ]
                for stop in stops
            },
            "computing": [("all", [_plain("Computing this number of experts …")])],
        },
    )


def _plain(text: str) -> Part:
    return {"text": text}


def _strong(text: str) -> Part:
    return {"text": text, "kind": "strong"}


def _small(text: str) -> Part:
    return {"text": text, "kind": "small"}


def keep(study: Study, stop: int) -> str:
    """ "16 of 128 experts", of each run where they have different numbers."""

    def own(run: str) -> str:
        return kept_of(study.keep_of(run, stop), study.experts[run])

    if study.even:
        return f"{own(study.runs.first.id)} experts"
    return ", ".join(f"{own(run.id)} in {run.label}" for run in study.runs) + " experts"


def _all(study: Study, choice: Choice, found: Measured | None, stop: int) -> Iterator[Part]:
    yield _strong(f"{whose(choice)}: ")
    if found is None:
        yield _plain(
            "no curves are measured of experts chosen by importance."
            if choice.method in BY_WORTH
            else "no curves of these models have been measured here."
        )
        return
    yield _plain("with ")
    yield _strong(keep(study, stop))
    yield _plain(f"{SUFFIXES[choice.method]}, ")
    spans = spans_at(study, choice, found, stop)
    if spans is None:  # as long as the others are, so that the page does not move
        yield from _between(study, choice, found, stop)
        return
    yield _plain("likelihood kept: ")
    yield from _kept(study, {run: span.mean for run, span in spans.items()})
    yield _plain(".")
    domains = "" if choice.domain else f" of {count(len(found.cells.tokens), 'domain')}"
    yield _small(
        f" {count(found.documents, 'held-out document')}{domains}, "
        f"{unseen.in_a_sentence(choice.only_new)}{count(found.tokens, 'token')}."
    )


def whose(choice: Choice) -> str:
    """Which documents the curves are of: "All documents", "New documents of chess"."""
    domain = f" of {visible(choice.domain)}" if choice.domain else ""
    return f"{'New' if choice.only_new else 'All'} documents{domain}"


def spans_at(
    study: Study, choice: Choice, found: Measured, stop: int
) -> dict[str, Interval] | None:
    """Loss increase of every run at a stop; None where one was not measured there."""
    try:
        return {
            run: found.increase(run, choice.method, study.keep_of(run, stop))
            for run in study.runs.ids
        }
    except ValueError:
        return None


def _kept(study: Study, increases: dict[str, float]) -> Iterator[Part]:
    """ "EMO 96 %, Standard MoE 32 %" """
    for place, run in enumerate(study.runs):
        yield {"run": place}
        yield _plain(" ")
        yield _strong(share(likelihood_kept(increases[run.id])).replace(" ", "\u00a0"))
        if place < len(study.runs) - 1:
            yield _plain(", ")


def _between(study: Study, choice: Choice, found: Measured, stop: int) -> Iterator[Part]:
    """What is known at the nearest measured points."""
    yield _plain("not measured; ")
    points = found.kept(study.runs.first.id, choice.method)
    below = max((k for k in points if k < stop), default=None)
    above = min((k for k in points if k > stop), default=None)
    beside = [k for k in (below, above) if k is not None]
    for place, near in enumerate(beside):
        spans = spans_at(study, choice, found, near)
        if spans is not None:
            yield _plain(f"with {near}: ")
            yield from _kept(study, {run: span.mean for run, span in spans.items()})
            yield _plain("; " if place < len(beside) - 1 else ".")


def _document(study: Study, live: Live, stop: int, alone: bool) -> Iterator[Part]:
    """alone: the line of all documents does not say how many experts are kept."""
    yield _strong("This document: ")
    if alone:
        yield _plain("with ")
        yield _strong(keep(study, stop))
        yield _plain(", ")
    if any(live.switched.values()):
        yield _plain("with ")
        yield _strong(_switched(live))
        yield _plain(", ")
    if stop in live.losses:
        yield _plain("likelihood kept: ")
        yield from _kept(study, {run: live.increase(run, stop) for run in study.runs.ids})
        yield _plain(".")
    else:
        yield _plain("computed when the slider is let go.")
    title = isolated(shorten(visible(live.shown.title), 60))
    yield _small(f" {title}, {count(live.num_tokens, 'token')}.")


def _switched(live: Live) -> str:
    """ "2 experts of EMO switched by hand" """
    own = [(run.label, live.switched[run.id]) for run in live.runs if live.switched[run.id]]
    return (
        " and ".join(f"{count(n, 'expert')} of {label}" for label, n in own) + " switched by hand"
    )
