"""Counts of experts: SGLang's recorder, REAP, importance matrices, CSV."""

import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from emo_viz.trace.importers import read_routing


def told(routing, part: str) -> bool:
    return any(part in note for note in routing.notes)


def saved(folder, content):
    torch.save(content, folder / "content.pt")
    return folder / "content.pt"


def test_steps_are_summed_and_a_full_buffer_is_told(write, tmp_path):
    assert told(read_routing(write("sglang_counts")), "1 of 3 steps are empty")
    steps = torch.ones(4, 2, 3, dtype=torch.int32)
    steps[:, 0] = 0
    routing = read_routing(saved(tmp_path, {"logical_count": steps}))
    assert told(routing, "All 4 steps are filled")
    assert routing.layers == (1,)
    assert routing.counts.tolist() == [[4, 4, 4]]
    assert told(routing, "Nothing is counted in layer 0: dropped")


class Hostile:
    def __reduce__(self):
        return (print, ("code from the file has run",))


def test_a_file_that_needs_unpickling_is_refused_and_runs_nothing(tmp_path, capsys):
    path = saved(tmp_path, {"logical_count": Hostile()})
    with pytest.raises(ValueError, match="needs unpickling, which could run code"):
        read_routing(path)
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="is a pickle"):
        read_routing(tmp_path / "old.pt")
    assert capsys.readouterr().out == ""


def test_a_tensor_that_claims_more_than_it_stores_is_refused(tmp_path):
    huge = torch.ones(1, dtype=torch.int32).expand(1 << 20, 1 << 10, 1 << 10)
    with pytest.raises(ValueError, match="claims more numbers in logical_count than it stores"):
        read_routing(saved(tmp_path, {"logical_count": huge}))


def test_a_packed_torch_archive_is_refused(write, tmp_path):
    packed = tmp_path / "packed.pt"
    with (
        zipfile.ZipFile(write("sglang_counts")) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match="packed archive, as torch never writes one"):
        read_routing(packed)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"weights": torch.ones(2)}, "no logical_count, records or expert_frequency"),
        ([1, 2], "no logical_count, records or expert_frequency"),
        ({"logical_count": [1]}, "no tensor in logical_count"),
        ({"logical_count": torch.ones(2, 2, 2)}, "logical_count of float32"),
        ({"logical_count": torch.ones(2, dtype=torch.int32)}, "logical_count of int32 and shape"),
        ({"logical_count": -torch.ones(1, 2, 2, dtype=torch.int32)}, "negative count"),
        ({"logical_count": torch.zeros(1, 2, 2, dtype=torch.int32)}, "counts no expert at all"),
        ({0: {"expert_frequency": torch.tensor([0.25, 0.75])}}, "fractions .*, not shares"),
        ({0: {"expert_frequency": torch.tensor([torch.nan])}}, "that are no counts"),
        ({"x": {"expert_frequency": torch.ones(2)}}, "names the layer 'x'"),
        ({0: {"expert_frequency": torch.ones(2, 2)}}, "2 axes in expert_frequency of layer 0"),
        ({"records": [1]}, "no list of records"),
        ({"records": []}, "lacks last_physical_to_logical_map"),
    ],
)
def test_a_torch_file_of_another_form_is_one_sentence(tmp_path, content, expected):
    with pytest.raises(ValueError, match=expected):
        read_routing(saved(tmp_path, content))


def test_layers_with_different_numbers_of_experts_keep_them(tmp_path):
    content = {3: {"expert_frequency": torch.ones(4)}, 5: {"expert_frequency": torch.ones(2)}}
    routing = read_routing(saved(tmp_path, content))
    assert (routing.layers, routing.num_experts) == ((3, 5), (4, 2))
    assert routing.counts.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert told(routing, "The file has nothing of layer 4")


def test_physical_ids_become_logical_ones_and_batches_become_texts(write, example):
    routing = read_routing(write("sglang_tokens"))
    assert routing.num_experts == (8, 8, 8)
    assert [document.id for document in routing.documents] == ["text-0"]
    np.testing.assert_array_equal(routing.documents[0].expert_ids, example.ids)
    assert told(routing, "Ids in the file are physical and were mapped to logical ones")
    assert told(routing, "No record names its request")


def record(tokens, positions, lengths=None, experts=4):
    ids = torch.full((1, len(tokens), 8), -1, dtype=torch.int32)
    ids[0, :, 0] = torch.tensor(tokens) % experts
    return {
        "input_ids": tokens,
        "positions": positions,
        "extend_seq_lens": lengths,
        "topk_ids_of_layer": ids,
    }


def test_two_requests_of_a_batch_are_two_texts_and_a_cached_prefix_is_told(tmp_path):
    records = [
        record([1, 2, 3, 4, 5], [0, 1, 2, 7, 8], [3, 2]),
        record([6, 7], [3, 9]),
        record([8], [30]),
    ]
    content = {"records": records, "last_physical_to_logical_map": torch.arange(4)[None]}
    routing = read_routing(saved(tmp_path, content))
    tokens = [document.token_ids.tolist() for document in routing.documents]
    assert tokens == [[1, 2, 3, 6], [4, 5, 7], [8]]
    assert told(routing, "2 of 3 texts begin after their first token")
    assert not told(routing, "physical")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"input_ids": [1, 2]}, r"ids of shape \(1, 1, 8\) for 2 tokens and 1 layers"),
        ({"input_ids": ["a"]}, "no list of whole numbers in input_ids"),
        ({"topk_ids_of_layer": torch.full((1, 1, 8), 9)}, "ids beyond the 4 physical experts"),
        ({"topk_ids_of_layer": None}, "no tensor in topk_ids_of_layer"),
    ],
)
def test_a_damaged_record_is_one_sentence(tmp_path, change, expected):
    records = [record([1], [0], [1]) | change]
    content = {"records": records, "last_physical_to_logical_map": torch.arange(4)[None]}
    with pytest.raises(ValueError, match=expected):
        read_routing(saved(tmp_path, content))


