"""Answers of vLLM, SGLang and verifiers, and plain arrays: their traps, and what is refused."""

import base64
import json

import numpy as np
import pytest

from emo_viz.trace.importers import read_routing


@pytest.fixture
def answer(tmp_path):
    """Writes records, one a line, and reads them."""

    def read(*records: dict, **options):
        path = tmp_path / "answers.jsonl"
        path.write_text("\n".join(json.dumps(record) for record in records))
        return read_routing(path, **options)

    return read


def top_k(tokens: int, layers: int = 2, slots: int = 2, experts: int = 8, seed: int = 0):
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((tokens, layers, experts)), axis=2)[:, :, :slots]


def told(routing, part: str) -> bool:
    return any(part in note for note in routing.notes)


def test_the_last_token_of_an_answer_has_no_row_and_the_notes_say_so(write):
    routing = read_routing(write("vllm"))
    document = routing.documents[0]
    assert document.id == "cmpl-1"
    assert routing.model == "Qwen/Qwen3-30B-A3B"
    assert len(document.token_ids) == 20
    assert (document.expert_ids[-1] == -1).all()
    assert told(routing, "The file has 1 last token without experts")
    assert not told(routing, "without experts in any layer")


def test_without_token_ids_the_missing_row_is_told_and_none_is_made_up(answer, npy_text):
    ids = top_k(5)
    usage = {"prompt_tokens": 2, "completion_tokens": 4}
    record = {"usage": usage, "choices": [{"routed_experts": npy_text(ids.astype(np.uint16))}]}
    routing = answer(record)
    assert len(routing.documents[0].expert_ids) == 5
    assert told(routing, "1 of 1 documents: the last token has no experts, and no row here.")


def test_each_choice_is_a_document_and_the_shared_prompt_is_told(answer):
    prompt, ends = top_k(16, seed=1), [top_k(3, seed=2), top_k(4, seed=3)]
    choices = [{"text": " end", "routed_experts": end.tolist()} for end in ends]
    record = {"id": "a", "prompt_text": "P", "prompt_routed_experts": prompt.tolist()}
    routing = answer({**record, "choices": choices})
    assert [document.id for document in routing.documents] == ["a/0", "a/1"]
    assert [len(document.expert_ids) for document in routing.documents] == [19, 20]
    assert routing.documents[0].text == "P end"
    assert told(routing, "The file has 1 document with the same first 16 tokens as another")


def test_rows_of_a_cached_prefix_are_empty_and_told(answer):
    prompt = top_k(6)
    prompt[:4] = -1
    record = {"prompt_routed_experts": prompt.tolist(), "routed_experts": top_k(3).tolist()}
    routing = answer(record)
    assert told(routing, "4 tokens without experts in any layer (-1)")
    assert (routing.documents[0].expert_ids[:4] == -1).all()


def test_dense_layers_of_zeros_are_dropped_and_the_others_keep_their_numbers(tmp_path):
    ids = top_k(20, layers=4)
    ids[:, [0, 2]] = 0
    np.save(tmp_path / "ids.npy", ids)
    routing = read_routing(tmp_path / "ids.npy")
    assert routing.layers == (1, 3)
    np.testing.assert_array_equal(routing.documents[0].expert_ids, ids[:, [1, 3]])
    assert told(routing, "No token has routing in layers 0 and 2: dropped")


def test_with_one_expert_a_token_zeros_may_be_a_collapsed_router(tmp_path):
    ids = top_k(20, layers=2, slots=1)
    ids[:, 0] = 0
    np.save(tmp_path / "ids.npy", ids)
    routing = read_routing(tmp_path / "ids.npy")
    assert routing.layers == (0, 1)
    assert told(routing, "Every token goes to expert 0 in layer 0")


