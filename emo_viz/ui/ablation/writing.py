"""Subset ablation page: what the models write after the document's first half, whole and cut.

Written for the slider's place and for all experts, and for the other notches once the slider is
played: each text takes a model a moment.
"""

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import streamlit as st

from emo_viz.server.library import LoadedModel
from emo_viz.ui.ablation import live as running
from emo_viz.ui.ablation.live import NEW_TOKENS, SEED, TEMPERATURE, Live
from emo_viz.ui.ablation.page import Choice, Study
from emo_viz.ui.ablation.parts import runs_data, view
from emo_viz.ui.ablation.slider import PLAYED
from emo_viz.ui.shell import missing
from emo_viz.ui.shell.words import count, direction, visible

if TYPE_CHECKING:
    from model.run.inference import Continuation

SHOWN_PROMPT = 160  # characters, of which the page shows as many of the last as have room
WRITING, ONCE_LET_GO = "is writing …", "writes once the slider is let go …"
WHOLE = 0  # in place of a stop: all experts, nothing switched by hand
NOTHING = "(it ends the text at once)"
_WORDS = re.compile(r"\s+|[^\s]+")
_VIEW = view("writing", '<div class="writing"></div>')
Parts = list[tuple[str, bool]]


@st.fragment
def draw(study: Study, choice: Choice, live: Live, notches: tuple[int, ...]) -> None:
    """What each model writes next; words that differ from those of all experts are marked."""
    with missing.said():
        prompt = live.token_ids[: _given(live)]
        place = st.empty()
        written = {run: dict[int, "Continuation"]() for run in study.runs.ids}
        _show(place, study, live, written)
        for stop in _stops(live, choice.keep_k, notches):
            for loaded in study.models:
                experts = _experts(study, choice, live, loaded, stop)
                written[loaded.run][stop] = running.continuation(loaded, prompt, experts)
            _show(place, study, live, written)


def _stops(live: Live, keep_k: int, notches: tuple[int, ...]) -> Iterable[int]:
    others = sorted(notches, reverse=True) if _is_played() else []
    return dict.fromkeys([WHOLE, keep_k, *others])


def _is_played() -> bool:
    return bool(st.session_state.get(PLAYED, False))


def _experts(
    study: Study, choice: Choice, live: Live, loaded: LoadedModel, stop: int
) -> running.Experts:
    if stop == WHOLE:
        return ()
    if stop == live.keep_k:
        return running.experts_of(live.subsets[loaded.run])
    return running.experts_of(running.subset_at(study, loaded, live.domain, choice, stop))


def _show(
    place: Any, study: Study, live: Live, written: dict[str, dict[int, "Continuation"]]
) -> None:
    stops = sorted({live.most, *(stop for own in written.values() for stop in own)} - {WHOLE})
    prompt = _prompt(live)
    with place.container():
        _VIEW(
            key=f"subset_writing_{sum(map(len, written.values()))}",  # a key is drawn once a run
            data={
                "runs": [
                    named
                    | {
                        "texts": _texts(written[named["id"]], live),
                        "whole": _whole(written[named["id"]]),
                        "most": study.kept_in_words(named["id"], live.most),
                        "said": {
                            str(stop): _said(study, live, named["id"], stop) for stop in stops
                        },
                    }
                    for named in runs_data(study.runs)
                ],
                "waiting": WRITING if _is_played() else ONCE_LET_GO,
                "prompt": prompt,
                "direction": direction(prompt),
            },
        )


def _given(live: Live) -> int:
    """How many tokens the models go on from: half of the text, to the end of a character."""
    half = max(1, len(live.pieces) // 2)
    rest = takewhile(lambda piece: not piece, live.pieces[half:])
    return half + sum(1 for _ in rest)


def _prompt(live: Live) -> str:
    """The end of what was given to the models."""
    text = visible("".join(live.pieces[: _given(live)]).strip())
    return text if len(text) <= SHOWN_PROMPT else text[-SHOWN_PROMPT:]


def _said(study: Study, live: Live, run: str, stop: int) -> str:
    words = study.kept_in_words(run, stop)
    every = "all " * (stop == live.most)
    switched = f", {live.switched[run]} switched by hand" if live.switched[run] else ""
    most = study.kept_in_words(run, live.most)
    marked = f" (grey: not so with all {most})" * (stop != live.most or bool(switched))
    return f"writes with {every}{words} experts{switched}{marked}"


def _texts(own: dict[int, "Continuation"], live: Live) -> dict[str, Parts]:
    """By stop; at all experts, what is written with all of them unless some are switched."""
    shown = {stop: visible_lines(*each) for stop, each in own.items()}
    whole = shown.pop(WHOLE, NOTHING)
    unswitched = {live.most: whole} if WHOLE in own and not any(live.switched.values()) else {}
    return {str(stop): marked(text, whole) for stop, text in (shown | unswitched).items()}


def _whole(own: dict[int, "Continuation"]) -> str:
    """What all experts write, for comparison; "" before it is known."""
    return visible_lines(*own[WHOLE]) if WHOLE in own else ""


def visible_lines(text: str, ended: bool) -> str:
    """A text whose lines stay lines, and whose other controls are signs.

    ended: the model ended it by itself; else there was no more room, which is marked.
    """
    lines = [visible(line) for line in text.strip().splitlines()]
    return ("\n".join(lines) + "\u00a0…" * (not ended)) or NOTHING


@lru_cache(maxsize=1024)
def marked(text: str, whole: str) -> Parts:
    """The text in pieces, and of each whether it differs from what all experts wrote."""
    words, others = _WORDS.findall(text), _WORDS.findall(whole)
    parts = Parts()
    matcher = difflib.SequenceMatcher(None, others, words, autojunk=False)
    for kind, _, _, start, end in matcher.get_opcodes():
        piece = "".join(words[start:end])
        if piece:
            parts.append((piece, kind != "equal" and bool(piece.strip())))
    return parts


def in_words(live: Live) -> str:
    """What was given to the models, and how they go on."""
    return (
        f"What the models write: up to {NEW_TOKENS} tokens after the first "
        f"{count(_given(live) - 1, 'token')} of the document, drawn at temperature {TEMPERATURE} "
        f"with the fixed seed {SEED}, the same with and without the cut."
    )
