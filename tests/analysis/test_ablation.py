"""Measuring subsets: what may be compared, and that every number is what slow code gives."""

import json
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from emo_viz.__main__ import main
from emo_viz.analysis import ablation
from emo_viz.analysis.ablation import Cut, Part, Task
from emo_viz.analysis.curves import (
    FULL,
    GREEDY,
    METHODS,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
    Measured,
    read_curves,
)
from emo_viz.analysis.tokens import headline
from model.run.inference import encode, record
from model.run.live import LiveEmo
from model.run.loading import load_model, load_tokenizer
from model.run.selection import select_experts
from model.run.subset import ExpertSubset, apply_subset, full_subset, random_subset


@pytest.fixture(scope="module")
def model(tiny_assets: Path):
    return load_model(tiny_assets / "checkpoints" / "emo-nano")


@pytest.fixture(scope="module")
def tasks(tiny_assets: Path, model) -> list[Task]:
    tokenizer = load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")
    held_out, calibration = (
        ablation.tokenise(
            pd.read_parquet(tiny_assets / "documents" / f"{name}.parquet"),
            lambda text: encode(tokenizer, text, ablation.MAX_TOKENS),
        )
        for name in ("documents", "calibration")
    )
    cuts = ablation.plan_cuts(model.config, [4, 8], METHODS, random_seeds=2)
    return ablation.plan_tasks(held_out, calibration, cuts)


def slow_loss(model, document: np.ndarray, subset: ExpertSubset) -> float:
    """Summed nats of one document, token by token from `record`."""
    with apply_subset(model, subset):
        return float(np.nansum(record(model, document).loss, dtype=np.float64))


def documents_of(*rows: tuple[str, str | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "parent"])


def test_documents_of_one_parent_may_not_be_on_both_sides():
    held_out = documents_of(("a", "book one"), ("b", "book two"))
    with pytest.raises(ValueError, match="same id 'b'"):
        ablation.check_disjoint(held_out, documents_of(("b", "book three")))
    with pytest.raises(ValueError, match="same parent 'book one'"):
        ablation.check_disjoint(held_out, documents_of(("c", "book one")))
    ablation.check_disjoint(held_out, documents_of(("c", "book three")))


def test_documents_without_a_parent_have_none_in_common():
    ablation.check_disjoint(
        documents_of(("a", None), ("b", "")), documents_of(("c", ""), ("d", None))
    )


@pytest.mark.parametrize("count", [2, 3, 8, 25])
def test_every_domain_gets_another_one_and_none_twice(count):
    names = [f"domain {i:02d}" for i in range(count)]
    partners = ablation.other_domains(names[::-1])
    assert sorted(partners) == sorted(partners.values()) == names
    assert all(name != partner for name, partner in partners.items())


def test_a_single_domain_has_no_other():
    assert ablation.other_domains(["alone"]) == {}


def test_the_full_model_is_measured_once_and_random_subsets_once_a_seed(model):
    cuts = ablation.plan_cuts(model.config, [8, 4, 16, 8], [ROUTER_PROBABILITY, RANDOM], 2)
    at = [(ROUTER_PROBABILITY, 0), (RANDOM, 0), (RANDOM, 1)]
    assert cuts[0] == Cut(FULL, 16)
    assert cuts[1:] == tuple(Cut(method, k, seed) for k in (4, 8) for method, seed in at)


def test_impossible_plans_are_named(model, tasks):
    with pytest.raises(ValueError, match="keep-k must be 4 .* to 16, not 3"):
        ablation.plan_cuts(model.config, [3], METHODS, 1)
    with pytest.raises(ValueError, match="no method 'magic'"):
        ablation.plan_cuts(model.config, [8], ["magic"], 1)
    held_out = {task.held_out.domain: task.held_out for task in tasks}
    with pytest.raises(ValueError, match="court has no calibration documents"):
        ablation.plan_tasks(held_out, {"garden": held_out["garden"]}, ())
    with pytest.raises(ValueError, match="at least two domains"):
        ablation.plan_tasks({"garden": held_out["garden"]}, held_out, (Cut(OTHER_DOMAIN, 8),))


