"""Counting what a text uses of a layer."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.routing import (
    expert_order,
    gate_matrix,
    half_load,
    routing_table,
    text_routing,
)

NAN = float("nan")


@pytest.fixture
def recorded() -> SimpleNamespace:
    """One layer, five positions (EOS first), two routed experts a token of six."""
    return SimpleNamespace(
        token_ids=np.array([0, 11, 12, 13, 14]),
        expert_ids=np.array([[[5, 4], [0, 1], [0, 2], [0, 1], [0, 3]]]),
        gate_weights=np.array([[[0.9, 0.1], [0.4, 0.3], [0.2, 0.6], [0.1, 0.1], [0.1, 0.1]]]),
        entropy=np.array([[9.0, 1, 2, 3, 4]]),
        loss=np.array([NAN, 1, 2, 3, 6]),
    )


def test_text_routing_leaves_out_the_opening_eos(recorded: SimpleNamespace):
    found = text_routing(recorded)
    assert found.num_tokens == 4
    assert found.distinct.tolist() == [4]
    assert found.half.tolist() == [1]
    assert found.entropy.tolist() == [2.5]
    assert found.mean_loss == 3


def test_overlap_compares_the_two_halves(recorded: SimpleNamespace):
    assert text_routing(recorded).overlap.tolist() == [0.5]  # {0, 1, 2} and {0, 1, 3}


def test_one_token_has_no_halves(recorded: SimpleNamespace):
    for name in ("token_ids", "loss"):
        setattr(recorded, name, getattr(recorded, name)[:2])
    for name in ("expert_ids", "gate_weights", "entropy"):
        setattr(recorded, name, getattr(recorded, name)[:, :2])
    assert np.isnan(text_routing(recorded).overlap).all()


@pytest.mark.parametrize(
    ("load", "experts"), [([1, 1, 1, 1], 2), ([9, 1, 0, 0], 1), ([0, 2, 2, 3], 2), ([5], 1)]
)
def test_half_load(load: list[int], experts: int):
    assert half_load(np.array(load)) == experts


def test_order_falls_by_gate_mass_then_by_id(recorded: SimpleNamespace):
    assert expert_order(recorded, 0, 6).tolist() == [0, 2, 1, 3, 4, 5]


def test_gate_matrix_puts_each_weight_at_its_expert(recorded: SimpleNamespace):
    gates = gate_matrix(recorded, 0, 6)
    np.testing.assert_allclose(gates[1], [0.2, 0, 0.6, 0, 0, 0], rtol=1e-6)
    assert gates.shape == (4, 6)


def test_table_has_a_row_for_every_model_layer_and_token(recorded: SimpleNamespace):
    table = routing_table({"emo": recorded, "standard": recorded}, ["", "a", "b", "c", "d"])
    assert len(table) == 8
    row = table[(table["model"] == "standard") & (table["position"] == 2)].iloc[0]
    expected = {"token": "b", "token_id": 12, "loss_nats": 2, "expert_2": 2, "gate_weight_2": 0.6}
    pd.testing.assert_series_equal(row[list(expected)], pd.Series(expected), check_names=False)


def test_slots_without_an_expert_count_for_nothing(recorded: SimpleNamespace):
    """A second layer, of one routed expert: the second slot of each token is empty."""
    recorded.expert_ids = np.stack([recorded.expert_ids[0], [[0, -1]] * 5])
    recorded.gate_weights = np.stack([recorded.gate_weights[0], [[1.0, 0.0]] * 5])
    recorded.entropy = np.stack([recorded.entropy[0], np.zeros(5)])
    found = text_routing(recorded)
    assert found.distinct.tolist() == [4, 1] and found.half.tolist() == [1, 1]
    assert found.overlap.tolist() == [0.5, 1.0]
    assert expert_order(recorded, 1, 6).tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(gate_matrix(recorded, 1, 6), [[1, 0, 0, 0, 0, 0]] * 4)
    rows = routing_table({"emo": recorded}, ["", "a", "b", "c", "d"]).to_csv().splitlines()
    assert rows[1].endswith(",0,0.4,1,0.3") and rows[5].endswith(",0,1.0,,")
