"""Subset ablation page: experts chosen by importance beside those chosen by router probability.

Importance sounds like the better choice and need not be: what both lose is computed and said.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.curves import ROUTER_PROBABILITY
from emo_viz.server.library import LoadedModel
from emo_viz.ui.ablation import lines
from emo_viz.ui.ablation.live import (
    Live,
    choose_subset,
    encode,
    experts_of,
    is_large,
    losses,
)
from emo_viz.ui.ablation.page import BY_WORTH, WORTH_HERE, Choice, Study
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell.words import count, escape_markdown

DIGITS = 3  # of a loss increase
SAMPLE = 8  # held-out documents of the domain: a second or two for small models


def say(study: Study, choice: Choice, live: Live) -> None:
    """One line, where the experts are chosen by importance and some are left out."""
    if choice.method not in BY_WORTH or live.keep_k == live.most:
        return
    texts, of = _texts(study, choice, live)
    found = {one.run: _both(study, choice, live, one, texts) for one in study.models}
    first = study.models.first
    tokens = sum(len(encode(first)(text).token_ids) - 1 for text in texts)
    lost = in_each(
        study.runs,
        lambda run: " against ".join(f"**{each:+.{DIGITS}f}**" for each in found[run]),
    )
    kept = escape_markdown(lines.keep(study, live.keep_k))
    st.caption(
        f"Importance against router probability, {kept}, "
        f"{of}, {count(tokens, 'token')}, in nats a token: {lost}. {_verdict(study, found)}"
    )


def _texts(study: Study, choice: Choice, live: Live) -> tuple[list[str], str]:
    """The texts that are compared on, and what they are."""
    if choice.is_own or choice.method == WORTH_HERE or any(map(is_large, study.models)):
        return [live.shown.text], "on this document alone"
    own = study.documents[study.documents["domain"] == live.domain].head(SAMPLE)
    whose = escape_markdown(live.domain)
    return own["text"].tolist(), f"on {count(len(own), 'held-out document')} of {whose}"


def _both(
    study: Study, choice: Choice, live: Live, loaded: LoadedModel, texts: Sequence[str]
) -> tuple[float, float]:
    """Loss increases in nats a token: by the method chosen, and by router probability."""
    documents = [encode(loaded)(text).token_ids for text in texts]
    plain = replace(choice, method=ROUTER_PROBABILITY, switched=())
    ways = (replace(choice, switched=()), plain)
    chosen = [choose_subset(study, loaded, live.domain, way, live.keep_k) for way in ways]
    full = _sum(loaded, documents, ())
    one, other = (_sum(loaded, documents, experts_of(subset)) - full for subset in chosen)
    return float(one), float(other)


def _sum(
    loaded: LoadedModel,
    documents: Sequence[NDArray[np.int64]],
    experts: tuple[tuple[int, ...], ...],
) -> float:
    """The mean loss of all tokens of some documents."""
    each = [losses(loaded, ids, experts) for ids in documents]
    return float(np.nanmean(np.concatenate(each), dtype=np.float64))


def _verdict(study: Study, found: dict[str, tuple[float, float]]) -> str:
    """Which of the two chose better, in words, by the numbers as they are shown."""
    better = {run: _better(*lost) for run, lost in found.items()}
    if len(set(better.values())) == 1:
        return f"{next(iter(better.values()))} here."
    return " ".join(f"{better[run.id]} for {name(run)}." for run in study.runs)


def _better(by_importance: float, by_probability: float) -> str:
    one, other = (round(lost, DIGITS) for lost in (by_importance, by_probability))
    if one == other:
        return "Both choose alike"
    return f"{'Router probability' if one > other else 'Importance'} chooses better"
