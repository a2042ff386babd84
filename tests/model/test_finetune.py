"""Fine-tuning: only what is to train changes, and what a result says can be computed again."""

import json
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from model.data.__main__ import main as data_command
from model.data.tokenizer import load_tokenizer
from model.emo.documents import DocumentRouting
from model.emo.routing import document_segments
from model.finetune import gains, lora
from model.finetune import run as run_module
from model.finetune.__main__ import main as finetune_command
from model.finetune.extend import extended
from model.finetune.parts import What, check_what, count, only, parts_of, read_what
from model.finetune.preferred import preferred_only
from model.finetune.run import Pace, Request, work
from model.finetune.run import document_losses as document_means
from model.finetune.texts import Texts
from model.run.cut import check_made_for, cut_checkpoint
from model.run.inference import document_losses
from model.run.loading import export_model, load_model
from model.run.subset import ExpertSubset, apply_subset
from model.train.loop import Silent, make_optimizer
from model.train.presets import NANO
from tests.model.helpers import tiny_ids, tiny_model
from tests.model.test_train_command import refused

DOMAINS = ("garden", "kitchen", "harbour")
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "ta", "vo", "shi", "pe", "qua", "zen", "dor", "fim")
STEPS = 4
MODULE = ExpertSubset(((1, 4, 7, 9, 15), (0, 2, 3, 8, 15)), "test", (), 5)


def write_corpus(folder, seed=0, vocab_size=300):
    """40 documents of each domain, each domain of words of its own."""
    draw = random.Random(seed)
    lines = []
    for domain in DOMAINS:
        words = ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(30)]
        for _ in range(40):
            lines.append({"text": " ".join(draw.choices(words, k=120)), "domain": domain})
    source = folder.with_suffix(".jsonl")
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["build", "--documents", source, "--out", folder, "--vocab-size", vocab_size]
    built = CliRunner().invoke(data_command, [str(argument) for argument in arguments])
    assert built.exit_code == 0, built.output
    return folder


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A corpus, and a checkpoint with its tokenizer."""
    folder = tmp_path_factory.mktemp("finetune")
    corpus = write_corpus(folder / "corpus")
    tokenizer = load_tokenizer(corpus / "tokenizer")
    vocabulary = -(-len(tokenizer) // 32) * 32
    model = tiny_model(vocab_size=vocabulary, num_shared_experts=1, initializer_range=0.1)
    export_model(model, tokenizer, folder / "parent")
    export_model(biased_model(vocab_size=vocabulary), tokenizer, folder / "biased")
    return SimpleNamespace(folder=folder, corpus=corpus, parent=folder / "parent")


def biased_model(**changes):
    """As training without a balancing loss leaves one: with biases of the choice."""
    model = tiny_model(num_shared_experts=1, correction_bias=True, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for router in model.routers():
            router.correction_bias += 0.1 * torch.randn(15, generator=generator)
    return model


def request(at, what, **options):
    small = {"steps": STEPS, "rows": 2, "own": 6, "others": 2, "calibration": 4}
    return Request(at.parent, at.corpus, ("kitchen",), read_what(what), **(small | options))


def tune(at, out, what, pace=None, full=None, **options):
    torch.set_num_threads(1)
    pace = pace or Pace(checkpoint_every=2)
    asked = request(at, what, **options)
    return work(asked, out, full=full, pace=replace(pace, progress=Silent))


def released(folder):
    """Tensors as they lie in a checkpoint."""
    return load_file(folder / "model.safetensors")


def changed(at, out):
    """Names of the released tensors that are not bitwise the parent's."""
    before, after = released(at.parent), released(out / "export")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def of_experts(layer_experts):
    tensors = ("gate_proj", "up_proj", "down_proj")
    return {
        f"model.layers.{layer}.mlp.experts.{expert}.{tensor}.weight"
        for layer, experts in enumerate(layer_experts)
        for expert in experts
        for tensor in tensors
    }


