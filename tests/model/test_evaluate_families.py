"""Evaluation of any family: the same numbers by the protocol as by EMO's own way, and texts."""

import json
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny import save_tiny, save_tokenizer, tiny_model

from model.evaluate import choices, measure, modules
from model.evaluate.__main__ import main
from model.evaluate.subject import FamilySubject
from model.run.live import LiveFamily, open_live
from model.run.loading import load_model
from model.run.opening import open_checkpoint
from tests.model.helpers import tiny_model as tiny_emo
from tests.model.test_evaluate import documents
from tests.model.test_train_command import refused

FAMILIES = ("olmoe", "mixtral", "gpt_oss", "deepseek_v3", "dots1")


@pytest.fixture(autouse=True)
def few_clusters(monkeypatch):
    monkeypatch.setattr(modules, "CLUSTERS", 4)


def test_the_protocol_measures_of_an_emo_model_what_its_own_way_does(tmp_path):
    """Layers of 8, 6 and no experts; the protocol counts routed experts, EMO the shared one too."""
    save_tiny("emo", tmp_path, num_experts_per_layer=[8, 6, 0], dense_intermediate_size=24)
    own = measure.evaluate(load_model(tmp_path), documents(), keep=[3, 4])
    subject = FamilySubject(LiveFamily(open_checkpoint(str(tmp_path))))
    other = measure.evaluate(subject, documents(), keep=[2, 3])
    assert set(other["losses"]) == {"full"} | {
        f"{kind}/{k}" for kind in ("own", "other", "random") for k in (2, 3)
    }
    for name, losses in other["losses"].items():
        kind, _, kept = name.partition("/")
        wanted = f"{kind}/{int(kept) + 1}" if kept else kind
        np.testing.assert_allclose(losses, own["losses"][wanted], atol=2e-4)
    for name in ("nmi", "nmi_chance", "modal_share"):
        assert other["modules"][name] == pytest.approx(own["modules"][name], abs=1e-4)
    one, two = (found["summary"]["all"] for found in (own, other))
    assert two["full"] == pytest.approx(one["full"], abs=1e-3)
    assert two["increase"]["own/3"] == pytest.approx(one["increase"]["own/4"], abs=1e-3)
    assert "pool" in other["model"]["absent"] and "absent" not in own["model"]


def write_texts(folder, count=5):
    """Two domains of other words, evaluated and for calibration."""
    for number, name in enumerate(("documents", "calibration")):
        rng = random.Random(number)
        rows = [
            {
                "id": f"{domain}-{n}",
                "domain": domain,
                "text": " ".join(f"w{rng.randrange(low, low + 40)}" for _ in range(62)),
            }
            for domain, low in (("low", 4), ("high", 50))
            for n in range(count)
        ]
        lines = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(lines)


