"""A routing file of another tool as a trace: opened, queried, clustered, without any weights."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from emo_viz.__main__ import main
from emo_viz.analysis.alignment import alignment
from emo_viz.analysis.clusters import spherical_kmeans
from emo_viz.analysis.routing import coverage, expert_order, text_routing
from emo_viz.analysis.vectors import flatten_usage
from emo_viz.runs.import_trace import Known, import_trace, read_texts
from emo_viz.trace import Absent, Trace
from tests.recipes import routing_vectors

TOKENS = ["vllm", "vllm_021", "array", "arrays", "sglang", "verifiers", "emo", "olmoe"]
TOKENS += ["sglang_tokens", "flame", "flame_lines", "megatron", "atlas"]
COUNTS = ["sglang_counts", "reap", "imatrix", "csv_counts", "csv_choices"]
# Forms whose last token has no experts in the file: a row of its own, or none.
SHORT = {"vllm": 1, "sglang": 0}


@pytest.fixture
def imported(forms, tmp_path):
    """Imports the example in a named form."""

    def run(name: str, **known) -> Trace:
        writer, options = forms[name]
        return import_trace(writer(tmp_path), tmp_path / "trace", Known(**{**options, **known}))

    return run


@pytest.mark.parametrize("name", TOKENS)
def test_every_form_with_tokens_comes_back_with_its_experts(name, imported, example):
    trace = imported(name)
    layers = 1 if name == "flame_lines" else 3
    documents = [trace.recorded(number) for number in range(trace.manifest.documents)]
    ids = np.concatenate([document.expert_ids[:, 1:] for document in documents], axis=1)
    known = 20 - (name in SHORT)
    expected = example.ids.swapaxes(0, 1)[:layers]
    np.testing.assert_array_equal(ids[:, :known], expected[:, :known])
    empty = SHORT.get(name, 0)
    assert ids.shape[1] == known + empty and (ids[:, known:] == -1).all()
    assert trace.manifest.empty_slots == bool(empty)
    assert trace.manifest.model.own_layers == ((2, 3, 4) if name == "flame" else (0, 1, 2)[:layers])
    assert trace.manifest.source and trace.manifest.version == 3


@pytest.mark.parametrize("name", TOKENS)
def test_usage_is_the_share_of_choices_where_there_are_no_probabilities(name, imported, example):
    trace = imported(name)
    tokens = trace.facts["n_tokens"].to_numpy()
    if name == "emo":
        assert trace.manifest.usage_of == "probabilities" and trace.has("entropy")
        return
    assert trace.manifest.usage_of == "choices"
    counted = tokens - SHORT.get(name, 0)
    chosen = (trace.activation * counted[:, None, None]).sum(axis=0)
    np.testing.assert_allclose(
        chosen[:, : example.counts.shape[1]],
        example.counts[: len(chosen)] - _last_token(name, example),
        atol=0.02,
    )
    np.testing.assert_allclose(np.float32(trace.usage).sum(axis=2), 1, rtol=2e-3)


def _last_token(name, example):
    """What the counts hold besides, of a last token that a file lacks."""
    last = np.zeros_like(example.counts)
    if name in SHORT:
        np.put_along_axis(last, example.ids[-1], 1, axis=1)
    return last if name != "flame_lines" else last[:1]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_alone_are_a_trace_of_usage(name, imported, example):
    trace = imported(name)
    shares = example.counts / example.counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(trace.usage[0], shares, rtol=2e-3)
    assert not trace.has_tokens and not trace.has("activation") and not trace.has("n_tokens")
    assert not (trace.path / "activation.npy").exists()
    with pytest.raises(Absent, match="no share of tokens .* with --top-k"):
        coverage(trace)
    with pytest.raises(Absent, match="holds no tokens"):
        trace.query("from routing")


def test_counts_with_a_top_k_say_how_many_tokens_chose_each_expert(imported, example):
    trace = imported("csv_counts", top_k=2)
    np.testing.assert_allclose(trace.activation[0], example.counts / 20, rtol=2e-3)
    assert trace.facts["n_tokens"].tolist() == [20] and trace.manifest.tokens == 20
    assert "highest id seen" in " ".join(trace.manifest.notes) and not trace.has("num_experts")
    assert imported("csv_counts", top_k=2, num_experts=8).has("num_experts")


# A server's answers, and what can be done with them


@pytest.fixture
def answers(tmp_path, npy_text):
    """Forty answers, of two kinds of texts that use experts of their own; the ids of vLLM."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(40):
        rows, first = 30, 16 * (number % 2)
        ids = first + np.argsort(rng.random((rows, 4, 16)), axis=2)[:, :, :4]
        lines.append(
            {
                "id": f"cmpl-{number}",
                "model": "Qwen/Qwen3-30B-A3B",
                "prompt_token_ids": list(range(10)),
                "choices": [
                    {"token_ids": list(range(21)), "routed_experts": npy_text(ids.astype(np.uint8))}
                ],
            }
        )
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_answers_of_a_server_are_queried_and_clustered_without_weights(answers, tmp_path):
    trace = import_trace(answers, tmp_path / "trace", Known(num_experts=32))
    assert trace.manifest.model.name == "Qwen/Qwen3-30B-A3B"
    rows = trace.query("""
        select document % 2 as kind, count(*) filter (expert < 16) as low, count(*) as n
        from routing join documents using (document) group by kind order by kind
    """)
    assert rows["n"].tolist() == [20 * 30 * 4 * 4] * 2 and rows["low"].tolist() == [9600, 0]
    vectors = routing_vectors(flatten_usage(trace.usage))
    clustering = spherical_kmeans(vectors, 2)
    kinds = ["even" if number % 2 == 0 else "odd" for number in range(40)]
    assert alignment(clustering.labels, kinds).nmi.mean == pytest.approx(1)
    found = coverage(trace)
    assert found.routed == (32,) * 4 and 10 < found.distinct.mean <= 16


