"""Every form is recognised by its content and read whole; damage is one sentence, never a crash."""

import json
import shutil
import zipfile

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from emo_viz.trace.importers import read_routing

KINDS = {
    "vllm": ("vllm", 1),
    "vllm_021": ("vllm", 1),
    "array": ("array", 1),
    "arrays": ("array", 1),
    "sglang": ("sglang", 1),
    "verifiers": ("verifiers", 1),
    "emo": ("emo", 2),
    "olmoe": ("olmoe", 1),
    "sglang_tokens": ("sglang-tokens", 1),
    "flame": ("flame", 1),
    "megatron": ("megatron", 2),
    "atlas": ("moe-atlas", 1),
}
COUNTS = {
    "sglang_counts": "sglang-counts",
    "reap": "reap",
    "imatrix": "imatrix",
    "csv_counts": "csv-counts",
    "csv_choices": "csv-choices",
}
# Forms whose last token has no experts in the file.
SHORT = {"vllm": 1, "sglang": 1}
WEIGHTED = {"arrays": 1e-7, "flame": 1e-3, "atlas": 1e-7}
NO_TOKEN_IDS = {"vllm_021", "array", "sglang", "verifiers", "megatron", "atlas"}


@pytest.mark.parametrize("name", KINDS)
def test_every_form_with_tokens_gives_the_same_experts(name, forms, tmp_path, example):
    writer, options = forms[name]
    routing = read_routing(writer(tmp_path), **options)
    kind, documents = KINDS[name]
    assert (routing.kind, len(routing.documents)) == (kind, documents)
    ids = np.concatenate([document.expert_ids for document in routing.documents])
    known = len(example.ids) - SHORT.get(name, 0)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids[:known], example.ids[:known])
    assert (ids[known:] == -1).all()
    assert routing.counts is None
    assert len(routing.layers) == ids.shape[1]
    assert routing.experts_seen == tuple((ids.max(axis=(0, 2)) + 1).tolist())


@pytest.mark.parametrize("name", KINDS)
def test_token_ids_and_weights_come_along_where_the_form_has_them(name, forms, tmp_path, example):
    writer, options = forms[name]
    documents = read_routing(writer(tmp_path), **options).documents
    if name in NO_TOKEN_IDS:
        assert all(document.token_ids is None for document in documents)
    else:
        tokens = np.concatenate([document.token_ids for document in documents])
        np.testing.assert_array_equal(tokens, example.token_ids)
    if name in WEIGHTED:
        weights = np.concatenate([document.gate_weights for document in documents])
        np.testing.assert_allclose(weights, example.weights, atol=WEIGHTED[name])
    else:
        assert all(document.gate_weights is None for document in documents)


@pytest.mark.parametrize("name", COUNTS)
def test_every_form_of_counts_gives_the_same_counts(name, forms, tmp_path, example):
    writer, options = forms[name]
    routing = read_routing(writer(tmp_path), **options)
    assert (routing.kind, len(routing.documents)) == (COUNTS[name], 0)
    assert routing.counts is not None
    assert routing.counts.dtype == np.int64
    np.testing.assert_array_equal(routing.counts, example.counts)
    assert routing.layers == ((1, 2, 3) if name == "reap" else (0, 1, 2))


def test_the_kind_can_be_given_and_a_wrong_one_is_refused(write):
    path = write("csv_counts")
    assert read_routing(path, kind="csv").kind == "csv-counts"
    with pytest.raises(ValueError, match="not a GGUF file"):
        read_routing(path, kind="imatrix")
    with pytest.raises(ValueError, match="no importer 'xml'; choose one of responses, array"):
        read_routing(path, kind="xml")


def test_texts_are_given_by_order_or_by_id(write, tmp_path):
    path = write("megatron")
    texts = [document.text for document in read_routing(path, text=["one", "two"]).documents]
    assert texts == ["one", "two"]
    named = read_routing(path, text={"rank-0/step-1": "two"}).documents
    assert [document.text for document in named] == [None, "two"]
    with pytest.raises(ValueError, match="holds 2 documents; 1 texts were given"):
        read_routing(path, text="one")
    with pytest.raises(ValueError, match="no document 'x'; its first is 'rank-0/step-0'"):
        read_routing(path, text={"x": "one"})


