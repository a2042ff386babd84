"""Subset ablation page: the curve and, as wide as its plot, the slider of the experts kept.

A Streamlit component without an iframe. It is given all it draws at once; while it is dragged
nothing is sent, and once it is let go its place comes back.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.curves import RANDOM, Measured
from emo_viz.analysis.runs import Run
from emo_viz.figures.ablation import AXIS_TITLES, Experts, Measure, axis_ticks, line_of
from emo_viz.figures.kept import beside
from emo_viz.ui.ablation import lines, sizes
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import Choice, Study
from emo_viz.ui.ablation.parts import runs_data, view
from emo_viz.ui.parts.heard import hear, heard
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import count

KEY, PLAYED = "subset_slider", "subset_played"
_HTML = f"""
<div class="cut">
  <div class="legend"></div>
  <div class="y-title"></div>
  <div class="chart"></div>
  <div class="track" role="slider" tabindex="0" aria-label="Experts kept a layer (keep-k)"></div>
  <div class="x-title"></div>
  <div class="below"><button class="play" type="button"></button></div>
  <table><thead><tr>{"".join(f"<th>{name}</th>" for name in sizes.HEAD)}</tr></thead>
  <tbody></tbody></table>
</div>
"""
_VIEW = view("slider", _HTML)


def draw(
    study: Study,
    choice: Choice,
    found: Measured | None,
    live: Live,
    stops: list[int],
    notches: tuple[int, ...],
    measure: Measure,
) -> None:
    """The curve of every run with the slider below it; `stops` are all its places by now."""
    axis = Experts({run: study.experts[run] for run in study.runs.ids})
    first = study.runs.first.id
    drawn = [_run(study, choice, found, live, run, measure, axis) for run in study.runs]
    low, high, ticks = axis_ticks([value for run in drawn for value in _heights(run)])
    _VIEW(
        key=KEY,
        data={
            "runs": [named | own for named, own in zip(runs_data(study.runs), drawn, strict=True)],
            "stops": [
                {
                    "keep": stop,
                    "place": float(axis.places(first, stop)),
                    "label": _label(axis, first, stop),
                    "notch": stop in notches,
                }
                for stop in stops
            ],
            "per_expert": float(axis.places(first, 1)),
            "range": [low, high],
            "ticks": ticks,
            "y_title": AXIS_TITLES[measure],
            "x_title": axis.title(),
            "alt": _alt(study, drawn, found),
            "said": {str(stop): _said(study, choice, found, stop) for stop in stops},
            "facts": {str(stop): rows for stop, rows in sizes.facts(study, stops).items()},
            "position": choice.keep_k,
            "of": _lower(lines.whose(choice)),
            "heard": heard(KEY),
        },
        on_moved_change=lambda: _moved(study),
        on_played_change=_played,
    )


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]


def _moved(study: Study) -> None:
    """The slider was let go: what the browser says is taken only if it can be."""
    event = st.session_state[KEY]["moved"]
    hear(KEY, event)
    keep = event.get("keep") if isinstance(event, dict) else None
    if isinstance(keep, int) and study.fewest_kept <= keep <= study.num_experts:
        st.session_state[routes.SUBSET_KEEP] = keep


def _played() -> None:
    st.session_state[PLAYED] = True


def _label(axis: Experts, run: str, stop: int) -> str:
    return f"{axis.places(run, stop):.3g} %" if axis.as_shares else str(stop)


def _run(
    study: Study,
    choice: Choice,
    found: Measured | None,
    live: Live,
    run: Run,
    measure: Measure,
    axis: Experts,
) -> dict[str, Any]:
    """Points as (place, value, low, high, hover text), of the method and of random subsets."""
    points, random = list[Any](), list[Any]()
    if found is not None:
        view = ("slider", run, choice.method, measure, repr(axis))
        make = partial(_curves, found, choice.method, run, measure, axis)
        points, random = beside(found, view, make)
    first = study.runs.first.id
    return {
        "points": points,
        "random": random,
        "document": [
            [float(axis.places(first, stop)), _value(live, run.id, stop, measure), stop]
            for stop in sorted(live.losses)
        ],
    }


def _curves(
    found: Measured, method: str, run: Run, measure: Measure, axis: Experts
) -> tuple[list[Any], list[Any]]:
    """The points of the method, and of random subsets where they are another one."""
    own = found.table[found.table["model"] == run.id]
    points = _points(line_of(own, method), run, measure, axis, ("low", "high"))
    if method == RANDOM or not (own["method"] == RANDOM).any():
        return points, []
    return points, _points(line_of(own, RANDOM), run, measure, axis, ("min", "max"))


def _value(live: Live, run: str, stop: int, measure: Measure) -> float:
    found = (
        live.increase(run, stop) if measure == "increase" else np.nanmean(live.losses[stop][run])
    )
    return round(float(found), 4)


def _points(
    line: pd.DataFrame, run: Run, measure: Measure, axis: Experts, edges: tuple[str, str]
) -> list[Any]:
    found = []
    for row in line.to_dict("records"):
        value = float(row[measure])
        low, high = (float(row[f"{measure}_{edge}"]) for edge in edges)
        if np.isnan(low):  # one document a domain shows no spread
            low = high = value
        place = float(axis.places(run.id, row["keep_k"]))
        sense = "95 % interval" if edges[0] == "low" else "least and greatest"
        title = (
            f"{run.label}, {row['keep_k']} experts: {value:.3f} nats a token "
            f"({sense} {low:.3f} to {high:.3f})"
        )
        found.append([place, round(value, 4), round(low, 4), round(high, 4), title])
    return found


def _heights(run: dict[str, Any]) -> list[float]:
    curves = [point[i] for line in ("points", "random") for point in run[line] for i in (1, 2, 3)]
    return [*curves, *(point[1] for point in run["document"])]


def _alt(study: Study, drawn: list[dict[str, Any]], found: Measured | None) -> str:
    """The measured increases in words."""
    if found is None:
        return "No curves were measured; the document shown is drawn alone."
    said = [
        f"{run.label} " + ", ".join(f"{point[1]:+.3f} at {point[0]:g}" for point in own["points"])
        for run, own in zip(study.runs, drawn, strict=True)
    ]
    numbers = f"{count(found.documents, 'held-out document')}, {count(found.tokens, 'token')}"
    return f"Nats a token by experts kept, on {numbers}: {'; '.join(said)}."


def _said(study: Study, choice: Choice, found: Measured | None, stop: int) -> str:
    """The slider's place for who does not see it."""
    spans = None if found is None else lines.spans_at(study, choice, found, stop)
    words = lines.keep(study, stop)
    if spans is None:
        return words
    lost = ", ".join(f"{run.label} loses {spans[run.id].mean:.3f}" for run in study.runs)
    return f"{words}: {lost} nats a token"
