"""A document of a run as it is compared: which layers, which tokens, and what may be absent."""

import numpy as np
import pytest

from emo_viz.analysis.routed import Numbered, common_layers, of_recording, of_trace
from emo_viz.trace import Trace

NAMES = ("one", "other")


def numbered(routed: list[int], first: int = 0) -> Numbered:
    return Numbered(tuple(range(first, first + len(routed))), tuple(routed))


def test_layers_of_one_numbering_are_matched_by_it():
    found = common_layers(numbered([8, 8]), numbered([8, 16]), NAMES)
    assert (found.first, found.second, found.names, found.note) == ((0, 1), (0, 1), (0, 1), "")


def test_dense_layers_are_left_out():
    # A model with a dense first layer, and a trace that knows only the others by their numbers.
    found = common_layers(numbered([0, 8, 8]), numbered([8, 8], first=1), NAMES)
    assert (found.first, found.second, found.names, found.note) == ((1, 2), (0, 1), (1, 2), "")


def test_as_many_layers_of_other_numbers_are_matched_in_order_and_said():
    found = common_layers(numbered([8, 8], first=3), numbered([8, 8]), NAMES)
    assert (found.first, found.second, found.names) == ((0, 1), (0, 1), (3, 4))
    assert found.note == "Layers are matched in their order: 3 to 4 of one with 0 to 1 of other."


def test_layers_that_one_run_lacks_are_left_out_and_said():
    found = common_layers(numbered([8, 8, 8]), numbered([8, 8], first=1), NAMES)
    assert (found.first, found.second, found.names) == ((1, 2), (0, 1), (1, 2))
    assert found.note == "Layer left out, as only one run has experts there: 0."


def test_nothing_in_common_is_one_sentence():
    with pytest.raises(ValueError, match="one and other have no layer with experts in common"):
        common_layers(numbered([8, 8]), numbered([8], first=5), NAMES)


class Recording:
    token_ids = np.array([0, 5, 6])
    expert_ids = np.arange(3 * 3 * 2).reshape(3, 3, 2)  # [L, T, K]
    gate_weights = expert_ids / 10
    loss = np.array([np.nan, 1.0, 2.0])


def test_a_recording_without_its_eos_and_in_chosen_layers():
    found = of_recording("a", Recording(), [0, 2])
    assert found.token_ids is not None and found.token_ids.tolist() == [5, 6]
    assert found.expert_ids[0].tolist() == Recording.expert_ids[[0, 2], 1].tolist()
    assert found.loss is not None and found.loss.tolist() == [1, 2]
    assert len(of_recording("a", Recording(), [0], opening=0).expert_ids) == 3


def test_a_trace_has_what_was_recorded(token_trace: Trace):
    row = 3
    found = of_trace(token_trace, row, [1])
    rows = token_trace.tokens(row)
    assert found.id == token_trace.documents["id"][row]
    assert found.token_ids is not None and found.loss is not None
    assert found.token_ids.tolist() == rows["token_id"][1:].tolist()
    np.testing.assert_allclose(found.loss, rows["loss"][1:])
    slots = token_trace.manifest.model.slots[0]
    assert found.expert_ids[4, 0].tolist() == rows["expert_ids"][5][slots:].tolist()


@pytest.fixture(scope="module")
def token_trace(tiny_assets, tmp_path_factory) -> Trace:
    from tests.uneven import emo_viz

    out = tmp_path_factory.mktemp("traces") / "tokens"
    source = ("--model", tiny_assets / "checkpoints" / "emo-nano")
    documents = ("--documents", tiny_assets / "documents" / "documents.parquet")
    emo_viz("record", *source, *documents, "--level", "tokens", "--out", out)
    return Trace.open(out)
