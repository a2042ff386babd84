"""What a trace lacks is absent: said in the manifest, one sentence when it is asked for."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from emo_viz.analysis.routing import text_routing
from emo_viz.trace import Absent, Trace
from emo_viz.trace.absent import PARTS, sentence
from emo_viz.trace.recorded import TokenRouting
from emo_viz.trace.schema import documents_schema, tokens_schema
from emo_viz.trace.writer import TraceWriter

ASSETS = Path(__file__).parents[2] / "assets" / "traces"
WITHOUT = {"router_probs": None, "gate_weights": None, "entropy": None, "loss": None}


@pytest.fixture
def write(synthetic, tmp_path):
    """Write documents of 5, 9 and 7 tokens, with what is given in place of what was recorded."""
    traced_model, recording = synthetic

    def run(*changes: dict, model=None, level="tokens", text="a text", **options) -> Trace:
        model = model or traced_model(3, 10, 0, 4)
        rng = np.random.default_rng(0)
        with TraceWriter(tmp_path / "trace", model, level, **options) as writer:
            for number, tokens in enumerate((5, 9, 7)):
                whole = recording(model, tokens, rng)
                parts = {f.name: getattr(whole, f.name) for f in fields(TokenRouting)}
                parts |= changes[min(number, len(changes) - 1)] if changes else {}
                texts = parts.pop("texts", [f" t{place}" for place in range(tokens)])
                row = {"id": f"d{number}", "domain": "a", "text": text}
                writer.add(row, texts, TokenRouting(**parts))
        return Trace.open(tmp_path / "trace")

    return run


def damaged(path: Path, column: str, group: int) -> None:
    """Overwrite one column's pages in one row group of a table."""
    names = pq.read_schema(path).names
    place = pq.read_metadata(path).row_group(group).column(names.index(column))
    start = place.dictionary_page_offset or place.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    path.write_bytes(content)


# What was recorded before


@pytest.mark.parametrize("name", ["emo-nano", "std-nano"])
def test_the_bundled_traces_lack_nothing_but_their_tokens(name):
    trace = Trace.open(ASSETS / name)
    lacking = {part for part in PARTS if not trace.has(part)}
    assert lacking == {
        "clusters",
        "entropy",
        "gate_weights",
        "token_ids",
        "token_texts",
        "tokens",
    }
    assert trace.manifest.version == 1 and trace.manifest.usage_of == "probabilities"
    assert json.loads(trace.manifest.to_json()) == json.loads(
        (trace.path / "manifest.json").read_text()
    )
    assert list(trace.documents) == documents_schema().names
    assert trace.text(7) == trace.documents["text"][7]


def test_a_recording_that_lacks_nothing_is_written_as_ever(write):
    trace = write()
    fields = json.loads((trace.path / "manifest.json").read_text())
    assert fields["format_version"] == 1 and "has" not in fields
    assert list(trace.tokens(0)) == tokens_schema(trace.manifest.model).names


# What is absent


def test_parts_that_no_document_has_are_absent(write):
    trace = write({**WITHOUT, "token_ids": None, "texts": None}, text=None)
    gone = {"loss", "entropy", "gate_weights", "token_ids", "token_texts", "text"}
    assert {part for part in PARTS if not trace.has(part)} == gone | {"clusters", "checkpoint"}
    assert list(trace.tokens(1)) == ["document", "position", "expert_ids"]
    assert trace.manifest.version == 3
    for part in gone:
        with pytest.raises(Absent, match="The trace trace holds no "):
            trace.need(part)
    document = trace.recorded(1)
    for name in ("token_ids", "gate_weights", "entropy", "loss", "token_texts"):
        with pytest.raises(Absent):
            getattr(document, name)


def test_every_part_has_its_sentence():
    for part in PARTS:
        said = sentence("t", part)
        assert said.startswith("The trace t holds no ") and said.endswith(".") and ";" in said


def test_without_probabilities_usage_is_of_the_choices(write):
    whole, choices = write().usage.copy(), write({"router_probs": None})
    assert choices.manifest.usage_of == "choices" and choices.has("gate_weights")
    expected = choices.activation / choices.activation.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(choices.usage, expected, rtol=2e-3)
    assert not np.array_equal(whole, choices.usage)


