"""The colour code: two colours say which model, two others say better or worse, to every eye."""

import itertools

import numpy as np
import pytest

from emo_viz.figures import theme

LEAST_DISTANCE = 0.1  # in OKLab; neighbours below 0.05 are taken for one another
LEAST_CONTRAST = 3.0
PAGES = ("#ffffff", "#111517")
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(colour: str) -> np.ndarray:
    shares = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def seen(colour: str, vision: str) -> np.ndarray:
    """A colour in OKLab, as an eye sees it."""
    rgb = np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1)
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_LMS) @ rgb)


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISION)
def test_better_worse_and_the_two_models_are_four_colours_to_every_eye(vision: str):
    colours = (*theme.RUN_COLOURS, theme.BETTER, theme.WORSE)
    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(seen(one, vision) - seen(other, vision)) >= LEAST_DISTANCE, (
            one,
            other,
        )


@pytest.mark.parametrize("page", PAGES)
def test_the_colours_stand_out_from_both_pages(page: str):
    for colour in (*theme.RUN_COLOURS, theme.BETTER, theme.WORSE, theme.SELECTION_COLOUR):
        assert contrast(colour, page) >= LEAST_CONTRAST, colour


def test_the_diverging_scale_ends_in_worse_and_better_and_is_faint_between():
    def rgb(place: float) -> list[int]:
        return [int(part) for part in theme.colour_at(theme.DIVERGING, place)[5:-1].split(",")[:3]]

    for colour, place in ((theme.WORSE, 0.0), (theme.BETTER, 1.0)):
        assert rgb(place) == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert theme.colour_at(theme.DIVERGING, 0.5).endswith(" 0.100)")
