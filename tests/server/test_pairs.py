"""Pairs of the user's own: where their runs and documents are looked for, listed and deleted."""

import json
import os
import threading
from pathlib import Path

import pandas as pd
import pytest

from emo_viz.analysis.origins import Origins, Weights, documents_digest
from emo_viz.analysis.projection import FEWEST_POINTS
from emo_viz.analysis.runs import Comparison
from emo_viz.runs.documents import FILES
from emo_viz.runs.sources import Sources, write_sources
from emo_viz.server import assets, commands, histories, home, making, measurements, pairs
from emo_viz.server.jobs import registry

IDS = ("own-emo", "own-standard")


def laid_out(folder: Path, ids: tuple[str, ...], name: str = "own") -> Path:
    """As `analyse` lays a folder out: the runs' folders, documents, and what it is of."""
    for run in ids:
        (folder / "checkpoints" / run).mkdir(parents=True)
    (folder / "documents").mkdir()
    (folder / "documents" / "documents.parquet").touch()
    trained = tuple(folder.parent / "runs" / run for run in ids)
    write_sources(folder, Sources(name, ids, trained, folder.parent / "corpus"))
    return folder


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A listed pair somewhere, beside an assets folder with a run of the bundled names."""
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "assets"))
    (tmp_path / "assets" / "checkpoints" / "emo-nano").mkdir(parents=True)
    folder = laid_out(tmp_path / "mine" / "own", IDS)
    pairs.keep("own", folder)
    return folder


def test_everything_of_a_listed_pair_is_looked_for_in_its_folder(own: Path):
    assert [run.id for run in assets.runs()] == ["emo-nano", *IDS]
    assert [assets.kind_of(run) for run in ("emo-nano", *IDS)] == ["bundled", "yours", "yours"]
    run, analysis = IDS[0], own / "analysis"
    assert assets.checkpoint_path(run) == own / "checkpoints" / run
    assert assets.trace_path(run) == own / "traces" / run
    assert assets.token_clusters_path(run) == analysis / f"clusters-{run}.npz"
    assert assets.curves_paths(IDS) == (analysis / "curves.parquet",)
    assert assets.measured_path("glance.npz", IDS) == analysis / "glance.npz"
    assert assets.analysis_path("x") == assets.root() / "analysis" / "x"


def test_documents_are_those_of_the_first_run_that_has_some(own: Path):
    theirs, bundled = own / "documents" / "documents.parquet", assets.documents_path()
    assert bundled.parent.parent == assets.root()
    assert assets.documents_path([IDS[1], "emo-nano"]) == theirs
    assert assets.documents_path(["emo-nano", IDS[0]]) == bundled
    assert assets.documents_path(["nowhere", IDS[0]]) == theirs


def test_what_a_pair_lacks_is_made_by_the_command_that_made_it(own: Path):
    said = commands.curves(IDS)
    assert said.startswith("python -m emo_viz analyse --runs ") and f"--out {own}" in said
    assert (
        said
        == commands.each(commands.RECORD, IDS)
        == commands.documents(own / "documents" / "documents.parquet")
    )
    assert commands.curves(["emo-nano", IDS[0]]) == commands.LIBRARY
    assert "assets/checkpoints/emo-nano" in commands.curves(["emo-nano"])


def test_what_cannot_be_made_of_a_pair_is_not_lacking(own: Path):
    """Maps of few documents, and the history of trainings that have left one checkpoint or none."""
    (own / "analysis").mkdir()
    table = pd.DataFrame({"text": ["a"] * FEWEST_POINTS})
    made = "curves.parquet", "curves.json", "token_map.npz", "glance.npz"
    of_run = "clusters-{}.npz", "experts-{}.npz", "expert-effects-{}.npz"
    for name in (*made, *(each.format(run) for run in IDS for each in of_run)):
        (own / "analysis" / name).touch()
    for run in IDS:
        (own / "traces" / run).mkdir(parents=True)
    for name in FILES:
        (own / "documents" / name).touch()
    pair = pairs.listed()["own"]
    for number, said in ((FEWEST_POINTS, ["the map of documents"]), (FEWEST_POINTS - 1, [])):
        table.head(number).to_parquet(own / "documents" / "documents.parquet")
        assert pairs.lacking(pair) == said
    for step in (1, 2):
        folder = pair.sources.runs[0] / f"step-{step}"
        folder.mkdir(parents=True)
        assert pairs.lacking(pair) == []
        for name in ("model.safetensors", "run.json"):
            (folder / name).touch()
    assert pairs.lacking(pair) == ["how own-emo came about in training"]
    (own / "analysis" / "experts-own-emo.npz").unlink()
    assert pairs.lacking(pair)[0] == "the experts of own-emo"


def test_the_assets_folder_may_be_such_a_pair(own: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(own))
    assert [run.id for run in assets.runs()] == list(IDS)
    assert {assets.kind_of(run) for run in IDS} == {"yours"}
    assert commands.curves(IDS).endswith("--name own")


def test_deleting_takes_the_files_only_where_they_are_the_users_folders(own: Path):
    inside = laid_out(pairs.usual_folder("here"), ("here-emo",), "here")
    pairs.keep("here", inside)
    beside = home.analysis_path("maps.npz", ["emo-nano", "here-emo"])
    beside.parent.mkdir(parents=True)
    pairs.delete("here")
    assert not inside.exists() and not beside.parent.exists()
    kept = home.analysis_path("maps.npz", ["emo-nano", IDS[0]])
    kept.parent.mkdir(parents=True)
    pairs.delete("own")
    assert (own / "pair.json").is_file() and kept.parent.is_dir() and not pairs.listed()
    with pytest.raises(ValueError, match="no pair own"):
        pairs.delete("own")


def test_names_that_are_taken_are_refused(own: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="A pair called own is in the Library"):
        pairs.check_free("own", tmp_path / "other", ["own-emo"], [])
    with pytest.raises(ValueError, match="A run called emo-nano is in the Library"):
        pairs.check_free("emo", tmp_path / "other", ["emo-nano"], ["emo-nano"])
    assert assets.ids_elsewhere(own) == ["emo-nano"]
    pairs.check_free("own", own, IDS, assets.ids_elsewhere(own))  # made again
    copy = laid_out(tmp_path / "copy" / "own", IDS, "copy")
    with pytest.raises(ValueError, match="A run called own-emo is in the Library"):
        making.add_folder(str(copy))
    assert list(pairs.listed()) == ["own"]


def test_a_name_is_free_again_where_nothing_was_made_of_it(tmp_path: Path):
    """As where the disk was full, and another folder is named for the same pair."""
    for folder in (tmp_path / "full", tmp_path / "roomy"):
        ids = ("late-emo",)
        pairs.check_free("late", folder, ids, assets.ids_elsewhere(folder))
        write_sources(folder, Sources("late", ids, (tmp_path / "runs",), tmp_path / "corpus"))
        pairs.keep("late", folder)
    found = pairs.listed()["late"]
    assert isinstance(found, pairs.Pair) and found.folder == tmp_path / "roomy"
    (found.folder / "checkpoints" / "late-emo").mkdir(parents=True)
    with pytest.raises(ValueError, match="A pair called late is in the Library"):
        pairs.check_free("late", tmp_path / "full", ids, [])


def test_an_added_run_of_the_same_id_keeps_its_files():
    inside = laid_out(pairs.usual_folder("here"), ("here-emo",), "here")
    home.add("here-emo", "/models/here", [])
    home.trace_path("here-emo").mkdir(parents=True)
    pairs.keep("here", inside)
    pairs.delete("here")
    assert not inside.exists() and home.trace_path("here-emo").is_dir()


def test_what_is_being_made_of_a_pair_is_stopped_before_it_goes():
    begun = threading.Event()

    def work(report):
        for step in range(10**9):
            report(step, 0)
            begun.set()

    jobs = [registry().start(key, work) for key in (f"map|{IDS[0]}", f"{IDS[1]} digest|garden")]
    begun.wait(60)
    making.delete_pair("own")
    assert [job.cancelled and not job.running for job in jobs] == [True, True]
    assert not pairs.listed()


def test_a_list_file_of_an_unsafe_name_is_deleted_as_it_is_listed():
    for place in (pairs.PLACE, "runs"):
        (home.folder() / place).mkdir(exist_ok=True)
        (home.folder() / place / "my old one.json").write_text("[]")
    pairs.delete("my old one")
    home.delete("my old one")
    assert list(pairs.listed()) == ["own"] and not home.runs()


def written(folder: Path, text: str) -> str:
    """Documents in a folder, and their digest."""
    table = pd.DataFrame({"id": ["a"], "domain": ["sea"], "text": [text]})
    (folder / "documents").mkdir(exist_ok=True)
    table.to_parquet(folder / "documents" / "documents.parquet", index=False)
    return documents_digest(table)


def test_curves_over_the_documents_of_another_folder_are_not_a_runs_own(own: Path):
    both = ("emo-nano", IDS[0])
    digest, _ = written(assets.root(), "bundled"), written(own, "mine")
    file = home.analysis_path(assets.CURVES, both)
    file.parent.mkdir(parents=True)
    file.touch()
    made_from = Origins({run: Weights(run, "0") for run in both}, digest)
    file.with_suffix(".json").write_text(json.dumps(made_from.to_dict()))
    assert assets.curves_path("emo-nano") == file
    assert assets.curves_path(IDS[0]) == own / "analysis" / "curves.parquet"


def test_runs_of_two_folders_are_not_measured_together():
    runs = {run.id: run for run in assets.runs()}
    apart, beside = (Comparison((runs[one], runs[IDS[0]])) for one in ("emo-nano", IDS[1]))
    assert "lie in two folders" in measurements.why_not(apart)
    assert not measurements.why_not(beside) and not measurements.why_not(apart.only(IDS[0]))


def test_the_histories_of_a_folder_come_once(own: Path, monkeypatch: pytest.MonkeyPatch):
    (own / "analysis").mkdir()
    file = own / "analysis" / "training-own-emo.npz"
    file.touch()
    linked = own.parent / "linked"
    linked.symlink_to(own)
    for root in (own, linked):
        monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(root))
        assert histories.paths() == [root / "analysis" / file.name]
        assert histories.is_bundled(histories.paths()[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda own: (own / "pair.json").write_text("{"),
        lambda own: (own / "pair.json").write_text('{"format": "emo-viz-pair"}'),
        lambda own: write_sources(own, Sources("own", ("../up", "b"), (own, own), own)),
        lambda own: (own / "pair.json").unlink(),
        lambda own: (home.folder() / "pairs" / "own.json").write_text("[]"),
    ],
)
def test_a_pair_that_cannot_be_read_is_one_sentence(own: Path, damage):
    damage(own)
    said = pairs.listed()["own"]
    assert isinstance(said, str) and said.startswith("The pair own cannot be read (")
    assert said.endswith("make it again, or delete it here.")
    assert [run.id for run in assets.runs()] == ["emo-nano"]
    pairs.delete("own")
    assert not pairs.listed() and (own / "checkpoints").is_dir()
