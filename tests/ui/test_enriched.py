"""The tokens that an expert stands out in, as they are taken home."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np

from emo_viz.ui.experts import contexts


def known(tokens: Any) -> Any:
    return SimpleNamespace(tokens=tokens)


def test_places_that_no_token_fills_are_no_rows():
    tokens = SimpleNamespace(
        place=[4].index,  # the model's layer 4 is the first with experts
        enriched=np.array([[[-1, -1], [7, -1]]]),
        enriched_counts=np.array([[[0, 0], [12, 0]]]),
        enriched_ratios=np.array([[[0, 0], [2.5, 0]]]),
        texts={7: 'é"'},
    )
    assert contexts.enriched_table(known(tokens), (4, 0)).empty
    (row,) = contexts.enriched_table(known(tokens), (4, 1)).to_dict("records")
    assert json.loads(row["token"]) == 'é"'
    assert (row["token_id"], row["choices"], row["ratio"]) == (7, 12, 2.5)


def test_of_a_run_or_a_layer_without_tokens_none_are_known():
    assert not contexts.has_tokens(known(None), (0, 1))
    nowhere = SimpleNamespace(place=lambda number: None)
    assert not contexts.has_tokens(known(nowhere), (0, 1))
    assert contexts.enriched_table(known(nowhere), (0, 1)).empty
