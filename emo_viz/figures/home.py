"""The first screen's picture as data: what the browser needs to draw every notch by itself.

Nothing is drawn here and nothing is worked out in the browser: it picks the notch that the slider
stands on. Numbers are packed, so that a document of 250 tokens and two models take some 60 kB.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.glance import Glance
from emo_viz.analysis.runs import Run
from emo_viz.figures.theme import DIVERGING, LEAST_CHANGE, NEUTRAL_COLOUR, colour_at, colour_of

SHADES = 25  # of the palette of changes, an odd number: the middle one is no change
REACH = 3.0  # nats at either end of it
DEEPEST = 0.3  # from the middle: beyond, a letter on the colour would be hard to read
UNIT = 0.05  # nats: what the changes are rounded to
MOST = 127
NONE = 65535  # in place of an expert, for a slot without one


def palette() -> list[str]:
    """Colours of a token from theme.BETTER over unchanged to theme.WORSE."""
    places = np.linspace(0.5 + DEEPEST, 0.5 - DEEPEST, SHADES)
    colours = [colour_at(DIVERGING, float(place)) for place in places]
    colours[SHADES // 2] = "rgba(0, 0, 0, 0)"
    return colours


def of_run(run: Run, one: Glance, pieces: Sequence[str], offered: Sequence[int]) -> dict[str, Any]:
    """One run's half of the picture.

    pieces: the tokens as they can be shown. offered: the numbers of the layers to choose among; at
    each of them `at` is the place of the run's own layer of that number, or of the nearest, which
    `aside` then names. Arrays are base64: `places` and `ids` uint16 [L, T, K],
    `weights` uint8 [L, T, K] in 255ths, `change` int8 [N, T] in steps of UNIT, or None.
    """
    places = one.places
    change = one.change
    at = [_nearest(one.layers, number) for number in offered]
    return {
        "label": run.label,
        "colour": colour_of(run),
        "lost": NEUTRAL_COLOUR,
        "tokens": list(pieces),
        "slots": places.shape[2],
        "layers": list(one.layers),
        "at": at,
        "aside": [
            "" if one.layers[place] == number else f"layer {one.layers[place]}, "
            for place, number in zip(at, offered, strict=True)
        ],
        "routed": list(one.routed),
        "kept": one.kept.tolist(),
        "share": np.round(100 * one.kept_share).astype(int).tolist(),
        "places": _packed(np.where(places < 0, NONE, places), np.uint16),
        "ids": _packed(np.where(one.expert_ids < 0, NONE, one.expert_ids), np.uint16),
        "weights": _packed(np.round(255 * one.weights), np.uint8),
        "change": None if change is None else _packed(_steps(change), np.int8),
        "worse": None if change is None else (change > LEAST_CHANGE).sum(axis=1).tolist(),
    }


def _nearest(own: Sequence[int], number: int) -> int:
    return min(range(len(own)), key=lambda place: abs(own[place] - number))


def _steps(change: NDArray[np.float32]) -> NDArray[np.float32]:
    steps: NDArray[np.float32] = np.clip(np.round(change / UNIT), -MOST, MOST)
    return steps


def _packed(values: NDArray[Any], kind: type) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def map_of(places: NDArray[np.float32]) -> str:
    """Places [N, 2] as bytes: both axes to one scale, the middle of the map in the middle."""
    low, high = places.min(axis=0), places.max(axis=0)
    reach = max(float((high - low).max()), 1e-9)
    return _packed(np.round(127.5 + 255 * (places - (low + high) / 2) / reach), np.uint8)


def rows_of(chosen: NDArray[np.bool_]) -> str:
    """Which of N they are, as uint16."""
    return _packed(np.flatnonzero(chosen), np.uint16)