def test_tensors_of_a_layer_that_count_differently_are_told(tmp_path, gguf_bytes):
    tensors = {
        "blk.3.ffn_up_exps.weight.counts": np.array([[5.0], [5.0]]),
        "blk.3.ffn_gate_exps.weight.counts": np.array([[1.0], [2.0]]),
        "blk.4.ffn_down_exps.weight.counts": np.array([[3.0], [2.0**25]]),
    }
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(gguf_bytes(tensors))
    routing = read_routing(path)
    assert (routing.layers, routing.counts.tolist()) == ((3, 4), [[1, 2], [3, 2**25]])
    assert told(routing, "The counts of gate, up and down differ in layer 3")
    assert told(routing, "Counts above 16,777,216 are rounded")


def test_a_dense_importance_matrix_counts_no_experts(tmp_path, gguf_bytes):
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(gguf_bytes({"blk.0.ffn_up.weight.counts": np.array([[5.0]])}))
    with pytest.raises(ValueError, match="no counts of experts"):
        read_routing(path)
    path.write_bytes(gguf_bytes({"blk.0.ffn_up_exps.weight.counts": np.array([[np.nan]])}))
    with pytest.raises(ValueError, match="that are no counts"):
        read_routing(path)


def gguf_head(version=3, tensors=0, fields=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gguf_head(version=1), "version 1; 2 and 3 are read"),
        (gguf_head(version=3 << 24), "of version 50331648"),
        (gguf_head(tensors=1 << 60), "claims more than its bytes hold"),
        (gguf_head(fields=1 << 60), "claims more than its bytes hold"),
        (gguf_head(fields=1, rest=struct.pack("<Q", 1 << 62) + bytes(9)), "claims more"),
        (gguf_head(fields=1, rest=struct.pack("<QI", 0, 99) + bytes(9)), "unknown type 99"),
        (gguf_head(fields=1, rest=struct.pack("<QIIQ", 0, 9, 8, 1 << 50)), "claims more"),
        (gguf_head(fields=1, rest=struct.pack("<QIIQ", 0, 9, 9, 1)), "unknown type 9"),
        (gguf_head(tensors=1, rest=struct.pack("<QI", 0, 99) + bytes(99)), "tensor of 99 axes"),
    ],
)
def test_a_gguf_header_that_lies_is_refused_before_it_is_believed(tmp_path, content, expected):
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        read_routing(path)


def test_a_tensor_beyond_the_end_is_refused(tmp_path, gguf_bytes):
    path = tmp_path / "imatrix.gguf"
    content = gguf_bytes({"blk.0.ffn_up_exps.weight.counts": np.ones((64, 1))})
    path.write_bytes(content[:-64])
    with pytest.raises(ValueError, match="claims more than its bytes hold"):
        read_routing(path)


def csv(folder, content):
    (folder / "counts.csv").write_text(content)
    return folder / "counts.csv"


def test_a_table_without_heading_with_remarks_and_with_repeats(tmp_path):
    routing = read_routing(csv(tmp_path, "# from a run\n3,1,5\n3,1,2\n4,0,1.0\n"))
    assert (routing.kind, routing.layers) == ("csv-counts", (3, 4))
    assert routing.counts.tolist() == [[0, 7], [1, 0]]
    assert told(routing, "1 row for an expert that had one before: added up")
    assert (routing.num_experts, routing.experts_seen) == (None, (2, 1))
    assert read_routing(tmp_path / "counts.csv", num_experts=4).counts.shape == (2, 4)


def test_other_columns_are_passed_over(tmp_path):
    head = "turn,phase,step,layer,slot,expert,weight\n"
    routing = read_routing(csv(tmp_path, head + "0,prefill,0,2,0,5,0.7\n0,decode,1,2,0,5,0.3\n"))
    assert (routing.kind, routing.counts.tolist()) == ("csv-choices", [[0, 0, 0, 0, 0, 2]])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("layer,expert,count\n", "no rows of layer, expert and count"),
        ("layer,expert,count\n1,2,-3\n", "'-3' in line 2"),
        ("layer,expert,count\n1,2,nan\n", "'nan' in line 2"),
        ("layer,expert,count\n1,2,0.5\n", "'0.5' in line 2"),
        ("layer,expert,count\n1\n", "'' in line 2"),
        ("layer,expert,count\n1,99999999,1\n", "'99999999' in line 2"),
        ("layer,expert,count\n99999,1,1\n", "'99999' in line 2"),
        ("layer,expert,count\n1,2,0\n", "counts no expert at all"),
    ],
)
def test_a_row_that_is_no_count_is_named_with_its_line(tmp_path, content, expected):
    with pytest.raises(ValueError, match=expected):
        read_routing(csv(tmp_path, content))


def test_an_expert_beyond_the_model_is_refused(tmp_path):
    path = csv(tmp_path, "layer,expert,count\n1,9,3\n")
    with pytest.raises(ValueError, match="counts the expert 9 in layer 1 of 8 experts"):
        read_routing(path, num_experts=8)
