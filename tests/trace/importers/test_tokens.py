"""Experts token by token: FLAME-MoE, Megatron, moe-atlas."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_viz.trace.importers import read_routing


def told(routing, part: str) -> bool:
    return any(part in note for note in routing.notes)


def test_an_iteration_of_flame_keeps_its_layers_numbers(write):
    routing = read_routing(write("flame"))
    assert routing.layers == (2, 3, 4)
    assert told(routing, "The rows carry no borders of texts")
    assert told(routing, "those of a token do not sum to 1")


def test_one_layer_alone_and_under_another_name(write, tmp_path, example):
    file = write("flame") / "layer_03.parquet"
    routing = read_routing(file)
    assert routing.layers == (3,)
    np.testing.assert_array_equal(routing.documents[0].expert_ids[:, 0], example.ids[:, 1])
    other = file.rename(tmp_path / "routing.parquet")
    routing = read_routing(other)
    assert routing.layers == (0,)
    assert told(routing, "name tells no layer")
    assert told(routing, "Token ids (samples/*.parquet) are not beside the layers")


def test_windows_cross_row_groups_and_files(write, example, monkeypatch):
    monkeypatch.setattr("emo_viz.trace.importers.flame.WINDOW", 9)
    documents = read_routing(write("flame")).documents
    assert [len(document.expert_ids) for document in documents] == [9, 9, 2]
    ids = np.concatenate([document.expert_ids for document in documents])
    tokens = np.concatenate([document.token_ids for document in documents])
    np.testing.assert_array_equal(ids, example.ids)
    np.testing.assert_array_equal(tokens, example.token_ids)


def test_token_ids_that_do_not_fit_are_left_out_and_told(write):
    folder = write("flame")
    (folder.parent.parent / "samples" / "001.parquet").unlink()
    routing = read_routing(folder)
    assert routing.documents[0].token_ids is None
    assert told(routing, "15 token ids stand beside 20 rows of experts: they were left out")


def test_rows_of_unequal_length_and_a_missing_layer(write):
    folder = write("flame")
    (folder / "layer_03.parquet").unlink()
    columns = {"indices": [[1, 2, 3]] * 10 + [[4]] * 10}
    pq.write_table(pa.table(columns), folder / "layer_04.parquet")
    routing = read_routing(folder)
    assert routing.documents[0].expert_ids[12].tolist()[1] == [4, -1, -1]
    assert told(routing, "from 1 to 3 experts in a layer: top-k varies")
    assert told(routing, "The file has nothing of layer 3")
    assert routing.documents[0].gate_weights is None


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"indices": [[1, 2]] * 19}, "layers of 19 and of 20 tokens"),
        ({"ids": [[1, 2]] * 20}, "no column indices"),
        ({"indices": [1] * 20}, "no list in each row of indices"),
        ({"indices": [[1, None]] * 20}, "empty values in indices"),
        ({"indices": [None] + [[1, 2]] * 19}, "no list in each row of indices"),
        ({"indices": [[1.5, 2.5]] * 20}, "1 axes of float64 in indices"),
        ({"indices": [[1, 2]] * 20, "scores": [[0.5]] * 20}, "more or fewer scores than indices"),
        ({"indices": [list(range(2000))] * 20}, "a row of 2000 indices, more than any top-k"),
    ],
)
def test_a_layer_of_another_form_is_one_sentence(write, columns, expected):
    folder = write("flame")
    pq.write_table(pa.table(columns), folder / "layer_03.parquet")
    with pytest.raises(ValueError, match=expected):
        read_routing(folder)


def test_rows_are_read_in_batches_from_any_place(write, example, monkeypatch):
    monkeypatch.setattr("emo_viz.trace.importers.flame.WINDOW", 3)
    monkeypatch.setattr("emo_viz.trace.importers.flame.BATCH", 2)
    monkeypatch.setattr("emo_viz.trace.importers.checks.IN_MEMORY", 0)
    documents = read_routing(write("flame")).documents
    for index in (6, 0, 5, 2, 3):
        part = example.ids[3 * index : 3 * index + 3]
        np.testing.assert_array_equal(documents[index].expert_ids, part)


def test_a_file_that_unpacks_to_far_more_than_it_holds_is_refused(write):
    folder = write("flame")
    row = pa.array(np.ones(4_000_000, np.int8))
    column = pa.ListArray.from_arrays(pa.array([0, *[len(row)] * 20], pa.int32()), row)
    pq.write_table(pa.table({"indices": column}), folder / "layer_03.parquet", compression="zstd")
    with pytest.raises(ValueError, match="layer_03.parquet would unpack to 4000019 values"):
        read_routing(folder)


def test_lines_of_one_layer(write, tmp_path, example):
    routing = read_routing(write("flame_lines"))
    np.testing.assert_array_equal(routing.documents[0].expert_ids[:, 0], example.ids[:, 0])
    np.testing.assert_array_equal(routing.documents[0].token_ids, example.token_ids)
    np.testing.assert_allclose(routing.documents[0].gate_weights[:, 0], example.weights[:, 0])
    (tmp_path / "bad.jsonl").write_text('{"indices": [1, 2], "scores": [0.5]}\n')
    with pytest.raises(ValueError, match="more or fewer scores than indices"):
        read_routing(tmp_path / "bad.jsonl")


@pytest.fixture
def megatron(tmp_path):
    def read(*records: dict, rank: int = 0):
        path = tmp_path / f"router_trace_rank{rank}.jsonl"
        base = {"block": "decoder", "rank": rank, "step": 0, "topk": 2}
        lines = [json.dumps(base | record) for record in records]
        path.write_text("\n".join(lines) + "\n")
        return path

    return read


def test_a_batch_is_a_document_and_other_blocks_are_left_out(write):
    routing = read_routing(write("megatron"))
    assert [document.id for document in routing.documents] == ["rank-0/step-0", "rank-0/step-1"]
    assert told(routing, "1 record of other blocks than the decoder (MTP) left out")
    assert told(routing, "The trace holds batches, not texts")


def test_microbatches_of_a_step_are_apart_and_ranks_come_together(megatron, tmp_path):
    rows = [{"layer": 1, "top_indices": [[n, 5]]} for n in range(2)]
    megatron(*rows)
    megatron(*rows, rank=1)
    routing = read_routing(tmp_path)
    ids = [document.id for document in routing.documents]
    assert ids == ["rank-0/step-0", "rank-0/step-0/1", "rank-1/step-0", "rank-1/step-0/1"]
    assert told(routing, "2 ranks: with model parallelism they may hold the same tokens")


def test_a_layer_that_one_batch_lacks_is_told(megatron):
    path = megatron(
        {"step": 0, "layer": 1, "top_indices": [[3, 5]]},
        {"step": 0, "layer": 2, "top_indices": [[3, 5]]},
        {"step": 1, "layer": 2, "top_indices": [[3, 5], [4, 1]], "logit_offset": 0},
    )
    routing = read_routing(path)
    assert routing.documents[1].expert_ids[:, 0].tolist() == [[-1, -1], [-1, -1]]
    assert told(routing, "2 places where a token has no experts in a layer but has some in another")
    assert told(routing, "logits_rank*.bin) are not read")


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([{"layer": 1, "top_indices": [[1], [2, 3]]}], "ragged in top_indices"),
        ([{"layer": 1, "top_indices": [[1]], "num_tokens": 4}], "1 rows of 4 tokens"),
        ([{"layer": -1, "top_indices": [[1]]}], "has layer = '-1'"),
        ([{"layer": 10**9, "top_indices": [[1]]}], "has layer = '1000000000'"),
        ([{"layer": 1, "top_indices": [[1]], "block": "mtp"}], "no records of decoder layers"),
        (
            [{"layer": 1, "top_indices": [[1]]}, {"layer": 2, "top_indices": [[1], [2]]}],
            "layers of 1 and of 2 tokens in rank-0/step-0",
        ),
    ],
)
def test_a_damaged_trace_is_one_sentence(megatron, records, expected):
    with pytest.raises(ValueError, match=expected):
        read_routing(megatron(*records))


def test_an_atlas_gives_texts_and_ranks_by_weight(write):
    routing = read_routing(write("atlas"))
    document = routing.documents[0]
    assert routing.model == "allenai/OLMoE-1B-7B"
    assert routing.num_experts == (8, 8, 8)
    assert (document.text, document.token_texts[3]) == ("so it goes", "w3")
    assert (np.diff(document.gate_weights, axis=2) <= 0).all()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"token_idx": 20}, "token_idx = '20'; 0 to 19"),
        ({"expert_idx": -1}, "expert_idx = '-1'"),
        ({"expert_idx": 8}, "id 8 in layer 0; only ids below 8"),
        ({"layer": 3}, "activations in layer 3 of a model with 3 layers"),
        ({"layer": True}, "layer = 'True'"),
    ],
)
def test_an_activation_out_of_range_is_refused(write, change, expected):
    path = write("atlas")
    content = json.loads(path.read_text())
    content["activations"][-1] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=expected):
        read_routing(path)


def test_an_atlas_whose_table_would_be_nearly_empty_is_refused(tmp_path):
    """A small file must not make a large array."""
    activations = [
        {"layer": layer, "token_idx": 0, "expert_idx": 0, "gate_weight": 1} for layer in range(2000)
    ]
    content = {"token_strs": ["a"] * 20_000, "activations": activations}
    path = tmp_path / "atlas.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="40000000 slots of experts and fills almost none"):
        read_routing(path)


def test_weights_that_are_not_numbers_and_a_top_k_that_is_not_kept(write):
    path = write("atlas")
    content = json.loads(path.read_text())
    content["activations"][-1]["gate_weight"] = None
    content["activations"][-3]["gate_weight"] = 10**400
    path.write_text(json.dumps(content | {"top_k": 4}))
    routing = read_routing(path)
    assert told(routing, "The file has 2 gate weights that no number can be")
    assert told(routing, "the file says top-k 4 and a token has up to 2 experts")


def test_several_texts_in_one_file_must_be_of_one_model(write):
    path = write("atlas")
    content = json.loads(path.read_text())
    path.write_text(json.dumps([content, content]))
    routing = read_routing(path)
    assert [document.id for document in routing.documents] == ["text-0", "text-1"]
    assert told(routing, "The file has 1 document with the same first 16 tokens as another")
    path.write_text(json.dumps([content, content | {"num_experts": 9}]))
    with pytest.raises(ValueError, match="mixes models"):
        read_routing(path)
