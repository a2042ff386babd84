"""Recording a real tiny model: what is read back is what model.run.inference.record says."""

import hashlib

import numpy as np
import pytest

from emo_viz.runs.record import Options, record_opened
from emo_viz.runs.record import record as record_checkpoint
from emo_viz.trace import Trace
from model.files import weights_digest
from model.run.inference import encode, record
from model.run.opening import Opened, open_checkpoint

MAX_TOKENS = 48


@pytest.fixture(scope="module")
def opened(checkpoint) -> Opened:
    return open_checkpoint(str(checkpoint))


@pytest.fixture
def recorded(opened, documents, tmp_path):
    """Record into the same place, with documents, an option or the report changed."""

    def run(documents=documents, report=lambda done, total: None, **changes) -> Trace:
        options = Options(**{"level": "tokens", "max_tokens": MAX_TOKENS} | changes)
        out = tmp_path / "traces" / "tiny"
        return record_opened(opened, documents, out, options, report=report)

    return run


def expected(model, tokenizer, text):
    encoded = encode(tokenizer, text, MAX_TOKENS)
    return encoded, record(model, encoded.token_ids)


def by_token(values: np.ndarray) -> np.ndarray:
    """[L, T, n] as the trace has it, [T, L * n]."""
    return values.swapaxes(0, 1).reshape(values.shape[1], -1)


def test_tokens_are_those_of_inference_record(model, tokenizer, documents, recorded):
    trace = recorded()
    for number, text in enumerate(documents["text"]):
        encoded, recording = expected(model, tokenizer, text)
        rows = trace.tokens(number)
        assert rows["document"].tolist() == [number] * len(rows)
        assert rows["position"].tolist() == list(range(len(rows)))
        assert rows["text"].tolist() == encoded.texts
        np.testing.assert_array_equal(rows["token_id"], recording.token_ids)
        np.testing.assert_array_equal(rows["loss"], recording.loss)
        np.testing.assert_array_equal(np.stack(rows["expert_ids"]), by_token(recording.expert_ids))
        np.testing.assert_array_equal(
            np.stack(rows["gate_weights"]), by_token(recording.gate_weights).astype(np.float16)
        )
        np.testing.assert_array_equal(
            np.stack(rows["entropy"]), recording.entropy.T.astype(np.float16)
        )


def test_averages_leave_out_the_opening_eos(model, tokenizer, documents, recorded):
    trace = recorded(level="documents")
    assert trace.usage.shape == trace.activation.shape == (9, 3, 11)
    for number, text in enumerate(documents["text"]):
        _, recording = expected(model, tokenizer, text)
        chosen = (recording.expert_ids[:, 1:, :, None] == np.arange(11)).any(axis=2)
        usage = recording.router_probs[:, 1:].mean(axis=1)
        np.testing.assert_allclose(trace.usage[number], usage, rtol=1e-3)
        np.testing.assert_allclose(trace.activation[number], chosen.mean(axis=1), rtol=1e-3)
        row = trace.documents.iloc[number]
        assert row["mean_loss"] == pytest.approx(np.nanmean(recording.loss), rel=1e-6)
    np.testing.assert_allclose(np.float32(trace.usage).sum(axis=-1), 1, rtol=1e-3)
    np.testing.assert_allclose(np.float32(trace.activation).sum(axis=-1), 3, rtol=1e-3)


def test_documents_table_and_manifest(tokenizer, documents, checkpoint, recorded):
    trace = recorded()
    table = trace.documents
    assert table["document"].tolist() == list(range(9))
    for column in ("id", "domain", "licence", "parent", "text"):
        assert table[column].tolist() == documents[column].tolist()
    assert table["part"].iloc[:8].tolist() == list(range(8))
    assert table[["source", "part"]].iloc[8].isna().all()
    lengths = [len(tokenizer(text)["input_ids"]) for text in documents["text"]]
    assert max(lengths) > MAX_TOKENS - 1 > min(lengths)
    assert table["n_tokens"].tolist() == [min(n, MAX_TOKENS - 1) for n in lengths]
    assert table["dropped_tokens"].tolist() == [max(n - MAX_TOKENS + 1, 0) for n in lengths]
    manifest = trace.manifest
    assert (manifest.level, manifest.documents, manifest.has_tokens) == ("tokens", 9, True)
    assert manifest.tokens == table["n_tokens"].sum()
    assert manifest.model.name == "tiny"
    assert manifest.model.checkpoint_sha256 == weights_digest(checkpoint)
    assert (manifest.model.num_layers, manifest.model.num_routed_experts) == (3, 11)


def test_only_id_domain_and_text_are_needed(documents, recorded):
    trace = recorded(documents=documents[["id", "domain", "text"]].assign(id=range(9)))
    assert trace.documents["id"].tolist() == [str(number) for number in range(9)]
    assert trace.documents["licence"].isna().all()


def test_a_report_counts_documents(recorded):
    seen = []
    recorded(report=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(10)]


def interrupt(done: int, total: int) -> None:
    if done == 2:
        raise KeyboardInterrupt


def test_an_interrupted_recording_leaves_the_old_trace_and_nothing_else(
    documents, recorded, tmp_path
):
    old = recorded(documents=documents.head(4))
    with pytest.raises(KeyboardInterrupt):
        recorded(report=interrupt)
    again = Trace.open(old.path)
    assert again.manifest == old.manifest
    np.testing.assert_array_equal(again.usage, old.usage)
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["tiny"]


def test_a_finished_recording_replaces_the_old_trace(documents, recorded, tmp_path):
    recorded(documents=documents.head(4))
    assert recorded().manifest.documents == 9
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.drop(columns=["domain", "text"]), "column domain and the column text"),
        (lambda d: d.head(0), "no documents"),
        (
            lambda d: d.assign(text=["  \n"] * 2 + ["word"] * 7),
            "2 of 9 documents have no text.*doc-0",
        ),
        (lambda d: d.assign(text=["word"] * 8 + [None]), "1 of 9 documents have no text.*doc-8"),
        (lambda d: d.assign(id="same"), "id that no other document has"),
        (lambda d: d.assign(domain=None), "need a domain each"),
    ],
)
def test_documents_that_cannot_be_recorded(documents, recorded, change, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        recorded(documents=change(documents))
    assert not (tmp_path / "traces").exists()


@pytest.mark.parametrize("max_tokens", [1, 301])
def test_lengths_that_the_model_cannot_take(recorded, max_tokens):
    with pytest.raises(ValueError, match="within 2 and 300"):
        recorded(max_tokens=max_tokens)


def test_a_dense_model_has_no_routing(dense_model, tokenizer, documents, tmp_path):
    dense_model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match="dense is a dense model and has no routers"):
        record_checkpoint(str(tmp_path / "dense"), documents, tmp_path / "t")


def test_checkpoint_hash_is_that_of_the_weights(checkpoint):
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert weights_digest(checkpoint) == hashlib.sha256(weights).hexdigest()
