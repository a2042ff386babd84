"""The Training page: curves and alarms of runs, and the load of their experts."""

import base64
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.runs.sources import Sources, write_sources
from emo_viz.server import histories, pairs, training
from tests.pages.opened import charts, components, follow_link, numbers, texts
from tests.pages.training_runs import write_histories, write_runs

PAGE = "pages/11_Training.py"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of two runs."""
    write_runs(tmp_path)
    return tmp_path


def opened(trained: Path, **params: str):
    both = [str(trained / name) for name in ("whole", "stopped")]
    return follow_link(PAGE, training_folder=str(trained), training_run=both, **params)


def test_runs_are_drawn_beside_each_other_with_what_rings(tiny_assets: Path, trained: Path):
    at = opened(trained, training_smooth="0")
    said = texts(at).replace("\\", "")
    assert "## Loss " in said and ", nats a token: **" in said
    assert "ended at step **80**" in said and "is at step **70** of 80" in said
    assert "training loss **3.000** (mean of the last 16 lines)" in said
    assert "**Loss spike**: 1 step, the largest 2.00 nats at step 60" in said
    assert "(limit: a step 0.5 nats above" in said
    (chart,) = charts(at)
    lines = [trace for trace in chart["data"] if trace.get("showlegend")]
    assert [len(numbers(line["x"])) for line in lines] == [80, 70]
    assert [line["line"]["color"] for line in lines] == ["#0c8a7f", "#c96a04"]
    assert [line["line"]["width"] for line in lines] == [3.5, 1.5]  # both are seen where they meet
    titles = [note["text"] for note in chart["layout"]["annotations"]]
    assert "own &lt;b&gt;value" in titles  # a value that the page does not know, as text


def test_without_a_choice_the_usual_runs_are_shown_as_the_address_says(
    tiny_assets: Path, trained: Path
):
    at = opened(trained)
    at.multiselect(key="training_run").set_value([])
    assert len(charts(at.run())) == 1 and "training_run" not in at.query_params


def test_along_tokens_a_step_is_as_wide_as_its_tokens(tiny_assets: Path, trained: Path):
    (chart,) = charts(opened(trained, training_along="Tokens", training_smooth="0"))
    assert numbers(chart["data"][0]["x"])[:2] == [64, 128]


def test_the_loads_of_a_layer_are_multiples_of_even_use(tiny_assets: Path, trained: Path):
    at = opened(trained, training_view="Expert load")
    layers = at.get("button_group")[0]
    assert layers.options == ["1"]  # layer 0 is dense
    (chart,) = charts(at)
    trace = chart["data"][0]
    assert trace["x"] == ["0", "20", "40", "60"]
    values = trace["z"]
    assert values["shape"] == "2, 4"
    assert numbers(values) == [0.5] * 4 + [1.5] * 4
    assert "stopped** has no load.jsonl" in texts(at)


def test_runs_that_ended_long_ago_are_not_read_to_find_those_in_progress(
    tiny_assets: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "RUNS", str(trained))
    for number in range(5):
        shutil.copytree(trained / "stopped", trained / f"old-{number}")
        os.utime(trained / f"old-{number}" / "metrics.jsonl", (0, 0))
    asked, read = list[str](), training.read
    monkeypatch.setattr(training, "read", lambda run: (asked.append(run.folder.name), read(run))[1])
    assert "/stopped** is at step" in texts(follow_link(PAGE))
    assert set(asked) == {"stopped", "whole"}


def test_a_run_without_loads_shows_the_checkpoints_that_are_of_it_and_no_others(
    tiny_assets: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
):
    write_histories(trained / "own", monkeypatch, "stopped", "EMO")
    params = {"training_folder": str(trained), "training_view": "Expert load"}
    at = follow_link(PAGE, **params, training_run=str(trained / "stopped"))
    (chart,) = charts(at)
    assert chart["layout"]["title"]["text"].startswith("stopped: router probability of layer 0")
    assert "measured: stopped (a run of its own) over 4 held-out documents." in texts(at)
    shutil.copy(trained / "own" / "training-0.npz", trained / "own" / "training-1.npz")
    at = follow_link(PAGE, **params, training_run=str(trained / "stopped"))
    assert len(charts(at)) == 2  # both that are of it, each told apart from the other
    (trained / "whole" / "load.jsonl").unlink()
    at = follow_link(PAGE, **params, training_run=str(trained / "whole"))
    assert not charts(at) and "Instead" not in texts(at)


def test_bundled_checkpoints_are_of_no_folder_that_has_such_a_name(
    tiny_assets: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
):
    write_histories(trained / "own", monkeypatch, "stopped")
    monkeypatch.setattr(histories, "is_bundled", lambda path: True)
    run = str(trained / "stopped")
    at = follow_link(PAGE, training_folder=run, training_run=run, training_view="Expert load")
    assert not charts(at) and "Instead" not in texts(at)


def test_without_a_run_the_page_says_how_to_get_one(tiny_assets: Path):
    at = follow_link(PAGE)
    assert "No training run yet" in texts(at) and "training-history" in texts(at)
    assert at.code[0].value.startswith("python -m model.train ")
    links = [part.proto.page for part in at.get("page_link")]
    assert "Library" in links, "the other way to a run"


def test_a_folder_that_is_not_there_is_one_sentence(tiny_assets: Path):
    at = follow_link(PAGE, training_folder="/not/here")
    assert "There is no folder /not/here; check the path." in texts(at).replace("\\", "")


def test_checkpoints_are_sent_to_the_browser_at_once(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "own"
    write_histories(folder, monkeypatch, "one", "two")
    (folder / "training-zzz.npz").write_bytes(b"nothing")
    at = follow_link(PAGE, training_view="Checkpoints", training_history=["1", "zzz"])
    (data,) = [each for each in components(at) if "measures" in each]
    assert [run["label"] for run in data["runs"]] == ["two"]  # zzz is damaged, and said to be
    assert "training-zzz.npz is damaged" in texts(at).replace("\\", "")
    assert data["steps"] == [10, 20] and data["keeps"] == [2, 4]
    places = np.frombuffer(base64.b64decode(data["runs"][0]["places"]), "<u2")
    assert places.shape == (2 * 4 * 2,) and places.max() == 65_535
    assert [group["name"] for group in data["groups"]] == ["hill", "sea"]
    assert data["documents"][0] == ["sea", "<i>", "text"]
    assert data["runs"][0]["cuts"][0][0][0] == pytest.approx(0.5, abs=1e-4)
    said = texts(at)
    assert "two: a run of its own; 2 checkpoints, the last at step 20" in said
    assert "4 held-out documents of 2 domains, 20 tokens" in said and "3 other documents" in said


def test_the_history_is_that_of_the_runs_in_the_slots_or_it_is_said(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    write_histories(tmp_path / "user", monkeypatch, "one", "two", "mine")
    pair = tmp_path / "pair"
    shutil.copytree(tiny_assets / "checkpoints" / "emo-nano", pair / "checkpoints" / "own-emo")
    (pair / "analysis").mkdir()
    shutil.copy(tmp_path / "user" / "training-0.npz", pair / "analysis" / "training-a.npz")
    own = (tmp_path / "user" / "training-2.npz").rename(pair / "analysis" / "training-own-emo.npz")
    write_sources(pair, Sources("own", ("own-emo",), (tmp_path / "run",), tmp_path / "corpus"))
    pairs.keep("own", pair)
    slots = {"a": "own-emo", "b": "none"}
    at = follow_link(PAGE, training_view="Checkpoints", **slots)
    (data,) = [each for each in components(at) if "measures" in each]
    assert [run["label"] for run in data["runs"]] == ["mine"]
    assert history_field(at) == "Those of the runs in the slots"
    own.unlink()
    at = follow_link(PAGE, training_view="Checkpoints", **slots)
    said = texts(at)
    assert history_field(at) == "The first two"
    assert "no training history of own-emo, so others are shown" in said.replace("\\", "")
    assert f"`python -m emo_viz analyse --runs {tmp_path / 'run'} " in said


def history_field(at: AppTest) -> str:
    """What stands in the choice of histories while none is chosen."""
    return next(each for each in at.multiselect if each.label == "Histories").proto.placeholder


def test_files_of_one_name_can_each_be_chosen(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    write_histories(tmp_path / "user", monkeypatch, "one")
    for name, run in (("x", "two"), ("y", "three")):
        write_histories(tmp_path / name / "analysis", monkeypatch, run)
        ids = (f"{name}-emo",)
        write_sources(tmp_path / name, Sources(name, ids, (tmp_path,), tmp_path / "corpus"))
        pairs.keep(name, tmp_path / name)
    monkeypatch.setattr(histories, "OWN", os.fspath(tmp_path / "user"))
    chosen = ["0 (your own)", "0 (your own, 2)"]
    at = follow_link(PAGE, training_view="Checkpoints", training_history=chosen)
    (data,) = [each for each in components(at) if "measures" in each]
    assert [run["label"] for run in data["runs"]] == ["three", "one"]


def test_without_a_history_the_page_says_how_one_is_made(tiny_assets: Path):
    at = follow_link(PAGE, training_view="Checkpoints")
    assert "No checkpoints of a training run have been measured" in texts(at)
    assert "training-history --checkpoints" in at.code[0].value


def test_histories_that_cannot_be_read_are_not_called_unmeasured(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_histories(tmp_path, monkeypatch, "one")
    for file in tmp_path.glob("*.npz"):
        file.write_bytes(file.read_bytes()[:40])
    said = texts(follow_link(PAGE, training_view="Checkpoints"))
    assert "None of the measured checkpoints can be read" in said
    assert "have been measured" not in said


def test_runs_in_the_slots_without_metrics_are_named(
    tiny_assets: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where others are shown in their place, unless the visitor chose those."""
    root = tmp_path / "assets"
    for run in ("emo-nano", "std-nano", "other"):
        like = "emo-nano" if run == "other" else run
        shutil.copytree(tiny_assets / "checkpoints" / like, root / "checkpoints" / run)
    for run in ("emo-nano", "std-nano"):
        shutil.copy(trained / "whole" / "metrics.jsonl", root / "checkpoints" / run)
        shutil.copy(trained / "whole" / "training.json", root / "checkpoints" / run)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(root))
    shown = follow_link(PAGE, a="other", b="none")
    assert "other has no metrics of a training here, so others are shown" in texts(shown)
    mixed = texts(follow_link(PAGE, a="emo-nano", b="other"))
    assert "other has no metrics of a training here." in mixed
    assert "no metrics of a training" not in texts(follow_link(PAGE))
    chosen = follow_link(PAGE, a="other", b="none", training_run=["std-nano"])
    assert "no metrics of a training" not in texts(chosen)