def test_at_most_sixteen_documents_choose_the_experts(tasks):
    one = tasks[0].held_out
    many = replace(one, ids=one.ids * 4, documents=one.documents * 4)
    (task,) = ablation.plan_tasks({one.domain: one}, {one.domain: many}, ())
    assert task.calibration.ids == many.ids[:16]
    assert len(task.calibration.documents) == 16


def test_a_ranking_gives_the_subset_of_every_keep_k(model, tasks):
    texts = tasks[0].calibration
    ranking = ablation.rank_experts(LiveEmo(model, None), texts)
    for keep_k in range(4, 17):
        subset = ablation.ranked_subset(ranking, keep_k, model.config, texts.ids)
        expected = select_experts(model, texts.documents, keep_k, "router_probability", texts.ids)
        assert subset == expected


def test_every_cut_loses_what_slow_code_says(model, tasks):
    task = tasks[1]
    assert task.other is not None and task.other.domain != task.held_out.domain
    part = ablation.measure(LiveEmo(model, None), task)
    own, other = task.calibration.documents, task.other.documents
    expected = {
        (FULL, 16, 0): full_subset(model.config),
        (ROUTER_PROBABILITY, 4, 0): select_experts(model, own, 4, "router_probability"),
        (GREEDY, 4, 0): select_experts(model, own, 4, "greedy"),
        (OTHER_DOMAIN, 4, 0): select_experts(model, other, 4, "router_probability"),
        (RANDOM, 4, 0): random_subset(model.config, 4, 0),
        (RANDOM, 8, 1): random_subset(model.config, 8, 1),
    }
    for cut, subset in expected.items():
        losses = [slow_loss(model, document, subset) for document in task.held_out.documents]
        assert part.losses[part.cuts.index(cut)] == pytest.approx(losses, rel=1e-4), cut
    assert part.tokens == [len(document) - 1 for document in task.held_out.documents]
    assert part.greedy["4"] == [list(layer) for layer in expected[GREEDY, 4, 0].experts]
    distinct = {subset.experts for cut, subset in expected.items() if cut[0] != GREEDY}
    assert len(distinct) == len(expected) - 1, "cuts that agree would test nothing"


def test_a_guard_is_held_for_a_few_documents_and_never_between_steps(model, tasks, monkeypatch):
    monkeypatch.setattr(ablation, "GUARDED_DOCUMENTS", 4)
    task = replace(tasks[0], cuts=(Cut(FULL, 16), Cut(RANDOM, 4)))
    held, entered, steps = [False], [], []

    @contextmanager
    def guard():
        held[0] = True
        entered.append(len(steps))
        yield
        held[0] = False

    def step() -> None:
        assert not held[0]
        steps.append(1)

    ablation.measure(LiveEmo(model, None), task, guard, step)
    assert len(steps) == 2
    # The ranking; then for each cut its subset, and 4 and 2 of the 6 documents.
    assert entered == [0, 0, 0, 0, 1, 1, 1]


def test_a_step_that_raises_ends_the_measurement(model, tasks):
    steps = []

    def step() -> None:
        steps.append(1)
        if len(steps) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        ablation.measure(LiveEmo(model, None), tasks[0], step=step)
    assert len(steps) == 3


def test_a_fingerprint_tells_weights_cuts_and_texts_apart(tasks):
    task = tasks[0]
    texts = task.held_out
    changed = (texts.documents[0] + 1, *texts.documents[1:])
    others = [
        task.fingerprint("other weights"),
        replace(task, cuts=task.cuts[:-1]).fingerprint("weights"),
        replace(task, held_out=replace(texts, documents=changed)).fingerprint("weights"),
        replace(task, calibration=tasks[1].calibration).fingerprint("weights"),
    ]
    assert task.fingerprint("weights") == replace(task).fingerprint("weights")
    assert len({task.fingerprint("weights"), *others}) == 5