def test_what_some_documents_have_is_absent_for_the_others(write):
    trace = write({}, {"gate_weights": None, "texts": None})
    assert trace.has("gate_weights") and trace.recorded(0).gate_weights.shape == (3, 5, 4)
    with pytest.raises(Absent, match="gate weights"):
        _ = trace.recorded(1).gate_weights
    with pytest.raises(Absent, match="texts of tokens"):
        _ = trace.recorded(2).token_texts
    rows = trace.query(
        "select document, count(gate_weight) as n from routing group by 1 order by 1"
    )
    assert rows["n"].tolist() == [5 * 3 * 4, 0, 0]


def test_probabilities_and_choices_are_not_mixed(write):
    with pytest.raises(ValueError, match="Some documents have router probabilities and some have"):
        write({}, {"router_probs": None})


def test_the_first_token_counts_where_no_eos_opens_a_document(write):
    trace = write(WITHOUT, opening_eos=False)
    assert trace.facts["n_tokens"].tolist() == [5, 9, 7]
    rows = trace.query("""
        select document, layer, expert, count(*) / any_value(n_tokens) as share
        from routing join documents using (document) group by document, layer, expert
    """)
    activation = np.zeros_like(trace.activation)
    activation[rows["document"], rows["layer"], rows["expert"]] = rows["share"]
    np.testing.assert_array_equal(activation, trace.activation)
    assert trace.recorded(0).token_texts == ["", " t0", " t1", " t2", " t3", " t4"]


def test_tokens_without_a_loss_are_left_out_of_the_mean(write):
    loss = np.array([np.nan, 1, 2, 6, np.nan], np.float32)
    trace = write({"loss": loss}, {"loss": np.full(9, np.nan, np.float32)}, {"loss": None})
    assert trace.facts["mean_loss"].tolist()[0] == 3 and trace.facts["mean_loss"].isna()[1:].all()
    np.testing.assert_array_equal(trace.recorded(0).loss, loss)


# Slots


def test_a_choice_that_a_full_expert_dropped_is_an_empty_slot(write, synthetic):
    traced_model, recording = synthetic
    ids = recording(traced_model(3, 10, 0, 4), 5, np.random.default_rng(0)).expert_ids.copy()
    ids[1, 2, 3] = ids[2, 4] = -1
    trace = write({"expert_ids": ids}, {})
    assert trace.manifest.empty_slots and trace.manifest.version == 3
    np.testing.assert_array_equal(trace.recorded(0).expert_ids, ids)
    assert trace.recorded(0).gate_weights[1, 2, 3] == 0
    rows = trace.query("from routing where document = 0")
    assert len(rows) == 5 * 3 * 4 - 5 and rows["expert"].notna().all()
    # 4 tokens without the EOS, of which one has three experts and one none.
    assert np.float32(trace.activation[0]).sum(axis=1).tolist() == [4, 3.75, 3]


@pytest.mark.parametrize(("source", "sums"), [("", 3.2), ("vllm: a.jsonl", 4)])
def test_a_token_without_experts_counts_unless_it_was_not_recorded(source, sums, write, synthetic):
    traced_model, recording = synthetic
    ids = recording(traced_model(3, 10, 0, 4), 5, np.random.default_rng(0)).expert_ids.copy()
    ids[1, 2] = -1
    trace = write({"expert_ids": ids}, {}, opening_eos=False, source=source)
    assert float(np.float32(trace.activation[0, 1]).sum()) == pytest.approx(sums, rel=2e-3)


