"""Curves and findings over the documents that training has hardly seen, where documents tell."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from emo_viz.__main__ import main
from emo_viz.analysis.curves import Curves, Measured, read_curves, write_curves
from emo_viz.analysis.unseen import unseen_ids
from tests.pages.ablation_page import lines, opened, slider
from tests.pages.opened import follow_link, texts

CONTROL = "Measured on"


@pytest.fixture
def folder(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the assets whose documents say how much of each was seen: half of all are new."""
    copy = tmp_path / "assets"
    shutil.copytree(tiny_assets, copy)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(copy))
    path = copy / "documents/documents.parquet"
    rows = pd.read_parquet(path)
    turn = rows.groupby("domain").cumcount()
    rows.assign(seen=np.where(turn % 2, 0.0, 0.4)).to_parquet(path)
    return copy


def slow_increase(folder: Path) -> float:
    """By hand: loss increase of EMO's 4 experts of the domain over the new documents."""
    rows = read_curves(folder / "analysis/curves.parquet").rows
    documents = pd.read_parquet(folder / "documents/documents.parquet")
    new = set(documents.loc[documents["seen"] < 0.01, "id"])
    own = rows[(rows["model"] == "emo-nano") & rows["document"].isin(new)]
    per_domain = []
    for _, group in own.groupby("domain", observed=True):
        cut = group[(group["method"] == "router_probability") & (group["keep_k"] == 4)]
        full = group[group["method"] == "full"]
        loss = [each["loss_sum"].sum() / each["tokens"].sum() for each in (cut, full)]
        per_domain.append(loss[0] - loss[1])
    return float(np.mean(per_domain))


def test_findings_are_printed_over_the_new_documents(folder: Path):
    command = ["findings", "--assets", str(folder), "--seen-below", "0.01"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(
        "12 held-out documents of 4 domains, training has seen under 1\u00a0% of each, "
    )
    expected = f"| EMO, experts of the domain | {slow_increase(folder):.3f} ["
    assert expected in result.output


def test_curves_are_measured_on_the_new_documents_alone_and_say_so(folder: Path):
    out = folder / "analysis" / "curves.parquet"
    before = read_curves(out)
    command = ["curves", "--models", *(str(folder / "checkpoints" / run) for run in before.runs)]
    files = (folder / "documents" / name for name in ("documents.parquet", "calibration.parquet"))
    for option, file in zip(("--documents", "--calibration"), files, strict=True):
        command += [option, str(file)]
    command += ["--out", str(out), "--seen-below", "0.01", "--random-seeds", "1", "--keep", "4"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "12 documents of which training has seen under 1\u00a0%" in result.output
    found = read_curves(out)
    documents = pd.read_parquet(folder / "documents/documents.parquet")
    assert set(found.rows["document"]) == unseen_ids(documents)
    assert found.seen_below == 0.01
    one = Measured.of(before.of_documents(unseen_ids(documents)).rows)
    assert Measured.of(found.rows).full_loss("emo-nano") == one.full_loss("emo-nano")
    assert before.of_runs(["emo-nano"]).beside(found).runs == ("emo-nano",), "other documents"
    told = CliRunner().invoke(main, ["findings", "--assets", str(folder)]).output
    assert "training has seen under 1\u00a0% of each" in told
    at = opened()
    assert "measured on the 12 documents alone of which training has seen under" in texts(at)
    assert lines(at)["all"].startswith("New documents: with ")


def test_findings_of_documents_that_do_not_say_it_are_refused(tiny_assets: Path):
    command = ["findings", "--assets", str(tiny_assets), "--seen-below", "0.01"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "do not say how much of them was seen in training; choose them" in result.output


def test_a_share_that_is_none_is_not_new():
    rows = pd.DataFrame({"id": list("abcde"), "seen": [0.0, 0.009, 0.01, np.nan, -1.0]})
    assert unseen_ids(rows) == {"a", "b"}
    rows["seen"] = 0.5
    with pytest.raises(ValueError, match="seen 1\u00a0% or more of every document"):
        unseen_ids(rows)


def test_the_cut_is_over_the_new_documents_if_asked(folder: Path):
    at = opened(subset_seen="New")
    control = at.segmented_control(key="subset_seen")
    assert control.label == CONTROL
    assert [each.content for each in control.proto.options] == ["All 24", "New 12"]
    said = lines(at)["all"]
    assert said.startswith("New documents: with ")
    assert " 12 held-out documents of 4 domains, training has seen under 1\u00a0% of each, " in said
    drawn = {point[0]: point[1] for point in slider(at)["runs"][0]["points"]}
    assert drawn[4] == pytest.approx(slow_increase(folder), abs=1e-4)
    assert slider(at)["of"] == "new documents"


def test_home_says_it_over_the_new_documents_if_asked(folder: Path):
    at = follow_link("", home_seen="New")
    said = texts(at)
    assert "12 held-out documents of 4 domains, training has seen under 1\u00a0% of each" in said
    rows = read_curves(folder / "analysis/curves.parquet")
    documents = pd.read_parquet(folder / "documents/documents.parquet")
    found = Measured.of(rows.of_documents(unseen_ids(documents)).rows)
    assert f"the loss in nats a token is **{found.full_loss('emo-nano').mean:.3f}**" in said


def test_documents_that_do_not_say_it_offer_nothing(tiny_assets: Path):
    for at in (follow_link(""), opened()):
        assert CONTROL not in [control.label for control in at.segmented_control]
        assert "training has seen" not in texts(at)


def test_new_documents_that_no_curve_is_of_are_not_offered(folder: Path):
    path, control = folder / "analysis/curves.parquet", "subset_seen"
    curves, documents = read_curves(path), pd.read_parquet(folder / "documents/documents.parquet")
    new = documents.loc[(documents["domain"] == "garden") & (documents["seen"] < 0.01), "id"]
    write_curves(Curves(curves.rows[~curves.rows["document"].isin(new)], curves.info), path)
    at = opened(subset_domain="garden", subset_seen="New")
    assert not at.exception and control not in [each.key for each in at.segmented_control]
    assert "garden" in lines(at)["all"]
    assert opened(subset_domain="court").segmented_control(key=control).label == CONTROL