def test_a_row_of_zeros_is_a_token_that_was_never_recorded(tmp_path):
    """verifiers fills the last token of a completion with zeros."""
    ids = top_k(20)
    ids[-1] = 0
    np.save(tmp_path / "ids.npy", ids)
    routing = read_routing(tmp_path / "ids.npy")
    assert (routing.documents[0].expert_ids[-1] == -1).all()
    assert told(routing, "2 places where all slots of a token in a layer are 0")


def test_the_same_expert_twice_is_told(tmp_path):
    ids = top_k(20)
    ids[3, 1] = [5, 5]
    np.save(tmp_path / "ids.npy", ids)
    routing = read_routing(tmp_path / "ids.npy")
    assert told(routing, "1 place where a token names the same expert twice")
    assert routing.documents[0].expert_ids[3, 1].tolist() == [5, 5]


def test_a_varying_number_of_experts_and_unused_columns(tmp_path):
    ids = np.full((20, 2, 8), -1)
    ids[:, :, :2] = top_k(20)
    ids[4, 0] = [-1, 6, 7, 1, -1, -1, -1, -1]
    np.save(tmp_path / "ids.npy", ids)
    routing = read_routing(tmp_path / "ids.npy")
    assert routing.documents[0].expert_ids.shape == (20, 2, 3)
    assert routing.documents[0].expert_ids[4, 0].tolist() == [6, 7, 1]
    assert told(routing, "from 2 to 3 experts in a layer: top-k varies")
    assert not told(routing, "same expert twice")


def test_ids_that_always_ascend_have_lost_their_rank(tmp_path):
    np.save(tmp_path / "ids.npy", np.sort(top_k(20), axis=2))
    assert told(read_routing(tmp_path / "ids.npy"), "Ids always ascend")


def test_more_experts_than_a_byte_holds_are_refused_and_suspected(tmp_path):
    ids = top_k(20, experts=256)
    ids[0, 0, 0] = 255
    np.save(tmp_path / "ids.npy", ids.astype(np.uint8))
    with pytest.raises(ValueError, match="keeps ids of 512 experts in one byte, where 256 fit"):
        read_routing(tmp_path / "ids.npy", num_experts=512)
    assert told(read_routing(tmp_path / "ids.npy"), "more than 256 experts they have wrapped")
    assert not told(read_routing(tmp_path / "ids.npy", num_experts=256), "wrapped")


