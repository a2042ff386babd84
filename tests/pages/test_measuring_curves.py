"""Measuring curves from the page: where they go, what is shown, and what a stop leaves."""

import json
import re
import shutil
from collections import OrderedDict
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from emo_viz.__main__ import main
from emo_viz.analysis import ablation as measuring
from emo_viz.analysis.curves import Curves, Measured, read_curves, write_curves
from emo_viz.analysis.origins import documents_digest
from emo_viz.runs.sources import Sources, write_sources
from emo_viz.server import jobs, pairs
from emo_viz.ui.parts import measuring as on_page
from model.run.selection import select_experts
from tests.pages.ablation_page import (
    lines,
    losses,
    opened,
    slider,
    table,
    words,
)
from tests.pages.opened import run
from tests.pages.test_subset_ablation import tokens_of

SECONDS = 600


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here reads the tiny assets, and what it measures is known to no other."""
    monkeypatch.setattr(jobs.registry(), "_jobs", OrderedDict())


def copied(assets: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(assets, to)
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(to))
    monkeypatch.setenv("EMO_VIZ_HOME", str(own_folder(to)))
    return to


def own_folder(assets: Path) -> Path:
    """The user's folder beside copied assets: what is measured goes there."""
    return assets.with_name("home")


def measured_here(assets: Path) -> Path:
    """The file of the curves of both runs that were measured from the page."""
    return own_folder(assets) / "analysis" / "emo-nano+std-nano" / "curves.parquet"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_curves_the_page_says_how_to_make_them(tiny_assets, tmp_path, monkeypatch):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    (folder / "analysis" / "curves.parquet").unlink()
    at = opened()
    assert "No subset curves have been measured yet" in words(at)
    assert at.code[0].value.startswith("python -m emo_viz curves --models")
    assert not at.get("dataframe")


def own_pair(assets: Path, folder: Path) -> Path:
    """The EMO run under another id, with the same documents in another order."""
    shutil.copytree(assets / "checkpoints" / "emo-nano", folder / "checkpoints" / "own-emo")
    shutil.copytree(assets / "documents", folder / "documents")
    file = folder / "documents" / "documents.parquet"
    documents = pd.read_parquet(file).iloc[::-1].reset_index(drop=True)
    documents.to_parquet(file)
    measured = read_curves(assets / "analysis" / "curves.parquet").of_runs(["emo-nano"])
    info = json.loads(json.dumps(measured.info).replace("emo-nano", "own-emo"))
    info["documents"] = documents_digest(documents)
    rows = measured.rows.assign(model="own-emo")
    (folder / "analysis").mkdir()
    write_curves(Curves(rows, info), folder / "analysis" / "curves.parquet")
    write_sources(folder, Sources("own", ("own-emo",), (folder,), folder))
    return folder


def test_of_runs_with_documents_of_their_own_each_is_shown_with_its_curves(
    tiny_assets, tmp_path, monkeypatch
):
    copied(tiny_assets, tmp_path / "assets", monkeypatch)
    pairs.keep("own", own_pair(tiny_assets, tmp_path / "own"))
    at = opened(a="emo-nano", b="own-emo", run="own-emo")
    assert "lie in two folders, each with documents of its own" in words(at)
    assert "all" in lines(at) and list(table(at)) == ["own-emo"]


def test_curves_of_other_weights_are_not_shown(tiny_assets, tmp_path, monkeypatch):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    checkpoints = folder / "checkpoints"
    shutil.copy(
        checkpoints / "std-nano" / "model.safetensors",
        checkpoints / "emo-nano" / "model.safetensors",
    )
    at = opened()
    assert "made with another EMO checkpoint" in words(at)
    assert not at.get("dataframe")


def test_curves_of_other_documents_are_not_shown(tiny_assets, tmp_path, monkeypatch):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    file = folder / "documents" / "documents.parquet"
    pd.read_parquet(file).iloc[1:].to_parquet(file)
    assert "made with other documents" in words(opened())


def test_what_measuring_all_again_takes_is_said_before(tiny_assets, everything_open):
    keep, methods, domains, each = (4, 8), 4, 4, 6
    cuts = 1 + len(keep) * (methods - 1 + measuring.RANDOM_SEEDS)
    at, passes = opened(), f"{2 * domains * each * cuts:,} passes over a document"
    assert f"{passes}: about" in words(at)
    (button,) = [each for each in at.button if each.label == "Measure all domains again"]
    assert f"{passes}, many minutes" in button.help


@pytest.mark.parametrize("domain", ["garden", ""])
def test_how_long_it_takes_is_measured_once_it_is_asked(
    tiny_assets, monkeypatch: pytest.MonkeyPatch, domain: str
):
    asked = []
    monkeypatch.setattr(on_page, "_pass_seconds", lambda *_: asked.append(1) or 1.0)
    at = opened(**({"subset_domain": domain} if domain else {}))
    assert "Measure" in "".join(button.label for button in at.button)
    assert not asked and "passes over a document" not in words(at)


def test_more_points_are_measured_in_the_background(tiny_assets, models, everything_open):
    at = opened(subset_domain="garden", k="10")
    assert "no measured point at 10" in words(at)
    passes = 2 * 6 * (1 + 6 * len([8, 10, 12]))
    assert re.search(rf"{passes:,} passes over a document: about \d+ s on this", words(at))
    next(b for b in at.button if b.label == "Measure more points").click()
    run(at)
    job = list(jobs.registry()._jobs.values())[-1]
    job.wait(SECONDS)
    run(at)
    assert "All documents of garden: with 10 of 16 experts, likelihood kept" in lines(at)["all"]
    assert 10 in [stop["keep"] for stop in slider(at)["stops"] if stop["notch"]]
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
    assert "24 held-out documents of 4 domains" in lines(at)["all"]
    assert not file.exists()
    again, found = (Measured.of(one.rows) for one in (read_curves(measured_here(folder)), curves))
    increases = [one.increase("emo-nano", "greedy", 4).mean for one in (again, found)]
    assert increases[0] == pytest.approx(increases[1], abs=1e-5)


def test_measuring_again_leaves_the_bundled_files_alone_and_shows_the_new_curves(
    tiny_assets, tmp_path, monkeypatch
):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    before, sums = contents(folder), measuring._loss_sums
    at = opened(k="4")
    shown = lines(at)["all"]
    # As if the models lost twice as much, so that the new curves can be told from the old.
    monkeypatch.setattr(measuring, "_loss_sums", lambda *a: [2 * each for each in sums(*a)])
    measured_again(at, "Measure all domains again")
    assert contents(folder) == before
    assert lines(at)["all"] == lines(opened(k="4"))["all"] != shown
    info = measured_here(folder).with_suffix(".json")
    said = json.loads(info.read_text())
    said["models"]["emo-nano"]["sha256"] = "0" * 64
    info.write_text(json.dumps(said))  # of weights that are no longer here: the bundled ones serve
    assert lines(opened(k="4"))["all"] == shown


def test_a_folder_that_takes_no_curves_is_said_before_they_are_measured(
    tiny_assets, tmp_path, monkeypatch
):
    folder = copied(tiny_assets, tmp_path / "assets", monkeypatch)
    own_folder(folder).write_text("a file")
    at = opened()
    click(at, "Measure all domains again")
    assert "another place in EMO\\_VIZ\\_HOME" in words(at)


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
    documents, out = folder / "documents", measured_here(folder)
    out.parent.mkdir(parents=True)
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
