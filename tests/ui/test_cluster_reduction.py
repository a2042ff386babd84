"""The clusters page says how much of a wide routing its clusters look at."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.runs import Run, compare
from emo_viz.analysis.vectors import fit_pca, flatten_usage
from emo_viz.ui.clusters.data import Data
from emo_viz.ui.clusters.documents import DOMAIN, PCA, View, reduction

VIEW = View(colour=DOMAIN, domains=(), k=2, layer=None, method=PCA)


def _data(layers: int) -> Data:
    usage = np.random.default_rng(0).random((200, layers, 128), np.float32)
    runs = compare([Run("a", "A")])
    return Data(runs, {"a": SimpleNamespace(usage=usage)}, pd.DataFrame(), [], f"wide {layers}")


def test_a_reduced_routing_is_said_with_what_is_left_of_it():
    data = _data(9)
    held = fit_pca(flatten_usage(data.traces["a"].usage)).explained
    said = reduction(data, VIEW)
    assert "the 64 largest principal components of the 1,152 numbers a document" in said
    assert f"{100 * held:.0f}" in said and held < 0.95


@pytest.mark.parametrize(("layers", "layer"), [(2, None), (9, 3)])
def test_what_is_looked_at_as_a_whole_needs_no_word(layers: int, layer: int | None):
    view = View(colour=DOMAIN, domains=(), k=2, layer=layer, method=PCA)
    assert reduction(_data(layers), view) == ""
