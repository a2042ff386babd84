"""The curves of a training run: what the trainer writes is drawn under a title in words."""

import numpy as np

from emo_viz.figures.training import HELDOUT, METRICS, Line, curves, looks
from tests.model.test_train import metrics_of, run


def test_every_value_that_the_trainer_writes_has_a_title(tmp_path):
    run(tmp_path, stop_at=2)
    written = set(metrics_of(tmp_path)[-1]) - {"step", HELDOUT}
    assert "skipped_steps" in written
    assert written <= {metric.name for metric in METRICS}


def test_a_count_of_nothing_stands_on_an_axis_without_negative_numbers():
    line = Line(np.arange(3), np.zeros(3))
    figure = curves(looks(["EMO"], [0]), {"skipped_steps": [line]}, "Steps", False)
    (axis,) = (axis for axis in figure.select_yaxes() if axis.rangemode == "tozero")
    assert axis.range is None