def test_what_stands_beside_the_ids_in_an_archive_is_checked_against_them(tmp_path):
    weights = np.full((20, 2, 2), 0.5, np.float32)
    weights[3, 1, 0] = np.nan
    np.savez(
        tmp_path / "a.npz", expert_ids=top_k(20), gate_weights=weights, token_ids=np.arange(21)
    )
    routing = read_routing(tmp_path / "a.npz")
    assert told(routing, "The file has 1 gate weight that no number can be")
    assert told(routing, "The file has 1 last token without experts")
    assert routing.documents[0].gate_weights[-1].tolist() == [[0, 0], [0, 0]]
    np.savez(tmp_path / "b.npz", expert_ids=top_k(20), gate_weights=weights[:5])
    with pytest.raises(ValueError, match="gate weights of shape"):
        read_routing(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", one=top_k(20), two=top_k(5))
    assert [d.id for d in read_routing(tmp_path / "c.npz").documents] == ["one", "two"]


def test_sglang_gives_no_shape_so_the_caller_must(write, answer, example):
    path = write("sglang")
    with pytest.raises(ValueError, match="without their shape; name top_k and num_layers"):
        read_routing(path)
    with pytest.raises(ValueError, match="not a multiple of 4 layers x 2"):
        read_routing(path, top_k=2, num_layers=4)
    np.testing.assert_array_equal(
        read_routing(path, top_k=2, num_layers=3).documents[0].expert_ids[:19], example.ids[:19]
    )
    raw = base64.b64encode(example.ids.astype("<i4").tobytes()).decode()
    nested = {"choices": [{"sgl_ext": {"routed_experts": raw}}]}
    routing = answer(nested, top_k=2, num_layers=3)
    np.testing.assert_array_equal(routing.documents[0].expert_ids, example.ids)


def test_answers_without_ids_are_left_out_and_told(answer):
    routing = answer({"choices": [{"text": "a"}]}, {"routed_experts": top_k(4).tolist()})
    assert [document.id for document in routing.documents] == ["response-1"]
    assert told(routing, "1 answer without routed_experts left out")


def test_rows_that_are_only_the_completion_are_given_its_tokens(answer):
    record = {
        "prompt_token_ids": [1, 2, 3],
        "choices": [{"token_ids": [4, 5, 6, 7], "routed_experts": top_k(3).tolist()}],
    }
    routing = answer(record)
    assert routing.documents[0].token_ids.tolist() == [4, 5, 6, 7]
    assert routing.documents[0].text is None
    assert told(routing, "the prompt's are missing")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"choices": [{"text": "no ids"}]}, "without routed_experts; ask the server"),
        ({"routed_experts": "%%%"}, "no valid base64 in routed_experts"),
        ({"routed_experts": "AAAA"}, "no whole int32"),
        ({"routed_experts": [[[1, 2], [3]]]}, "ragged in routed_experts"),
        ({"routed_experts": [[1, 2], [3, 4]]}, "2 axes of int64 in routed_experts"),
        ({"routed_experts": [[[1.5]]]}, "3 axes of float64"),
        ({"routed_experts": [[[2**40]]]}, "too large for an id"),
        ({"routed_experts": [[[-2]]]}, "holds the expert id -2"),
        ({"routed_experts": [[[70_000]]]}, "id 70000 in layer 0; only ids below 65536"),
        ({"routed_experts": [[[-1]]]}, "holds no expert ids: every one of its slots"),
        ({"routed_experts": []}, "0 axes|1 axes"),
        ({"choices": [{"token_ids": [1] * 9, "routed_experts": [[[1]]] * 2}],
          "prompt_token_ids": [1]}, "holds 2 rows of expert ids for 10 tokens"),
        ({"prompt_routed_experts": [[[1, 2]]], "routed_experts": [[[1]]]}, "differ between prompt"),
    ],
)  # fmt: skip
def test_a_damaged_answer_is_one_sentence(answer, record, expected):
    with pytest.raises(ValueError, match=expected):
        answer(record, top_k=1, num_layers=1) if record == {"routed_experts": "AAAA"} else answer(
            record
        )


def test_an_array_inside_an_answer_that_is_cut_short_is_named(answer, npy_text):
    whole = base64.b64decode(npy_text(top_k(4)))
    with pytest.raises(ValueError, match="another size in routed_experts than its header says"):
        answer({"routed_experts": base64.b64encode(whole[:-8]).decode()})


def test_layers_that_differ_between_answers_are_refused(answer):
    records = [{"routed_experts": top_k(4, layers=n).tolist()} for n in (2, 3)]
    with pytest.raises(ValueError, match="ragged layers: 'response-1' has 3, the first 2"):
        answer(*records)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"encoding": "hex"}, "another encoding than base64"),
        ({"dtype": "object"}, "of type 'object'; int16 is expected"),
        ({"shape": [20, 3]}, r"of shape \[20, 3\]; three axes"),
        ({"shape": [2**30, 2**30, 2**30]}, "bytes of routed_experts for the shape"),
        ({"shape": [-20, -3, 2]}, "three axes are expected"),
        ({"data": "AAA"}, "no valid base64"),
    ],
)
def test_a_payload_whose_parts_do_not_fit_is_refused(write, answer, change, expected):
    payload = json.loads(write("verifiers").read_text())["routed_experts"]
    with pytest.raises(ValueError, match=expected):
        answer({"routed_experts": payload | change})


def test_the_record_that_is_cut_short_is_named(write):
    path = write("vllm")
    path.write_text(path.read_text() + '{"choices": [')
    with pytest.raises(ValueError, match="no valid JSON in record 2: it is cut short"):
        read_routing(path)