def test_layers_may_differ_in_their_top_k_and_have_numbers_of_their_own(write, synthetic):
    model = replace(synthetic[0](3, 10, 0, 4), slots_per_layer=(4, 1, 2), layer_numbers=(1, 2, 5))
    trace = write(model=model)
    assert trace.manifest.version == 3 and trace.manifest.model == model
    layers = trace.query("from layers")
    assert layers["slots"].tolist() == [4, 1, 2] and layers["number"].tolist() == [1, 2, 5]
    assert (trace.recorded(1).expert_ids >= 0).sum(axis=2).T.tolist() == [[4, 1, 2]] * 9
    rows = trace.query("select layer, count(*) as n from routing group by layer order by layer")
    assert rows["n"].tolist() == [84, 21, 42]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"slots_per_layer": (4, 4)}, "slots_per_layer must fit"),
        ({"slots_per_layer": (3, 3, 3)}, "slots_per_layer must fit"),
        ({"layer_numbers": (0, 2)}, "layer_numbers must ascend"),
        ({"layer_numbers": (0, 2, 2)}, "layer_numbers must ascend"),
        ({"layer_numbers": (0, 1, -2)}, "not negative"),
    ],
)
def test_impossible_layers_are_refused(changes, sentence, synthetic):
    with pytest.raises(ValueError, match=sentence):
        replace(synthetic[0](3, 10, 0, 4), **changes)


@pytest.mark.parametrize("experts", [256, 257, 40_000])
def test_ids_of_many_experts_and_empty_slots_come_back(experts, write, synthetic):
    ids = np.full((1, 5, 2), -1)
    ids[0, :, 0] = experts - 1
    model = synthetic[0](1, experts, 0, 2)
    with_ids = {**WITHOUT, "expert_ids": ids, "token_ids": None, "texts": None}
    trace = write(with_ids, model=model)
    np.testing.assert_array_equal(trace.recorded(2).expert_ids, ids)


# Reading little


def test_a_recorded_document_is_what_was_recorded(write, synthetic):
    whole = synthetic[1](synthetic[0](3, 10, 0, 4), 5, np.random.default_rng(0))
    found = write().recorded(0)
    np.testing.assert_array_equal(found.expert_ids, whole.expert_ids)
    np.testing.assert_array_equal(found.token_ids, whole.token_ids)
    np.testing.assert_array_equal(found.loss, whole.loss)
    np.testing.assert_array_equal(found.gate_weights, np.float16(whole.gate_weights))
    np.testing.assert_array_equal(found.entropy, np.float16(whole.entropy))
    assert text_routing(found).distinct.tolist() == text_routing(whole).distinct.tolist()


def test_texts_are_not_read_before_they_are_asked_for(write):
    path = write().path
    damaged(path / "documents-00000.parquet", "text", 0)
    trace = Trace.open(path)
    assert trace.facts["id"].tolist() == ["d0", "d1", "d2"]
    assert trace.query("select sum(n_tokens) as n from documents")["n"].item() == 18
    for ask in (lambda: trace.documents, lambda: trace.text(0)):
        with pytest.raises(ValueError, match="documents-00000.parquet is not readable"):
            ask()


def test_a_document_is_read_without_the_others(write):
    path = write(row_group_tokens=5).path
    damaged(path / "tokens-00000.parquet", "expert_ids", 0)
    trace = Trace.open(path)
    assert [len(trace.tokens(number)) for number in (1, 2)] == [9, 7]
    with pytest.raises(ValueError, match="tokens-00000.parquet is not readable"):
        trace.tokens(0)


# Damage


@pytest.mark.parametrize(
    "changes",
    [
        {"has": ["usage", "tokens", "magic"]},
        {"has": ["usage"]},
        {"has": ["tokens"]},
        {"has": 3},
        {"has": [["usage"]]},
        {"usage_of": "words"},
        {"clusters_of": "words"},
        {"cluster_labels": []},
        {"notes": None},
        {"opening_eos": None},
    ],
)
def test_a_damaged_manifest_of_version_3_is_one_sentence(changes, write):
    path = write(WITHOUT).path / "manifest.json"
    fields = json.loads(path.read_text())
    if changes == {"opening_eos": None}:
        del fields["opening_eos"]
        changes = {}
    path.write_text(json.dumps(fields | changes))
    with pytest.raises(ValueError, match="manifest.json is damaged .*record the trace again"):
        Trace.open(path.parent)


def test_an_activation_that_the_manifest_promises_must_be_there(write):
    path = write(WITHOUT).path
    (path / "activation.npy").unlink()
    with pytest.raises(ValueError, match="activation.npy is missing"):
        Trace.open(path)