def test_one_answer_can_be_counted_as_any_recording(answers, tmp_path):
    document = import_trace(answers, tmp_path / "trace", Known()).recorded(3)
    assert document.expert_ids.shape == (4, 32, 4)  # 31 tokens after an empty place
    assert (document.expert_ids[:, 0] == -1).all() and (document.expert_ids[:, -1] == -1).all()
    assert document.token_ids.tolist() == [-1, *range(10), *range(21)]
    for ask in ("gate_weights", "entropy", "loss", "token_texts"):
        with pytest.raises(Absent, match="The trace trace holds no .*; record"):
            getattr(document, ask)
    with pytest.raises(Absent, match="router entropies"):
        text_routing(document)
    with pytest.raises(Absent, match="gate weights"):
        expert_order(document, 0, 32)


def test_columns_that_are_absent_are_named_in_a_query(answers, tmp_path):
    trace = import_trace(answers, tmp_path / "trace", Known())
    for sql, lacks in (
        ("select avg(gate_weight) from routing", "no gate weights"),
        ("select loss from tokens", "no losses"),
        ("select text from tokens", "no texts of tokens"),
    ):
        with pytest.raises(Absent, match=lacks):
            trace.query(sql)
    with pytest.raises(ValueError, match="The query failed"):
        trace.query("select nothing from tokens")
    assert trace.query("select text from documents")["text"].isna().all()
    with pytest.raises(Absent, match="no texts; import its file again with --text"):
        trace.text(0)


def test_layers_keep_the_numbers_of_the_model(imported):
    layers = imported("flame").query("from layers")
    assert layers["number"].tolist() == [2, 3, 4] and layers["layer"].tolist() == [0, 1, 2]
    assert layers["slots"].tolist() == [2, 2, 2]


def test_slots_are_by_falling_gate_weight_whatever_the_order_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((20, 2, 8)), axis=2)[:, :, :3]
    weights = rng.random(ids.shape).astype(np.float32)
    np.savez(tmp_path / "a.npz", topk_ids=ids, topk_weights=weights)
    document = import_trace(tmp_path / "a.npz", tmp_path / "trace", Known()).recorded(0)
    kept = document.gate_weights[:, 1:]
    assert (np.diff(kept, axis=2) <= 0).all()
    order = np.argsort(-weights, axis=2)
    expected = np.take_along_axis(ids, order, axis=2).swapaxes(0, 1)
    np.testing.assert_array_equal(document.expert_ids[:, 1:], expected)


