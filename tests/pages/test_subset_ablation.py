"""The subset ablation page: every number is what the models give, whatever the visitor asks."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from emo_viz.__main__ import main
from emo_viz.analysis import ablation as measuring
from emo_viz.analysis.curves import ROUTER_PROBABILITY, Measured, read_curves
from emo_viz.server import jobs, library
from emo_viz.ui.shell.words import share
from model.run.inference import continue_text, encode
from model.run.loading import load_tokenizer
from model.run.selection import select_experts
from model.run.subset import apply_subset, random_subset
from tests.pages.ablation_page import losses, opened, table, words
from tests.pages.opened import run, strips

SECONDS = 600


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets."""


def first_line(at: AppTest) -> str:
    return next(part.value for part in at.markdown if part.value.startswith("#### "))


def tokens_of(assets: Path, name: str, folder: str = "emo-nano") -> list[np.ndarray]:
    """Token ids of every text of one domain: heldout-garden, calibration-court, ..."""
    part, domain = name.split("-")
    file = {"heldout": "documents", "calibration": "calibration"}[part]
    rows = pd.read_parquet(assets / "documents" / f"{file}.parquet")
    tokenizer = load_tokenizer(assets / "checkpoints" / folder)
    texts = rows.loc[rows["domain"] == domain, "text"]
    return [encode(tokenizer, text, 256).token_ids for text in texts]


def test_the_first_line_is_the_measured_curve(curves):
    at = opened(subset_domain="garden", k="8")
    found = Measured.of(curves.of_domain("garden"))
    emo, standard = (found.increase(m, ROUTER_PROBABILITY, 8) for m in ("emo-nano", "std-nano"))
    line = first_line(at)
    assert f"On 6 held-out documents of garden ({found.tokens:,} tokens)" in line
    assert "**8 of 16** experts" in line
    kept = [f"{100 * np.exp(-one.mean):.0f}\u00a0%" for one in (emo, standard)]
    assert f"**{kept[0]}** in EMO, **{kept[1]}** in Standard MoE" in line
    assert f"{emo.mean:+.3f} ({emo.low:+.3f} to {emo.high:+.3f}) in EMO" in words(at)
    said = f"With all experts, in nats a token: {found.full_loss('emo-nano').mean:.3f} in EMO, "
    assert said in words(at)


def test_all_domains_are_the_default_and_averaged(curves):
    at = opened(k="4")
    found = Measured.of(curves.rows)
    assert f"On 24 held-out documents of 4 domains ({found.tokens:,} tokens)" in first_line(at)
    (figure,) = [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]
    title = figure["layout"]["title"]
    assert title["text"] == "Loss increase by the number of experts kept"
    assert title["subtitle"]["text"].endswith(f"24 held-out documents, {found.tokens:,} tokens")


def test_moving_the_slider_shows_the_loss_of_that_subset(tiny_assets, models):
    at = opened(subset_domain="harbour", k="8")
    before = table(at)
    at.slider(key="k").set_value(6)
    after = table(run(at))
    own = tokens_of(tiny_assets, "calibration-harbour")
    document = tokens_of(tiny_assets, "heldout-harbour")[0]
    for name, label in (("emo-nano", "EMO"), ("std-nano", "Standard MoE")):
        full = losses(models[name], document)
        cut = losses(models[name], document, select_experts(models[name], own, 6))
        change, worse = cut - full, int((cut - full > 0.1).sum())
        assert after[label][0] == f"{full.mean():.3f}"
        assert after[label][1] == f"{cut.mean():.3f}"
        assert after[label][2] == f"{change.mean():+.3f}"
        assert after[label][3] == share(worse / len(full))
        assert after[label] != before[label]


def test_between_the_points_the_nearest_measured_ones_are_given(curves):
    found = Measured.of(curves.of_domain("harbour"))
    kept = {
        k: 100 * np.exp(-found.increase("emo-nano", ROUTER_PROBABILITY, k).mean) for k in (4, 8)
    }
    said = words(opened(subset_domain="harbour", k="6"))
    assert "The curve's 6 documents keep" in said
    for k, percent in kept.items():
        assert re.search(
            rf"{percent:.0f}\u00a0% in EMO, \d+\u00a0% in Standard MoE with {k}[;.]", said
        )


