"""The figure of what each expert of a trace is used for."""

import numpy as np

from emo_viz.figures.recorded import expert_use


def test_experts_that_a_layer_lacks_are_blank_and_layers_have_their_own_numbers():
    fig = expert_use(np.full((2, 4), 0.25, np.float16), (4, 2), (3, 7), "tokens")
    values = np.array(fig.data[0].z, float)
    assert np.isnan(values[1, 2:]).all() and np.isfinite(values[0]).all()
    assert list(fig.layout.yaxis.ticktext) == ["3", "7"]
    assert np.array(fig.data[0].customdata)[:, 0].tolist() == [3, 7]
    assert "of tokens" in fig.layout.title.text and "of tokens" in fig.data[0].hovertemplate
