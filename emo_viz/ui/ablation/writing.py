"""Subset ablation page: what the models write after the document's first half, whole and cut.

Written for the slider's place and for all experts, and for the other notches once the slider is
played: each text takes a model a moment.
"""

import math
from collections.abc import Iterable
from itertools import accumulate, pairwise, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.figures.theme import WORSE_NAME
from emo_viz.server.library import LoadedModel
from emo_viz.ui.ablation import live as running
from emo_viz.ui.ablation.live import NEW_TOKENS, SEED, TEMPERATURE, Live
from emo_viz.ui.ablation.page import Choice, Study
from emo_viz.ui.ablation.parts import runs_data, view
from emo_viz.ui.ablation.slider import PLAYED
from emo_viz.ui.ablation.tokens import STEPS, palette
from emo_viz.ui.shell import missing
from emo_viz.ui.shell.words import count, direction, share, visible

if TYPE_CHECKING:
    from model.run.inference import Continuation

SHOWN_PROMPT = 160  # characters, of which the page shows as many of the last as have room
WRITING, ONCE_LET_GO = "is writing …", "writes once the slider is let go …"
WHOLE = 0  # in place of a stop: all experts, nothing switched by hand
NOTHING, GOES_ON = "(it ends the text at once)", "\u00a0…"
# Nats: whole models hardly ever draw such a token, broken ones often do.
UNLIKELY = 5.0
COLOUR_REACH = 10.0
_VIEW = view("writing", '<div class="writing"></div>')


class Written(NamedTuple):
    """What a model wrote, and what each token costs it with all experts, in nats."""

    told: "Continuation"
    losses: NDArray[np.float32]

    @property
    def unlikely(self) -> int:
        """How many tokens all experts would hardly have written."""
        return int((self.losses >= UNLIKELY).sum())


@st.fragment
def draw(study: Study, choice: Choice, live: Live, notches: tuple[int, ...]) -> None:
    """What each model writes next; what all experts would hardly have written is marked."""
    with missing.said():
        prompt = live.token_ids[: _given(live)]
        place = st.empty()
        written = {run: dict[int, Written]() for run in study.runs.ids}
        _show(place, study, live, written)
        for stop in _stops(live, choice.keep_k, notches):
            for loaded in study.models:
                experts = _experts(study, choice, live, loaded, stop)
                written[loaded.run][stop] = _written(loaded, prompt, experts)
            _show(place, study, live, written)


def _written(loaded: LoadedModel, prompt: NDArray[np.int64], experts: running.Experts) -> Written:
    told = running.continuation(loaded, prompt, experts)
    both = np.concatenate([prompt, np.array(told.token_ids, np.int64)])
    return Written(told, running.losses(loaded, both, ())[len(prompt) :])


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


def _show(place: Any, study: Study, live: Live, written: dict[str, dict[int, Written]]) -> None:
    prompt = _prompt(live)
    with place.container():
        _VIEW(
            key=f"subset_writing_{sum(map(len, written.values()))}",  # a key is drawn once a run
            data={
                "runs": [
                    named | _of_run(study, live, named["id"], written[named["id"]])
                    for named in runs_data(study.runs)
                ],
                "waiting": WRITING if _is_played() else ONCE_LET_GO,
                "prompt": prompt,
                "direction": direction(prompt),
                "code": live.shown.is_code,
                "colours": palette()[STEPS // 2 :],
                "reach": COLOUR_REACH,
                "unlikely": UNLIKELY,
                "legend": f"Underlined: unlikely to all experts (from {UNLIKELY:g} nats)",
            },
        )


def _of_run(study: Study, live: Live, run: str, own: dict[int, Written]) -> dict[str, Any]:
    """What one model wrote at every stop that is known, and what all its experts write."""
    whole = own.get(WHOLE)
    known = {stop: each for stop, each in own.items() if stop != WHOLE}
    if whole and not any(live.switched.values()):
        known[live.most] = whole
    return {
        "texts": {str(stop): parted(each, whole or each) for stop, each in known.items()},
        "said": {str(stop): _said(study, live, run, stop, each) for stop, each in known.items()},
        "whole": visible_lines(whole.told) if whole else "",
        "most": study.kept_in_words(run, live.most),
    }


def _given(live: Live) -> int:
    """How many tokens the models go on from: half of the text, to the end of a character."""
    half = max(1, len(live.pieces) // 2)
    rest = takewhile(lambda piece: not piece, live.pieces[half:])
    return half + sum(1 for _ in rest)


def _prompt(live: Live) -> str:
    """The end of what was given to the models."""
    text = visible("".join(live.pieces[: _given(live)]).strip())
    return text if len(text) <= SHOWN_PROMPT else text[-SHOWN_PROMPT:]


def _said(study: Study, live: Live, run: str, stop: int, own: Written) -> str:
    words = study.kept_in_words(run, stop)
    every = "all " * (stop == live.most)
    switched = f", {live.switched[run]} switched by hand" if live.switched[run] else ""
    unlikely = f"{own.unlikely} of {count(len(own.losses), 'token')} unlikely"
    return f"writes with {every}{words} experts{switched}: {unlikely}"


def visible_lines(told: "Continuation") -> str:
    """A text whose lines stay lines, and whose other controls are signs.

    Where it ends for want of room, that is marked.
    """
    return (_lines(told.text) + GOES_ON * (not told.ended)) or NOTHING


def _lines(text: str) -> str:
    return "\n".join(visible(line) for line in text.strip().splitlines())


def parted(own: Written, whole: Written) -> dict[str, Any]:
    """The text in parts with the loss of each, and before which one it parts from another text.

    A token that shows nothing yet, as half a character or a space, is one part with the next.
    """
    parts, worst, same = list[tuple[str, float]](), 0.0, 0
    alike = _alike(own.told, whole.told)
    for place, (piece, loss) in enumerate(zip(_pieces(own.told), own.losses, strict=True)):
        worst = max(worst, float(loss))
        if piece:
            parts.append((piece, round(worst, 2)))
            same, worst = same + (place < alike), 0.0
    end = visible_lines(own.told)[sum(len(piece) for piece, _ in parts) :]
    others = own.told.token_ids != whole.told.token_ids
    return {"parts": [*parts, (end, round(worst, 2))], "parting": same if others else None}


def _alike(one: "Continuation", other: "Continuation") -> int:
    """How many tokens two texts begin with together."""
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _pieces(told: "Continuation") -> list[str]:
    """What each token adds to the text as it is shown."""
    ends = accumulate(map(len, told.pieces))
    bounds = [0, *(len(_lines(told.text[:end])) for end in ends)]
    shown = _lines(told.text)
    return [shown[start:end] for start, end in pairwise(bounds)]


def in_words(live: Live) -> str:
    """What was given to the models, and how they go on."""
    return (
        f"What the models write: up to {NEW_TOKENS} tokens after the first "
        f"{count(_given(live) - 1, 'token')} of the document, drawn at temperature {TEMPERATURE} "
        f"with the fixed seed {SEED}, the same with and without the cut. "
        f"Underlined and {WORSE_NAME} are tokens that the model with all its experts finds "
        f"unlikely after those before them: {UNLIKELY:g} nats or more, a probability below "
        f"{share(math.exp(-UNLIKELY))}. A bar stands where the text parts from that of all experts."
    )