def test_an_expert_named_twice_is_kept_with_its_note(tmp_path):
    np.save(tmp_path / "ids.npy", np.ones((20, 2, 3), np.int16))
    trace = import_trace(tmp_path / "ids.npy", tmp_path / "trace", Known(num_experts=2))
    assert trace.manifest.model.slots == (3, 3)
    assert (trace.recorded(0).expert_ids[:, 1:] == 1).all()
    assert "same expert twice" in " ".join(trace.manifest.notes)


def test_documents_of_one_id_are_told_apart(tmp_path, npy_text):
    ids = np.argsort(np.random.default_rng(0).random((20, 2, 8)), axis=2)[:, :, :2]
    line = {"id": "a", "choices": [{"routed_experts": npy_text(ids.astype(np.uint8))}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line))
    trace = import_trace(tmp_path / "a.jsonl", tmp_path / "trace", Known())
    assert trace.facts["id"].is_unique
    assert "id of an earlier one" in " ".join(trace.manifest.notes)


def test_a_document_without_tokens_is_left_out_with_a_note(tmp_path, npy_text):
    ids = np.argsort(np.random.default_rng(0).random((20, 2, 8)), axis=2)[:, :, :2]
    lines = [
        {"id": name, "choices": [{"routed_experts": npy_text(rows.astype(np.uint8))}]}
        for name, rows in (("a", ids), ("b", ids[:0]), ("c", ids[:9]))
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    trace = import_trace(tmp_path / "a.jsonl", tmp_path / "trace", Known())
    assert trace.facts["id"].tolist() == ["a", "c"] and len(trace.tokens(1)) == 9
    assert "1 of 3 documents have no tokens: left out." in trace.manifest.notes


def test_logits_that_are_no_numbers_are_left_out_of_the_usage(write, tmp_path, example):
    folder = write("emo")
    logits = np.load(folder / "embeddings_logits.npy")
    logits[3, 8:16], logits[5, 9] = np.nan, -np.inf
    np.save(folder / "embeddings_logits.npy", logits)
    trace = import_trace(folder, tmp_path / "trace", Known())
    probs = np.exp(example.logits.astype(np.float64))
    probs /= probs.sum(axis=2, keepdims=True)
    others = [place for place in range(12) if place not in (3, 5)]
    np.testing.assert_allclose(trace.usage[0, 1], probs[others, 1].mean(axis=0), rtol=2e-3)
    np.testing.assert_allclose(trace.usage[0, 0], probs[:12, 0].mean(axis=0), rtol=2e-3)
    document = trace.recorded(0)
    assert (document.expert_ids[1, 4] == -1).all() and np.isnan(document.entropy[1, 4])
    assert np.isfinite(document.entropy[0, 1:]).all()


def test_half_a_character_is_replaced_wherever_it_stands(tmp_path):
    """JSON can say it, as a server does that cuts a text between two halves."""
    content = {
        "model_id": "m\ud800",
        "num_experts": 2,
        "text": "so \ud83d",
        "token_strs": ["\ud83d\ude00", "\ud83d"],
        "activations": [
            {"layer": 0, "token_idx": token, "expert_idx": 1, "gate_weight": 1} for token in (0, 1)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    trace = import_trace(tmp_path / "a.json", tmp_path / "trace", Known())
    assert trace.manifest.model.name == "m\ufffd" and trace.text(0) == "so \ufffd"
    assert trace.recorded(0).token_texts == ["", "\U0001f600", "\ufffd"]


@pytest.mark.parametrize("of", ["tokens", "documents"])
def test_clusters_of_the_file_come_along(of, write, tmp_path):
    folder = write("emo") / "run"
    folder.mkdir()
    numbers = np.arange(20) // 3 if of == "tokens" else np.array([1, 0])
    np.save(folder / "assignments.npy", numbers.astype(np.int32))
    (folder / "cluster_labels.json").write_text(json.dumps({"1": {"label": "law"}}))
    trace = import_trace(folder, tmp_path / "trace", Known())
    assert trace.has("clusters") and trace.manifest.cluster_labels == {"1": "law"}
    found = trace.query(f"select cluster from {of} order by all")["cluster"]
    assert sorted(found) == sorted(numbers)
    if of == "tokens":
        assert trace.tokens(1)["cluster"].tolist() == numbers[12:].tolist()
    assert trace.manifest.clusters_of == of and trace.facts["domain"].tolist() == ["dclm", "wiki"]


def test_an_import_that_is_called_off_leaves_what_was_there(answers, tmp_path):
    class Enough(Exception): ...

    def stop(done: int, total: int) -> None:
        assert total == 40
        if done == 3:
            raise Enough

    old = import_trace(answers, tmp_path / "trace", Known()).manifest
    with pytest.raises(Enough):
        import_trace(answers, tmp_path / "trace", Known(), stop)
    assert Trace.open(tmp_path / "trace").manifest == old
    assert not list(tmp_path.glob(".*"))


# Texts


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "{so} it goes", "{so} it goes"),
        ("a.json", '{"a": "x", "b": "y"}', {"a": "x", "b": "y"}),
        ("a.json", '\ufeff["x", "y"]', ["x", "y"]),
        ("a.jsonl", '{"id": 1, "text": "x"}\n\n{"id": "b", "text": "y"}', {"1": "x", "b": "y"}),
        ("a.jsonl", '{"text": "x"}\n"y"', ["x", "y"]),
    ],
)
def test_texts_are_read_from_json_lines_or_as_they_are(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_texts(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", '{"a": 1}', "holds no texts"),
        ("a.json", '"text"', "holds no texts"),
        ("a.json", "{", "is not valid JSON"),
        ("a.jsonl", '{"text": "x"}\n{"id": "b", "text": "y"}', "lines without an id"),
        ("a.jsonl", '{"id": "b", "text": "x"}\n{"id": "b", "text": "y"}', "or with the same"),
        ("a.jsonl", '{"id": "b"}', "holds no texts"),
    ],
)
def test_a_file_without_texts_is_named(name, content, sentence, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"a.jsonl? .*{sentence}|{sentence}"):
        read_texts(tmp_path / name)