def invoke(folder, model, *more):
    texts = [
        "--documents",
        folder / "documents.jsonl",
        "--calibration",
        folder / "calibration.jsonl",
    ]
    arguments = ["--model", model, "--out", folder / "found.json", *texts, *more]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def loss_without(live, ids, kept):
    return float(np.nanmean(live.losses(ids, kept)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_another_family_is_measured_on_texts(family, tmp_path):
    write_texts(tmp_path)
    save_tiny(family, tmp_path / "model")
    result = invoke(tmp_path, tmp_path / "model", "--per-domain", 2, "--keep", "4")
    assert result.exit_code == 0, result.output
    assert "nats a token on 4 documents" in result.output and "Not measured: pool" in result.output
    found = json.loads((tmp_path / "found.json").read_text())
    live = open_live(tmp_path / "model")
    rows = [json.loads(line) for line in (tmp_path / "calibration.jsonl").read_text().splitlines()]
    low = [live.encode(row["text"], 256).token_ids for row in rows if row["domain"] == "low"][:2]
    kept = [np.sort(np.argsort(-row)[:4]).tolist() for row in live.scores(low)]
    first = json.loads((tmp_path / "documents.jsonl").read_text().splitlines()[0])
    ids = live.encode(first["text"], 256).token_ids
    assert found["documents"]["id"][0] == "low-0" and found["documents"]["seen"][0] is None
    assert found["losses"]["full"][0] == pytest.approx(loss_without(live, ids, ()), abs=2e-4)
    assert found["losses"]["own/4"][0] == pytest.approx(loss_without(live, ids, kept), abs=2e-4)
    assert set(found["summary"]) == {"all"} and found["summary"]["all"]["increase"]["other/4"]
    assert found["model"]["family"] == family and 0 <= found["modules"]["nmi"][0] <= 1


def test_the_likeliest_continuation_is_the_answer(tmp_path, monkeypatch):
    """Each log-likelihood by a pass of its own."""
    monkeypatch.setattr(choices, "CONTEXT", 20)
    write_texts(tmp_path)
    made = save_tiny("olmoe", tmp_path / "model")
    rows: list[dict[str, Any]] = [
        {"question": "w5 w6", "choices": ["w7", "w8 w9", "w10"], "answer": 1, "domain": "low"},
        {"question": "w60", "choices": ["w7 w8", "w61"], "answer": 0},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    more = ("--continuations", "--choices", tmp_path / "q.jsonl", "--keep", "4")
    result = invoke(tmp_path, tmp_path / "model", *more)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())["choices"]
    right = 0
    for row in rows:
        scores = []
        for choice in row["choices"]:
            context = [2, *(int(word[1:]) for word in row["question"].split())]
            end = [int(word[1:]) for word in choice.split()]
            with torch.no_grad():
                logits = made(input_ids=torch.tensor([context + end])).logits[0].log_softmax(-1)
            place = len(context) - 1
            total = sum(float(logits[place + n, token]) for n, token in enumerate(end))
            scores.append(total / len(choice))
        right += int(np.argmax(scores)) == row["answer"]
    assert found["q.jsonl"]["full"][0] == right / 2
    assert found["q.jsonl"]["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2, abs=1e-4)
    own = found[choices.OWN]
    assert own["questions"] == 10 and own["chance"] == 0.25 and 0 <= own["own/4"][0] <= 1


def test_an_own_continuation_is_the_documents(monkeypatch):
    monkeypatch.setattr(choices, "CONTEXT", 10)
    monkeypatch.setattr(choices, "CONTINUATION", 5)
    made = documents()
    questions = choices.continuations(made)
    evaluated = [each for each in made if each.role == "evaluated"]
    assert len(questions) == len(evaluated) == 8
    for question, document in zip(questions, evaluated, strict=True):
        assert np.array_equal(question.context, document.tokens[:10])
        assert np.array_equal(question.choices[question.answer], document.tokens[10:15])
        assert len({tuple(each) for each in question.choices}) == 4
    assert len({question.answer for question in questions}) > 1  # not always the same place


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("olmoe")
    write_texts(folder)
    save_tiny("olmoe", folder / "model")
    return folder


def test_what_cannot_be_measured_is_one_sentence(olmoe, tmp_path):
    model, texts = olmoe / "model", olmoe / "documents.jsonl"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "w5", "choices": ["w6", "w7"], "answer": 2}')
    for more, sentence in (
        (("--keep", "8"), "8 experts a layer are no cut: keep 3 to 7"),
        (("--corpus", tmp_path), "either --corpus, or --documents"),
        (("--calibration", texts), "are in .* too"),
        (("--choices", bad), "bad.jsonl, line 1 is no question"),
        (("--continuations",), "No domain has 4 documents of 80 tokens"),
    ):
        result = invoke(olmoe, model, *more)
        assert result.exit_code == 2
        assert re.search(sentence, " ".join(result.output.split()))
    assert not (olmoe / "found.json").exists()
    save_tokenizer(tmp_path / "seq")
    tiny_model("switch_transformers").save_pretrained(tmp_path / "seq")
    assert "no loss of a text" in refused(invoke(olmoe, tmp_path / "seq"))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"choices": "yes"}, "no list of texts"),
        ({"choices": ["w6", None]}, "no list of texts"),
        ({"question": None}, "no text"),
        ({"choices": ["w6", " "]}, "a choice is empty"),
    ],
)
def test_a_question_of_other_types_is_none(row, sentence, olmoe, tmp_path):
    """Also where the tokenizer keeps a blank at the end, which is a choice of no letters."""
    subject = FamilySubject(open_live(olmoe / "model"))
    subject.encode = lambda text, most: np.arange(len(text))  # a token a letter
    good = {"question": "w5", "choices": ["w6", "w7"], "answer": 1}
    (tmp_path / "q.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(good | row)}\n")
    with pytest.raises(ValueError, match=f"line 2 is no question .*{sentence}"):
        choices.read_questions(tmp_path / "q.jsonl", subject)


def test_a_line_ends_where_json_lines_do(olmoe, tmp_path):
    row = {"question": "w5\u2028w6\u0085w7", "choices": ["w8\u2029", "w9"], "answer": 1}
    line = json.dumps(row, ensure_ascii=False)
    (tmp_path / "q.jsonl").write_bytes(f"{line}\r\n{line}\r\n".encode())
    subject = FamilySubject(open_live(olmoe / "model"))
    assert len(choices.read_questions(tmp_path / "q.jsonl", subject)) == 2


def test_a_cut_that_was_asked_for_and_cannot_be_is_refused(olmoe):
    dense = tiny_emo(objective="dense")
    assert not measure.keep_sizes(measure.subject_of(dense), None)
    with pytest.raises(ValueError, match="a dense model has none.*leave out --keep"):
        measure.evaluate(dense, documents(), keep=[3])
    subject = FamilySubject(open_live(olmoe / "model"))
    subject.absent["cuts"] = "not recognised"
    with pytest.raises(ValueError, match="not recognised"):
        measure.keep_sizes(subject, [4])


def test_domains_that_only_one_side_has_are_named(tmp_path, olmoe):
    write_texts(tmp_path)
    for name, domain in (("documents", "seen"), ("calibration", "sought")):
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.write("\n" + json.dumps({"domain": domain, "text": f"w5 w6 w7 {name}"}))
    result = invoke(tmp_path, olmoe / "model", "--per-domain", 1, "--keep", "4")
    assert "has: seen, sought (2 in all)." in " ".join(result.output.split()), result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["domains_left_out"] == ["seen", "sought"]
    assert found["summary"]["all"]["documents"] == 2