def test_what_the_caller_says_is_checked_against_the_file(write):
    path = write("array")
    assert read_routing(path, num_experts=64).num_experts == (64, 64, 64)
    with pytest.raises(ValueError, match="id 7 in layer 0; only ids below 7"):
        read_routing(path, num_experts=7)
    with pytest.raises(ValueError, match="holds 3 layers; 4 were expected"):
        read_routing(path, num_layers=4)
    with pytest.raises(ValueError, match="model with 8 experts; 16 were expected"):
        read_routing(write("emo"), num_experts=16)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.json", b"", "is empty"),
        ("other.json", b'{"weights": 1}', "JSON of no known form"),
        ("broken.json", b'{"choices": [', "not valid JSON"),
        ("numbers.json", b"[1, 2]", "not a JSON object or a list of them"),
        ("deep.json", b"[" * 100_000, "not valid JSON"),
        ("note.txt", b"hello", "no known form"),
        ("old.pt", b"\x80\x02}q\x00.", "is a pickle, which could run code"),
        ("answers.json.gz", b"\x1f\x8b\x08", "packed with gzip; unpack it first"),
        ("cut.npz", b"PK\x03\x04rest", "damaged zip archive"),
        ("cut.npy", b"\x93NUMPY\x01\x00", "not an .npy file of numbers"),
        ("cut.parquet", b"PAR1", "not a Parquet file, or damaged"),
        ("cut.gguf", b"GGUF\x03\x00\x00\x00", "claims more than its bytes hold"),
    ],
)
def test_a_file_of_no_use_is_one_sentence_that_names_it(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=expected) as raised:
        read_routing(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_not_there_and_what_is_an_unknown_folder(tmp_path):
    with pytest.raises(ValueError, match="no file or folder"):
        read_routing(tmp_path / "missing.npy")
    with pytest.raises(ValueError, match="folder of no known form"):
        read_routing(tmp_path)


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    with pytest.raises(ValueError, match="not an .npy file of numbers"):
        read_routing(tmp_path / "objects.npy")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="no .npy array of numbers in 'a.npy'"):
        read_routing(tmp_path / "objects.npz")


def test_a_header_that_claims_more_than_the_file_allocates_nothing(tmp_path):
    path = tmp_path / "bomb.npy"
    np.save(path, np.zeros((2, 2, 2), np.int16))
    data = path.read_bytes().replace(b"(2, 2, 2)", b"(9999999999, 9999999999, 99)")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not an .npy|another size"):
        read_routing(path)


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("emo_viz.trace.importers.reading.UNPACKED", 0)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 20))
    with pytest.raises(ValueError, match="would unpack to more than"):
        read_routing(path)


MASKS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4)


@pytest.fixture(scope="session")
def originals(forms, tmp_path_factory):
    """Each form once, to be damaged."""
    return {
        name: (writer(tmp_path_factory.mktemp(name)), options)
        for name, (writer, options) in forms.items()
    }


@settings(
    derandomize=True,
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), flips=MASKS, cut=st.one_of(st.none(), st.floats(0, 1)))
def test_damage_gives_a_sentence_or_a_sound_reading(originals, tmp_path, data, flips, cut):
    """Bytes flipped and ends cut off: ValueError of one line, or ids that could be."""
    name = data.draw(st.sampled_from(sorted(originals)))
    original, options = originals[name]
    path = tmp_path / original.name
    shutil.rmtree(path, ignore_errors=True)
    if original.is_dir():
        shutil.copytree(original, path)
        target = data.draw(st.sampled_from(sorted(path.iterdir())))
    else:
        target = path
        shutil.copy(original, path)
    target.write_bytes(damaged(target.read_bytes(), flips, cut))
    try:
        routing = read_routing(path, **options)
    except ValueError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
        return
    for document in routing.documents:
        assert document.expert_ids.min() >= -1
        assert document.expert_ids.shape[1] == len(routing.layers)
    assert routing.counts is None or routing.counts.min() >= 0


def damaged(content: bytes, flips: list[tuple[int, int]], cut: float | None) -> bytes:
    changed = bytearray(content)
    for place, mask in flips:
        changed[place % len(changed)] ^= mask
    return bytes(changed if cut is None else changed[: int(cut * len(changed))])


def test_lines_are_read_when_asked_for_and_not_kept(tmp_path, monkeypatch, example):
    """Above a size, documents are made on access: the same ones, in any order."""
    monkeypatch.setattr("emo_viz.trace.importers.checks.IN_MEMORY", 0)
    rows = [
        {"input_ids": [n] * 20, "exp_ids": ((example.ids + n) % 8).transpose(0, 2, 1).tolist()}
        for n in range(4)
    ]
    path = tmp_path / "c4_results.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    documents = read_routing(path).documents
    assert not isinstance(documents, tuple)
    assert [document.token_ids[0] for document in documents] == [0, 1, 2, 3]
    np.testing.assert_array_equal(documents[-2].expert_ids, (example.ids + 2) % 8)
    assert [document.id for document in documents[1:3]] == ["window-1", "window-2"]
