"""The colours of a text's tokens: a place on a scale for each, and the scale in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.runs import Comparison
from emo_viz.figures.theme import SEQUENTIAL, between, colour_at, colour_name_of
from emo_viz.ui.parts.together import name

# Where on the sequential scale a text's colours end: letters stay legible on them.
DEEPEST = 0.75
# How far from even a token leans before a line says so: below it the models are about as good.
LEANS = 0.15
NO_VALUE = "rgba(0, 0, 0, 0)"


@dataclass(frozen=True)
class Colouring:
    """A place on a colour scale for every token [T] (NaN: none), and the scale in words.

    two_ends: whether the middle of the scale is even, and its ends are two runs.
    """

    places: NDArray[np.float64]
    scale: list[list[Any]]
    legend: str
    two_ends: bool = False

    def colour(self, token: int) -> str:
        place = self.places[token]
        return NO_VALUE if np.isnan(place) else colour_at(self.scale, float(place))

    def lean(self, token: int) -> int:
        """To which end of a scale with two ends a token leans: 1, -1, or 0 for neither."""
        place = self.places[token]
        if not self.two_ends or np.isnan(place) or abs(2 * place - 1) < LEANS:
            return 0
        return 1 if place > 0.5 else -1


def plain(tokens: int) -> Colouring:
    """None at all."""
    return Colouring(np.full(tokens, np.nan), SEQUENTIAL, "")


def loss_difference(gain: NDArray[np.floating], runs: Comparison) -> Colouring:
    """Which of two runs predicts each token better. gain [T]: the second's loss less the first's,
    in nats, NaN where it is not known; one at least is."""
    first, second = runs
    reach = float(np.nanmax(np.abs(gain))) or 1.0
    return Colouring(
        places=(gain.astype(np.float64) / reach + 1) / 2,
        scale=between(first, second),
        legend=f"Predicted better by {name(first)}: {colour_name_of(first)}, line above; by "
        f"{name(second)}: {colour_name_of(second)}, line below. Full colour: by {reach:.2g} nats.",
        two_ends=True,
    )