def test_a_part_survives_json(model, tasks):
    part = ablation.measure(
        LiveEmo(model, None), replace(tasks[0], cuts=(Cut(FULL, 16), Cut(GREEDY, 4)))
    )
    back = Part(**json.loads(json.dumps(asdict(part))))
    pd.testing.assert_frame_equal(part.rows("emo-nano"), back.rows("emo-nano"))
    assert list(part.rows("emo-nano")["keep_k"]) == [16] * 6 + [4] * 6


def test_overlap_counts_the_routed_experts_that_both_keep():
    ranking = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    # Layer 0 keeps 0 and 4 of the ranking's 0, 1: a half. Layer 1 keeps 3, 4 of 4, 3: both.
    assert ablation.shared_share([(0, 4, 5), (3, 4, 5)], ranking, (5, 5)) == pytest.approx(0.75)


def test_overlap_counts_the_experts_of_each_layer():
    ranking = np.array([[0, 1, 2, -1, -1], [4, 3, 2, 1, 0]])
    # Layer 0 has three routed experts, so its 3 is the shared one; it keeps 0 and 2 of 0, 1.
    kept = [(0, 2, 3), (3, 4, 5)]
    assert ablation.shared_share(kept, ranking, (3, 5)) == pytest.approx(0.75)


def test_the_nearest_domain_is_not_judged_by_experts_that_a_layer_lacks():
    scores_LR = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    rankings = {"a": np.array([[0, 1, -1], [0, 1, 2]]), "b": np.array([[1, 0, -1], [2, 1, 0]])}
    assert ablation.nearest_domain(scores_LR, rankings, 3) == "a"  # all alike: the first name
    assert ablation.nearest_domain(scores_LR, rankings, 1) == "a"


# The command.


def run(assets: Path, out: Path, *more: str):
    documents, checkpoints = assets / "documents", assets / "checkpoints"
    arguments = [
        "curves", "--models", checkpoints / "emo-nano", checkpoints / "std-nano",
        "--documents", documents / "documents.parquet",
        "--calibration", documents / "calibration.parquet",
        "--out", out, "--keep", "4", "--methods", "router_probability", *more,
    ]  # fmt: skip
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_writes_what_slow_code_says(tiny_assets: Path):
    """One cell of the standard model, chosen and measured from the files alone."""
    checkpoint = tiny_assets / "checkpoints" / "std-nano"
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    held_out, calibration = (
        pd.read_parquet(tiny_assets / "documents" / f"{name}.parquet")
        .query("domain == 'kitchen'")
        .reset_index()
        for name in ("documents", "calibration")
    )
    ids = [encode(tokenizer, text, 256).token_ids for text in calibration["text"]]
    subset = select_experts(model, ids, 8)
    documents = [encode(tokenizer, text, 256).token_ids for text in held_out["text"]]
    tokens = sum(len(document) - 1 for document in documents)
    full, cut = (
        sum(slow_loss(model, document, one) for document in documents) / tokens
        for one in (full_subset(model.config), subset)
    )
    curves = read_curves(tiny_assets / "analysis" / "curves.parquet")
    measured = Measured.of(curves.of_domain("kitchen"))
    increase = measured.increase("std-nano", ROUTER_PROBABILITY, 8)
    assert increase.mean == pytest.approx(cut - full, abs=1e-4)
    assert measured.full_loss("std-nano").mean == pytest.approx(full, abs=1e-4)
    assert measured.tokens == tokens
    assert curves.info["domains"]["kitchen"]["calibration"] == calibration["id"].tolist()
    ranking = np.array(curves.info["ranking"]["std-nano"]["kitchen"])
    assert ablation.ranked_subset(ranking, 8, model.config, ()).experts == subset.experts


def test_the_command_writes_every_cell_once(tiny_assets: Path):
    rows = read_curves(tiny_assets / "analysis" / "curves.parquet").rows
    # 24 documents, 2 models; the full model, and at 4 and 8: three methods and two random seeds.
    assert len(rows) == 24 * 2 * (1 + 2 * 5)
    assert not rows.duplicated(["model", "method", "keep_k", "seed", "document"]).any()
    assert str(rows["document"].dtype) == "category"
    assert rows["loss_sum"].dtype == np.float32
    assert not (tiny_assets / "analysis" / "curves.parts").exists()