# What trains


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("all", What("all")),
        ("module 16", What("module", 16)),
        ("module:16", What("module", 16)),
        ("expert 2:17", What("expert", 17, 2)),
        ("new 4", What("new", 4)),
    ],
)
def test_what_trains_is_read_from_words_and_written_as_it_was_read(text, what):
    assert read_what(text) == what and read_what(str(what)) == what


@pytest.mark.parametrize(
    "text", ["", "modul 16", "module", "module -1", "expert 3", "all 3", "new x"]
)
def test_words_that_name_nothing_are_refused(text):
    with pytest.raises(ValueError, match="--what is all, experts, expert L:E"):
        read_what(text)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("module 3", r"keep-k must be 4 .* to 16, not 3"),
        ("expert 2:0", r"no layer 2; the model has layers 0 to 1"),
        ("expert 1:15", r"no routed expert 15 in layer 1; its routed experts are 0 to 14"),
        ("preferred 2", r"preferred takes 3 .* to 16 experts, not 2"),
        ("new 0", r"new adds 1 to 16 experts a layer, not 0"),
    ],
)
def test_what_a_model_does_not_have_is_one_sentence(what, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_what(tiny_model(num_shared_experts=1).config, read_what(what))


def test_a_dense_model_has_nothing_but_all():
    config = tiny_model(objective="dense").config
    check_what(config, read_what("all"))
    with pytest.raises(ValueError, match="A dense model has no experts, so no router"):
        check_what(config, read_what("router"))


def stepped(model, parts):
    """The model after an AdamW step of gradients everywhere that `only` lets them."""
    preset = replace(NANO, weight_decay=0.0, learning_rate=1e-2)
    with only(model, parts):
        optimizer = make_optimizer(model, preset)
        ids = tiny_ids()
        loss = model.next_token_loss(ids[:, :-1], ids[:, 1:], documents_of(ids[:, :-1]), 0.0)
        loss.backward()
        optimizer.step()
    return model


def documents_of(ids):
    return DocumentRouting(document_segments(ids, 0), None)


@pytest.mark.parametrize(
    "what", ["experts", "expert 1:4", "module 5", "subset 5", "router", "new 2"]
)
def test_only_the_rows_that_train_are_moved_by_a_step_and_they_are_as_many_as_counted(what):
    model, what = tiny_model(num_shared_experts=1), read_what(what)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    parts = parts_of(model, what, MODULE)
    stepped(model, parts)
    for name, weight in model.named_parameters():
        same = weight.detach() == before[name]
        if name not in parts:
            assert same.all(), name
        elif parts[name] is not None:
            assert same[~parts[name]].all(), name
    moved = sum(int((w.detach() != before[n]).sum()) for n, w in model.named_parameters())
    assert 0 < moved <= count(model, parts)
    assert all(weight.requires_grad for weight in model.parameters())


def test_routed_experts_are_all_but_the_shared_one_and_a_module_may_take_it_along():
    model = tiny_model(num_shared_experts=1)
    expert = sum(weight[0].numel() for n, weight in model.named_parameters() if "experts" in n)
    assert count(model, parts_of(model, What("experts"))) == 15 * expert
    module = What("module", 5)
    assert count(model, parts_of(model, module, MODULE)) == 4 * expert
    assert count(model, parts_of(model, module, MODULE, shared=True)) == 5 * expert
    total = sum(weight.numel() for weight in model.parameters())
    unrouted = 11 * (expert + 2 * model.config.hidden_size)  # experts and router rows, two layers
    assert count(model, parts_of(model, What("subset", 5), MODULE)) == total - unrouted
    assert count(model, parts_of(model, What("all"))) == sum(p.numel() for p in model.parameters())


# Extension mode


def test_extension_mode_changes_no_output_and_teaches_only_the_documents_preferred_experts():
    model = tiny_model(num_shared_experts=1)
    ids = tiny_ids(rows=1, tokens=16)
    plain = model.model(input_ids=ids, documents=documents_of(ids), use_cache=False)
    with preferred_only(model, 5):
        marked = model.model(input_ids=ids, documents=documents_of(ids), use_cache=False)
        marked.last_hidden_state.square().sum().backward()
    close = torch.testing.assert_close
    close(marked.last_hidden_state, plain.last_hidden_state, rtol=1e-4, atol=1e-5)
    routing = model(ids, output_router_logits=True)
    for layer, logits in enumerate(routing.router_logits):
        liked = logits[:, :15].softmax(-1).sum(0).topk(5).indices
        gradient = model.model.layers[layer].mlp.experts.down_proj.grad
        taught = set(gradient.abs().sum((1, 2)).nonzero().flatten().tolist())
        assert taught and taught <= set(liked.tolist())
    out = model.model(input_ids=ids, documents=documents_of(ids), use_cache=False)
    assert torch.equal(out.last_hidden_state, plain.last_hidden_state)


def test_new_experts_are_copies_of_the_preferred_and_the_others_stay_with_the_shared_one_last():
    model = biased_model()
    scores = np.random.default_rng(0).random((2, 15))
    larger = extended(model, 3, scores)
    assert larger.config.num_experts == 19 and model.config.num_experts == 16
    for layer in range(2):
        best = np.argsort(-scores[layer])[:3]
        for name in ("experts.down_proj", "experts.gate_up_proj", "gate.weight"):
            old = model.get_parameter(f"model.layers.{layer}.mlp.{name}")
            new = larger.get_parameter(f"model.layers.{layer}.mlp.{name}")
            assert torch.equal(new, torch.cat([old[:15], old[best], old[15:]]))
        old, new = (each.routers()[layer].correction_bias for each in (model, larger))
        assert old.abs().min() > 0 and torch.equal(new, torch.cat([old, old[best]]))


# LoRA


def test_a_lora_says_at_first_what_its_model_says_and_merged_what_it_says_at_last():
    ids = tiny_ids()
    model = tiny_model(num_shared_experts=1)
    plain = model(ids).logits
    adapted = lora.with_lora(model, 2)
    assert torch.equal(model(ids).logits, plain)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    tuned = model(ids).logits
    assert (tuned - plain).abs().max() > 0.01
    torch.testing.assert_close(lora.merged(adapted)(ids).logits, tuned, rtol=1e-4, atol=1e-4)


# Runs


@pytest.fixture(scope="module")
def full(at):
    return tune(at, at.folder / "full", "all", learning_rate=2e-3), at.folder / "full"


def test_a_full_run_gains_on_its_domain_and_keeps_all_of_its_own_gain(at, full):
    result, out = full
    still = set(released(at.parent)) - changed(at, out)
    assert still <= of_experts([range(15)] * 2)  # an expert that no token chose
    assert len(still) < 20
    gain = result["summary"]["own"]["all"]["gain"]
    assert gain[0] > 0.05 and gain[1] > 0
    assert result["parameters"]["share"] == 1.0
    held = tune(at, out, "all", full=out / "result.json", learning_rate=2e-3)
    assert held["kept"]["tuned"] == [1.0, 1.0, 1.0] and held["unlike_full"] == {}


def test_a_module_run_changes_its_experts_alone_and_its_losses_can_be_computed_again(at, full):
    out = at.folder / "module"
    result = tune(at, out, "module 6", full=full[1] / "result.json")
    routed = [[e for e in experts if e < 15] for experts in result["module"]]
    assert all(len(experts) == 5 for experts in routed)
    assert changed(at, out) <= of_experts(routed) and len(changed(at, out)) > 20
    assert set(result["kept"]) == {"tuned", "tuned/module"}
    model = load_model(out / "export")
    module = ExpertSubset(tuple(map(tuple, result["module"])), "again", (), 6)
    own = Texts.read(at.corpus, ("kitchen",), 64, calibration=4, own=6, others=2).own
    assert result["documents"]["own"]["id"] == list(own.ids)
    for name, subset in (("tuned", None), ("tuned/module", module)):
        again = losses_of(model, own.texts, subset)
        np.testing.assert_allclose(result["losses"]["own"][name], again, atol=2e-5)
    subset = ExpertSubset.from_json((out / "module.json").read_text())
    check_made_for(subset, out / "export")
    cut_checkpoint(out / "export", subset, at.folder / "cut")
    alone = losses_of(load_model(at.folder / "cut"), own.texts, None)
    np.testing.assert_allclose(alone, losses_of(model, own.texts, module), atol=1e-4)
    parent = losses_of(load_model(at.parent), own.texts, None)
    np.testing.assert_allclose(result["losses"]["own"]["parent"], parent, atol=1e-4)


def losses_of(model, texts, subset):
    if subset is None:
        return [loss[1:].mean() for loss in document_losses(model, list(texts))]
    with apply_subset(model, subset):
        return losses_of(model, texts, None)


@pytest.fixture(scope="module")
def finished(at):
    """A function that gives the result and folder of a run that nothing stopped."""
    done = {}

    def run(what, parent="parent"):
        if (what, parent) not in done:
            out = at.folder / f"{parent}-{what}".replace(" ", "-").replace(":", "-")
            done[what, parent] = tune(of(at, parent), out, what), out
        return done[what, parent]

    return run


def of(at, parent):
    return SimpleNamespace(folder=at.folder, corpus=at.corpus, parent=at.folder / parent)


@pytest.mark.parametrize("what", ["expert 1:3", "lora", "preferred 6", "new 2"])
def test_every_kind_of_run_leaves_an_export_that_opens_and_what_is_frozen_as_it_was(
    at, finished, what
):
    result, out = finished(what)
    assert 0 < result["parameters"]["share"] < 1
    model = load_model(out / "export")
    assert model.config.objective == "emo" and not list(out.glob("step-*"))
    if what == "new 2":
        assert model.config.num_experts == 18 and "untrained" in result["losses"]["own"]
        before, after = released(at.parent), released(out / "export")
        for name in of_experts([range(15)] * 2) | {"model.embed_tokens.weight", "lm_head.weight"}:
            assert torch.equal(before[name], after[name])
        for new in sorted(of_experts([[15, 16]] * 2)):
            olds = [re.sub(r"experts\.\d+", f"experts.{old}", new) for old in range(15)]
            assert not any(torch.equal(before[old], after[new]) for old in olds), "it trained"
        return
    experts = of_experts([range(16)] * 2)
    allowed = of_experts([[], [3]]) if what == "expert 1:3" else experts
    moved = changed(at, out)
    assert moved <= allowed and moved
    assert what == "expert 1:3" or len(moved) > 20
    if what == "lora":
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(load_model(at.parent), out / "adapter")
        ids = tiny_ids()
        merged = model(ids).logits
        torch.testing.assert_close(adapted(ids).logits, merged, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("what", "parent"),
    [
        ("all", "parent"),
        ("router", "parent"),
        ("lora", "parent"),
        ("preferred 6", "parent"),
        ("new 2", "parent"),
        ("new 2", "biased"),
    ],
)
def test_a_paused_run_goes_on_to_the_same_bits(at, finished, tmp_path, what, parent):
    whole, at = finished(what, parent), of(at, parent)
    out = tmp_path / "paused"
    assert tune(at, out, what, Pace(checkpoint_every=1, stop_at=2)) is None
    assert not (out / "export").exists() and list(out.glob("step-2"))
    assert tune(at, out, what)["losses"] == whole[0]["losses"]
    assert whole[0]["losses"]["own"]["tuned"] != whole[0]["losses"]["own"]["parent"]
    assert not changed_between(out, whole[1])
    biases = [name for name in released(out / "export") if name.endswith("correction_bias")]
    assert len(biases) == (2 if parent == "biased" else 0)


def test_what_a_kill_leaves_of_the_first_write_is_no_other_run(at, tmp_path):
    (tmp_path / ".request.json.x1y2.tmp").write_text('{"parent": ')
    (tmp_path / ".export.x1y2.tmp").mkdir()
    done = command(at, tmp_path, "--domain", "garden", "--what", "router")
    assert done.exit_code == 0, done.output


def changed_between(one, two):
    first, second = released(one / "export"), released(two / "export")
    return [name for name in first if not torch.equal(first[name], second[name])]


# Texts


def test_a_corpus_of_no_other_domain_has_nothing_to_forget(at):
    texts = Texts.read(at.corpus, DOMAINS, 64, own=3)
    assert len(texts.own.ids) == 9 and texts.others.ids == ()
    nothing = document_means(tiny_model(vocab_size=320), texts.others)
    assert gains.summary({"parent": nothing, "tuned": nothing}, texts.others, apart=False) == {}


# Bad input, by the command


def command(at, out, *options, parent=None, corpus=None):
    arguments = ["--from", parent or at.parent, "--corpus", corpus or at.corpus, "--out", out]
    sizes = ["--steps", 2, "--rows", 2, "--measured", 6, "--others", 2, "--threads", 1]
    return CliRunner().invoke(
        finetune_command, [str(each) for each in (*arguments, *sizes, *options)]
    )


def test_the_command_trains_and_says_what_was_gained(at, tmp_path):
    done = command(at, tmp_path / "run", "--domain", "garden", "--what", "module", 6)
    assert done.exit_code == 0, done.output
    assert "module 6 of garden: " in done.output and "parent/module" in done.output
    other = command(at, tmp_path / "run", "--domain", "garden", "--what", "module", 7)
    assert "is another fine-tuning (what module 6, not module 7)" in refused(other)


def test_ctrl_c_says_from_where_the_same_command_goes_on(at, tmp_path, monkeypatch):
    def interrupted(model, rows, preset, out, *_, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "train", interrupted)
    stopped = command(at, tmp_path / "run", "--domain", "garden", "--what", "router")
    assert stopped.exit_code == 130
    assert "Stopped before the first checkpoint" in stopped.output
    monkeypatch.undo()
    assert command(at, tmp_path / "run", "--domain", "garden", "--what", "router").exit_code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--domain", "chess", "--what", "all"), "has no domain 'chess'; it has garden, harbour"),
        (("--domain", "garden", "--what", "module", "2"), "keep-k must be 4"),
        (("--domain", "garden", "--what", "expert", "0:99"), "There is no routed expert 99"),
        (("--domain", "garden", "--what", "all", "--rows", "999"), "less than one step"),
        (("--domain", "garden", "--what", "all", "--context", "65"), "--context must be 2 to 64"),
        (
            ("--domain", "garden", "--what", "all", "--full", "none.json"),
            "none.json cannot be read",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(at, tmp_path, options, sentence):
    assert sentence in refused(command(at, tmp_path / "run", *options))
    assert not list(tmp_path.iterdir())


def test_another_family_another_tokenizer_and_a_folder_of_something_else_are_refused(at, tmp_path):
    asked = ("--domain", "garden", "--what", "all")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "olmoe"}))
    assert "olmoe" in refused(command(at, tmp_path / "run", *asked, parent=other))
    corpus = write_corpus(tmp_path / "foreign", seed=9, vocab_size=290)
    assert "is not that of" in refused(command(at, tmp_path / "run", *asked, corpus=corpus))
    (other / "thesis.txt").write_text("mine")
    assert "holds something that is no fine-tuning" in refused(command(at, other, *asked))
    assert (other / "thesis.txt").read_text() == "mine"


def test_a_result_that_is_no_measure_is_refused_before_anything_trains(
    at, full, finished, tmp_path
):
    own, part = full[1] / "result.json", finished("router")[1] / "result.json"
    asked = ("--domain", "garden", "--what", "router", "--full", own)
    assert "is of another domain" in refused(command(at, tmp_path / "run", *asked))
    asked = ("--domain", "kitchen", "--what", "router", "--full")
    assert "is no result of --what all" in refused(command(at, tmp_path / "run", *asked, part))
    other = command(at, tmp_path / "run", *asked, own, parent=at.folder / "biased")
    assert "is of another checkpoint" in refused(other)
    fewer = command(at, tmp_path / "run", *asked, own, "--measured", 5)
    assert "is of other held-out documents" in refused(fewer)
    assert not list(tmp_path.iterdir())


def test_one_of_several_processes_is_refused(at, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = refused(command(at, tmp_path / "run", "--domain", "garden", "--what", "router"))
    assert "Fine-tuning runs in one process; start it without torchrun" in told
    assert not list(tmp_path.iterdir())
