"""How many experts a layer has, in numbers and words."""

from types import SimpleNamespace

import pytest

from emo_viz.analysis.widths import (
    difference,
    experts_by_layer,
    in_words,
    kept_of,
    routed_by_layer,
)

CONFIG = SimpleNamespace(
    num_hidden_layers=4, num_shared_experts=1, experts_in_layer=[9, 0, 17, 21].__getitem__
)


def test_a_layer_has_its_own_number():
    assert experts_by_layer(CONFIG) == (9, 0, 17, 21)
    assert routed_by_layer(CONFIG) == (8, 0, 16, 20)


def test_layers_of_one_width_are_one_number():
    assert in_words((128, 128)) == "128" and in_words((9, 21, 13)) == "9 to 21"


@pytest.mark.parametrize(
    ("keep_k", "counts", "words"),
    [
        (16, (128, 128), "16 of 128"),
        (128, (128, 128), "128 of 128"),
        (8, (12, 16), "8 of 12 to 16"),
        (12, (12, 16), "12 of 12 to 16"),
        (14, (12, 16), "up to 14 of 12 to 16"),
        (16, (12, 16), "all 12 to 16"),
        (16, (16,), "16 of 16"),
    ],
)
def test_what_is_kept_is_said_with_what_there_is(keep_k, counts, words):
    assert kept_of(keep_k, counts) == words


def test_the_first_layer_that_differs_is_named():
    assert difference((9, 13, 17), (9, 12, 21)) == (1, 13, 12)
    assert difference((9, 13), (9, 13)) is None