def test_a_stopped_command_goes_on_where_it_was(tiny_assets: Path, tmp_path: Path, monkeypatch):
    out, calls, measure = tmp_path / "curves.parquet", [], ablation.measure

    def stopped_at_the_fourth(*arguments, **named):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(*arguments, **named)

    monkeypatch.setattr(ablation, "measure", stopped_at_the_fourth)
    result = run(tiny_assets, out)
    assert result.exit_code == 1
    assert "Stopped. 3 of 8 parts are kept" in result.output
    assert not out.exists()
    result = run(tiny_assets, out)
    assert result.exit_code == 0, result.output
    assert len(calls) == 4 + 5
    assert set(read_curves(out).rows["keep_k"]) == {4, 16}


def test_bad_input_is_one_sentence_and_exit_code_2(tiny_assets: Path, tmp_path: Path):
    out, documents = tmp_path / "curves.parquet", tiny_assets / "documents" / "documents.parquet"
    checkpoint = tiny_assets / "checkpoints" / "emo-nano"
    wrong = {
        "calibration documents are evaluation documents too": ("--calibration", documents),
        "keep-k must be 4": ("--keep", "2"),
        "is not a list such as": ("--keep", "eight"),
        "no method 'magic'": ("--methods", "magic"),
        "is not a Parquet file of documents": ("--documents", checkpoint / "config.json"),
    }
    for sentence, arguments in wrong.items():
        result = run(tiny_assets, out, *map(str, arguments))
        assert result.exit_code == 2, result.output
        assert sentence in result.output
    same = run(tiny_assets, out, "--models", str(checkpoint), str(checkpoint))
    assert same.exit_code == 2
    assert "are both called" in same.output
    assert not out.exists()


def test_findings_are_the_numbers_of_the_curves(tiny_assets: Path, tmp_path: Path):
    documents = tiny_assets / "documents" / "documents.parquet"
    files = []
    for name in ("emo-nano", "std-nano"):
        files.append(str(tmp_path / f"{name}.npz"))
        arguments = ["clusters", "--model", tiny_assets / "checkpoints" / name]
        arguments += ["--documents", documents, "--out", files[-1], "--clusters", 4]
        assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == 0
    curves = tiny_assets / "analysis" / "curves.parquet"
    arguments = ["findings", "--curves", str(curves), "--clusters", *files]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    measured = Measured.of(read_curves(curves).rows)
    own = measured.increase("emo-nano", ROUTER_PROBABILITY, 8)
    row = next(
        line for line in result.output.splitlines() if "EMO, experts of the domain |" in line
    )
    assert row.endswith(f"| {own.mean:.3f} [{own.low:.3f}, {own.high:.3f}] |")
    assert f"{measured.tokens:,} tokens" in result.output
    assert "(NMI) with the domain" in result.output
    gap = headline(*map(Path, files)).difference
    said = f"EMO less Standard MoE {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
    assert said in result.output
    checked = CliRunner().invoke(main, [*arguments, "--check"])
    assert checked.exit_code == 2
    assert "no router_probability point of EMO at 32" in checked.output


def test_the_nearest_domain_is_the_one_whose_favourites_hold_most_of_a_texts_routing():
    scores_LR = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    rankings = {
        "garden": np.array([[0, 1, 2], [0, 1, 2]]),  # holds 0.5 + 0.1 in its first expert
        "court": np.array([[2, 0, 1], [2, 1, 0]]),  # 0.2 + 0.7
    }
    assert ablation.nearest_domain(scores_LR, rankings, 1) == "court"
    # With two experts: 0.8 + 0.3 against 0.7 + 0.9.
    assert ablation.nearest_domain(scores_LR, rankings, 2) == "court"
    rankings["court"][1] = [0, 1, 2]
    assert ablation.nearest_domain(scores_LR, rankings, 1) == "garden"
    # All experts hold everything: the first name in the alphabet, whatever the order given.
    assert ablation.nearest_domain(scores_LR, rankings, 3) == "court"