def test_between_the_points_the_first_line_speaks_of_the_document_alone(tiny_assets, models):
    at = opened(subset_domain="harbour", k="6")
    own = tokens_of(tiny_assets, "calibration-harbour")
    document = tokens_of(tiny_assets, "heldout-harbour")[0]
    full = losses(models["emo-nano"], document)
    cut = losses(models["emo-nano"], document, select_experts(models["emo-nano"], own, 6))
    assert f"On the document below ({len(full)} tokens)" in first_line(at)
    assert f"{(cut - full).mean():+.3f} in EMO, " in words(at)
    assert "no measured point at 6" in words(at)


def test_the_method_decides_which_experts_stay(tiny_assets, models):
    at = opened(subset_domain="court", k="5")
    document = tokens_of(tiny_assets, "heldout-court")[0]
    other = read_curves(tiny_assets / "analysis" / "curves.parquet").info["domains"]["court"][
        "other"
    ]
    model = models["emo-nano"]
    expected = {
        "random": random_subset(model.config, 5, 0),
        "greedy": select_experts(model, tokens_of(tiny_assets, "calibration-court"), 5, "greedy"),
        "other_domain": select_experts(model, tokens_of(tiny_assets, f"calibration-{other}"), 5),
    }
    for method, subset in expected.items():
        at.selectbox(key="subset_method").set_value(method)
        shown = table(run(at))["EMO"][1]
        assert shown == f"{losses(model, document, subset).mean():.3f}", method


def test_a_stored_greedy_subset_is_the_greedy_subset(tiny_assets, models):
    at = opened(subset_domain="court", k="8", subset_method="Greedy, layer by layer")
    own = tokens_of(tiny_assets, "calibration-court", "std-nano")
    document = tokens_of(tiny_assets, "heldout-court", "std-nano")[0]
    model = models["std-nano"]
    cut = losses(model, document, select_experts(model, own, 8, "greedy"))
    assert table(at)["Standard MoE"][1] == f"{cut.mean():.3f}"


def test_with_all_experts_nothing_changes():
    at = opened(k="16")
    for cells in table(at).values():
        assert cells[2] == "+0.000" and cells[3] == "0.0 %"
    assert "**100\u00a0%** in EMO" in first_line(at)
    assert words(at).count("all 16 experts") == 2  # what each model writes, not once more as a cut


@pytest.mark.parametrize("asked", ["3", "17", "-8", "many", "8.5"])
def test_an_impossible_keep_k_is_one_clear_sentence(asked):
    at = opened(k=asked)
    (warning,) = at.warning
    assert "a subset keeps 4 (what each token uses) to 16 of them" in warning.value
    assert 4 <= at.slider(key="k").value <= 16


def test_a_possible_keep_k_is_not_warned_of():
    assert not opened(k="4").warning


def test_documents_are_walked_and_named():
    at = opened(subset_domain="kitchen", k="8")
    assert at.button(key="subset_previous").disabled
    at.button(key="subset_next").click()
    run(at)
    assert at.query_params["subset_document"] == "heldout-kitchen-1"
    assert r"heldout\-kitchen\-1" in words(at)
    again = opened(subset_domain="kitchen", k="8", subset_document="heldout-kitchen-1")
    assert table(again) == table(at)


def test_a_document_that_is_not_there_is_named():
    at = opened(subset_domain="kitchen", subset_document="heldout-garden-1")
    assert "document heldout\\-garden\\-1, which is not here" in at.warning[0].value


def test_a_domain_or_method_that_is_not_there_is_named():
    said = words(opened(subset_domain="atlantis", subset_method="By magic"))
    assert "asks for the domain atlantis" in said and "asks for the method By magic" in said
    assert "The link asks" not in words(opened(subset_domain="garden", subset_method="Random"))


def test_the_token_of_a_link_is_shown_until_another_document_is_opened():
    at = opened(subset_token="3")
    assert "Token 3 of" in words(at) and at.query_params["subset_token"] == "3"
    at.button(key="subset_next").click()
    run(at)
    assert "Token 3 of" not in words(at) and "subset_token" not in at.query_params


@pytest.mark.parametrize("asked", ["0", "100000", "-1", "²", "x"])
def test_a_token_beyond_the_text_is_named_and_ignored(asked):
    said = words(opened(subset_token=asked))
    assert "Click a token" in said and "asks for the token" in said


