"""The clusters of both runs side by side: the interval is that of the documents in hand."""

import numpy as np
import pytest

from emo_viz.analysis.runs import Run, compare
from emo_viz.ui.clusters import quality


def test_the_same_labels_of_other_documents_have_another_interval(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(quality.st, "plotly_chart", lambda *_, **__: None)
    monkeypatch.setattr(quality.st, "caption", said.append)
    monkeypatch.setattr(quality.export, "offer", lambda *_, **__: None)
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, 120) for _ in range(2)]
    labels[1][:60] = labels[0][:60]
    names = [["one", "two", "three"]] * 2
    for tokens in (1, 30):  # of a document
        documents = [str(place // tokens) for place in range(120)]
        runs = compare([Run("a", "A"), Run("b", "B")])
        quality.confusion(runs, labels, names, "token", documents)
    assert len(set(said)) == 2
