"""The colours of a text by two runs' losses: places, lines beside them, and the scale in words."""

import numpy as np

from emo_viz.analysis.runs import Run, compare
from emo_viz.figures.theme import AMBER, TEAL, with_alpha
from emo_viz.ui.parts.colouring import NO_VALUE, loss_difference, plain

RUNS = compare([Run("a", "A"), Run("b", "B")])


def test_the_better_run_has_its_own_end_and_line():
    found = loss_difference(np.array([2.0, -1.0, 0.1, np.nan]), RUNS)
    np.testing.assert_allclose(found.places, [1, 0.25, 0.525, np.nan])
    assert [found.lean(token) for token in range(4)] == [1, -1, 0, 0]
    assert found.colour(3) == NO_VALUE
    ends = loss_difference(np.array([1.0, -1.0]), RUNS)
    assert [ends.colour(token)[:-6] for token in (0, 1)] == [
        with_alpha(colour, 1)[:-2] for colour in (TEAL, AMBER)
    ]
    assert "better by A: teal, line above; by B: amber, line below" in ends.legend


def test_a_small_reach_is_not_said_to_be_none():
    assert "Full colour: by 0.012 nats" in loss_difference(np.array([0.0123, 0]), RUNS).legend


def test_a_plain_text_has_no_colour():
    found = plain(2)
    assert [found.colour(at) for at in range(2)] == [NO_VALUE] * 2 and found.legend == ""