def test_grey_is_explained_only_where_it_is_drawn():
    assert "Grey:" in words(opened())
    assert "Grey:" not in words(opened(subset_method="Random"))


def test_tokens_are_coloured_by_their_loss_change(tiny_assets, models):
    document = tokens_of(tiny_assets, "heldout-garden")[0]
    own = tokens_of(tiny_assets, "calibration-garden")
    for strip, model in zip(
        strips(opened(subset_domain="garden", k="6")), models.values(), strict=True
    ):
        full = losses(model, document)
        change = losses(model, document, select_experts(model, own, 6)) - full
        tokens = strip["tokens"]
        assert len(tokens) == len(change)
        worst, best = tokens[int(change.argmax())], tokens[int(change.argmin())]
        assert f"({change.max():+.2f})" in worst["title"]
        assert f"({change.min():+.2f})" in best["title"]
        assert worst["colour"].startswith("rgba(2") and "(47, 111, 214" in best["colour"]


def test_markup_in_a_document_stays_text():
    at = opened(subset_domain="garden", k="8")
    for element in [*at.markdown, *at.caption, *at.get("html")]:
        value = element.value if hasattr(element, "value") else element.proto.body
        assert "onclick" not in value
    shown = "".join(token["text"] for token in strips(at)[0]["tokens"])
    assert shown.startswith("<b onclick='alert(1)'>")