def test_texts_of_the_caller_are_in_the_trace(imported, tmp_path):
    trace = imported("vllm", texts={"cmpl-1": "so it goes"})
    assert trace.text(0) == "so it goes" and trace.documents["text"].tolist() == ["so it goes"]
    assert "text" not in trace.facts


# The command


def invoke(*arguments):
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def test_the_command_says_what_it_met_and_what_is_not_there(answers, tmp_path):
    done = invoke(answers, "--out", tmp_path / "trace", "--experts", 128)
    assert done.exit_code == 0, done.output
    assert "40 last tokens without experts" in done.output
    last = done.output.splitlines()[-1]
    assert "40 documents, 1,240 tokens, 4 layers of 128 experts. Not there: " in last
    assert "gate_weights" in last and "top_k" not in last


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (None, (), "There is no file or folder"),
        ("", (), "is empty"),
        ("layer,expert,count\n0,1,x\n", (), "line 2"),
        ("layer,expert,count\n0,1,2\n", ("--kind", "vllm"), "There is no importer 'vllm'"),
        ("layer,expert,count\n0,1,2\n", ("--experts", "1"), "of 1 experts"),
        ("layer,expert,count\n0,1,2\n", ("--experts", str(1 << 40)), "more than any model has"),
        ("layer,expert,count\n0,1,2\n", ("--text", "nowhere.txt"), "nowhere.txt cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(content, options, sentence, tmp_path):
    if content is not None:
        (tmp_path / "a.csv").write_text(content)
    done = invoke(tmp_path / "a.csv", "--out", tmp_path / "trace", *options)
    assert done.exit_code == 2 and sentence in done.output
    assert "Traceback" not in done.output and done.output.count("Error: ") == 1
    assert not (tmp_path / "trace").exists()


def test_a_map_to_impossible_experts_is_refused(write, tmp_path):
    path = write("sglang_tokens")
    content = torch.load(path, weights_only=True)
    content["last_physical_to_logical_map"][0, 0] = 1 << 50
    torch.save(content, path)
    with pytest.raises(ValueError, match="more than any model has"):
        import_trace(path, tmp_path / "trace", Known())
    assert not (tmp_path / "trace").exists()


def test_what_is_no_trace_is_not_replaced(answers, tmp_path):
    """And is found before the file is read, which may take minutes."""
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "thesis.txt").write_text("precious")
    for file in (answers, tmp_path / "nowhere"):
        done = invoke(file, "--out", tmp_path / "trace")
        assert done.exit_code == 2 and "is not a trace" in done.output
    assert (tmp_path / "trace" / "thesis.txt").read_text() == "precious"
