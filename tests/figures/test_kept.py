"""Figures are made once for the same content, anew for any other, and memory is bounded."""

import gc
import weakref
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emo_viz.figures import kept as kept_figures
from emo_viz.figures import training
from emo_viz.figures.kept import Shelf, beside, kept


@dataclass(frozen=True, eq=False)
class Numbers:
    values: np.ndarray


def counted(shelf: Shelf):
    calls = []

    def make(*arguments, **named):
        calls.append((arguments, named))
        return object()

    return kept(make, shelf), calls


def test_equal_content_is_made_once_and_other_content_anew():
    make, calls = counted(Shelf())
    first = make(Numbers(np.arange(4)), title="a")
    assert make(Numbers(np.arange(4)), title="a") is first and len(calls) == 1
    assert make(Numbers(np.arange(5)), title="a") is not first
    assert make(Numbers(np.arange(4)), title="b") is not first
    assert make(pd.DataFrame({"a": [1]})) is make(pd.DataFrame({"a": [1]}))
    changed = np.arange(4)
    before = make(changed)
    changed[0] = 9
    assert make(changed) is not before


def test_what_has_no_content_to_tell_it_by_is_made_each_time():
    make, calls = counted(Shelf())
    assert make(lambda: 0) is not make(lambda: 0)
    assert len(calls) == 2


def test_two_functions_do_not_share_what_they_made():
    shelf = Shelf()

    def one(value):
        return ["one"]

    def other(value):
        return ["other"]

    assert kept(one, shelf)(1) != kept(other, shelf)(1)


def test_the_oldest_goes_when_the_shelf_is_full():
    shelf = Shelf(most=10_000)
    make, calls = counted(shelf)
    for number in range(5):
        make(bytes(4_000), number)
    assert len(shelf) == 2
    make(bytes(4_000), 4)
    assert len(calls) == 5
    make(bytes(4_000), 0)
    assert len(calls) == 6
    make(bytes(4_000), 3)
    assert len(calls) == 7


class Shared:
    """Something that all visitors read."""


def test_what_is_made_of_something_shared_lives_as_long_as_it():
    one, other = Shared(), Shared()
    made = beside(one, "view", object)
    assert beside(one, "view", object) is made
    assert beside(one, "another view", object) is not made
    assert beside(other, "view", object) is not made
    gone = weakref.ref(beside(one, "big", Shared))
    del one
    gc.collect()
    assert gone() is None


def test_a_run_that_grows_pushes_out_no_figure_but_those_of_runs():
    (look,) = training.looks(["a run"], [None])
    before, own = len(kept_figures._SHELF), len(training._SHELF)
    for steps in (5, 6):
        line = training.Line(np.arange(steps), np.ones(steps, np.float32))
        training.curves([look], {"loss": [line]}, "Steps", log=False)
    assert len(kept_figures._SHELF) == before and len(training._SHELF) == own + 2