def test_each_model_goes_on_with_and_without_the_cut(tiny_assets, models):
    at = opened(subset_domain="kitchen", k="5")
    document = tokens_of(tiny_assets, "heldout-kitchen")[0]
    prompt = document[: len(document) // 2]
    shown = {text.value for text in at.text}
    assert f"first {len(prompt) - 1} tokens" in words(at)
    for name in models:
        own = tokens_of(tiny_assets, "calibration-kitchen", name)
        tokenizer = load_tokenizer(tiny_assets / "checkpoints" / name)
        with apply_subset(models[name], select_experts(models[name], own, 5)):
            written = continue_text(models[name], tokenizer, prompt, 40)
        assert written in shown
        assert continue_text(models[name], tokenizer, prompt, 40) in shown


def test_the_other_domain_is_named(curves):
    other = curves.info["domains"]["garden"]["other"]
    said = words(opened(subset_domain="garden", subset_method="Another domain's experts"))
    assert f"calibration documents of another domain ({other})" in said


def test_loss_and_its_increase_are_two_views():
    at = opened(k="8", subset_view="Loss")
    figure = json.loads(at.get("plotly_chart")[0].proto.spec)
    assert "Held-out loss" in figure["layout"]["yaxis"]["title"]["text"]


def copied(assets: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(assets, to)
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(to))
    return to


def test_without_curves_the_page_says_how_to_make_them(tiny_assets, tmp_path, monkeypatch):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    (folder / "analysis" / "curves.parquet").unlink()
    at = opened()
    assert "No subset curves have been measured yet" in words(at)
    assert at.code[0].value.startswith("python -m emo_viz curves --models")
    assert not at.get("plotly_chart")


def test_curves_of_other_weights_are_not_shown(tiny_assets, tmp_path, monkeypatch):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    checkpoints = folder / "checkpoints"
    shutil.copy(
        checkpoints / "std-nano" / "model.safetensors",
        checkpoints / "emo-nano" / "model.safetensors",
    )
    at = opened()
    assert "made with another EMO checkpoint" in words(at)
    assert not at.get("plotly_chart")


def test_curves_of_other_documents_are_not_shown(tiny_assets, tmp_path, monkeypatch):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    file = folder / "documents" / "documents.parquet"
    pd.read_parquet(file).iloc[1:].to_parquet(file)
    assert "made with other documents" in words(opened())


def test_more_points_are_measured_in_the_background(tiny_assets, models):
    at = opened(subset_domain="garden", k="10")
    assert "no measured point at 10" in words(at)
    next(b for b in at.button if b.label == "Measure more points").click()
    run(at)
    (job,) = jobs.registry()._jobs.values()
    job.wait(SECONDS)
    run(at)
    assert "On 6 held-out documents of garden" in first_line(at)
    model = models["emo-nano"]
    subset = select_experts(model, tokens_of(tiny_assets, "calibration-garden"), 10)
    documents = tokens_of(tiny_assets, "heldout-garden")
    rise = [losses(model, one, subset).sum() - losses(model, one).sum() for one in documents]
    increase = sum(rise) / sum(len(one) - 1 for one in documents)
    assert f"{increase:+.3f} (" in words(at)


def test_a_failed_measurement_is_said_and_can_be_tried_again(monkeypatch):
    def broken(*arguments, **named):
        raise ValueError("The disk is full.")

    monkeypatch.setattr(measuring, "measure", broken)
    at = opened(subset_domain="kitchen", k="10")
    next(b for b in at.button if b.label == "Measure more points").click()
    run(at)
    list(jobs.registry()._jobs.values())[-1].wait(SECONDS)
    run(at)
    assert "The measurement failed: The disk is full" in words(at)
    assert not next(b for b in at.button if b.label == "Measure more points").disabled


def click(at: AppTest, label: str) -> None:
    next(b for b in at.button if b.label == label).click()
    run(at)


def measured_again(at: AppTest, label: str) -> None:
    click(at, label)
    list(jobs.registry()._jobs.values())[-1].wait(SECONDS)
    run(at)


def test_missing_curves_are_measured_from_the_page(tiny_assets, tmp_path, monkeypatch, curves):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    file = folder / "analysis" / "curves.parquet"
    file.unlink()
    at = opened(k="4")
    measured_again(at, "Measure all curves")
    assert "On 24 held-out documents of 4 domains" in first_line(at)
    again, found = (Measured.of(one.rows) for one in (read_curves(file), curves))
    increases = [one.increase("emo-nano", "greedy", 4).mean for one in (again, found)]
    assert increases[0] == pytest.approx(increases[1], abs=1e-5)


def test_a_stopped_measurement_leaves_the_file_and_goes_on_later(
    tiny_assets, tmp_path, monkeypatch
):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    file = folder / "analysis" / "curves.parquet"
    before, measure, calls = file.read_bytes(), measuring.measure, []

    def stopped_at_the_third(*arguments):
        calls.append(arguments[1].held_out.domain)
        if len(calls) == 3:
            list(jobs.registry()._jobs.values())[-1].cancel()
        return measure(*arguments)

    monkeypatch.setattr(measuring, "measure", stopped_at_the_third)
    at = opened()
    measured_again(at, "Measure all domains again")
    assert "Stopped; 2 finished parts kept" in words(at)
    assert file.read_bytes() == before
    measured_again(at, "Measure all domains again")
    assert len(calls) == 3 + 6  # of 8 parts, the two finished ones were not measured again


def test_the_page_goes_on_where_the_command_was_stopped(tiny_assets, tmp_path, monkeypatch):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    measure, calls = measuring.measure, []

    def stopped_at_the_fourth(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(measuring, "measure", stopped_at_the_fourth)
    models = [folder / "checkpoints" / name for name in ("emo-nano", "std-nano")]
    documents, out = folder / "documents", folder / "analysis" / "curves.parquet"
    command = ["curves", "--models", *models, "--documents", documents / "documents.parquet"]
    command += ["--calibration", documents / "calibration.parquet", "--out", out, "--keep", "4,8"]
    assert CliRunner().invoke(main, [str(each) for each in command]).exit_code == 1
    at = opened()
    assert "3 finished parts kept to go on from" in words(at)
    measured_again(at, "Measure all domains again")
    assert len(calls) == 4 + 5
    assert not out.with_suffix(".parts").exists()
    assert "finished part" not in words(run(at))


def test_calibration_documents_that_are_not_there_are_said(tiny_assets, tmp_path, monkeypatch):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    (folder / "documents" / "calibration.parquet").unlink()
    at = opened()
    click(at, "Measure all domains again")
    assert "The calibration documents are not here" in words(at)


def test_the_command_that_cuts_names_the_file_of_the_subset_in_view():
    for k in (4, 8):
        at = opened(subset_domain="garden", k=str(k))
        (command,) = [code.value for code in at.code if "emo_viz cut" in code.value]
        name = f"emo-nano-garden-router_probability-{k}"
        assert command.endswith(f"--subset {name}.json --out {name}")


def test_a_document_says_what_of_it_was_left_out(monkeypatch):
    documents = library.documents().assign(cut_tokens=1234)
    monkeypatch.setattr(library, "documents", lambda: documents)
    assert "1,234 tokens" in words(opened(subset_domain="garden"))
