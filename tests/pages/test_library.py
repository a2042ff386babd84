"""Library page: what it lists, adds, records, measures and deletes; its faults in one sentence."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from tiny import save_tiny

from emo_viz.analysis import projection
from emo_viz.runs.sources import Sources, write_sources
from emo_viz.server import home, jobs, pairs
from emo_viz.server.jobs import registry
from tests.pages import opened
from tests.pages.ablation_page import lines
from tests.pages.opened import follow_link, texts

PAGE = "pages/6_Library.py"


@pytest.fixture(autouse=True)
def own_home(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tiny_assets))
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    yield tmp_path / "home"
    registry()._jobs.clear()  # of runs that are no longer there


@pytest.fixture
def checkpoint(tiny_assets: Path, tmp_path: Path) -> Path:
    """A checkpoint of the user's, somewhere on this machine."""
    return Path(shutil.copytree(tiny_assets / "checkpoints" / "emo-nano", tmp_path / "mine"))


def add(at: AppTest, folder: Path) -> AppTest:
    at.text_input(key="library_folder").set_value(str(folder))
    opened.run(at)
    next(each for each in at.button if each.label == "Add the folder").click()
    return opened.run(at)


def rows(at: AppTest) -> dict[str, dict]:
    table = at.dataframe[0].value
    return {row["Run"]: row for row in table.to_dict("records")}


def click(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click()
    return opened.run(at)


def finish(at: AppTest, key: str) -> AppTest:
    job = registry().find(key)
    assert job is not None
    job.wait()
    assert job.error is None, job.error
    return opened.run(at)


def test_the_bundled_runs_are_listed_with_their_facts():
    at = follow_link(PAGE)
    assert "**2 runs** are here (2 bundled); **2** are recorded" in at.markdown[0].value
    found = rows(at)["EMO"]
    assert found["Kind"] == "bundled"
    assert (found["Layers"], found["Experts a layer"], found["Top-k"]) == (2, "16", 4)
    assert found["Measured"] == "clusters, document map, token map, curves"


def test_a_folder_is_added_recorded_and_deleted(checkpoint: Path, own_home: Path):
    at = add(follow_link(PAGE), checkpoint)
    assert rows(at)["mine"]["Kind"] == "yours"
    assert at.selectbox(key="a").value == "mine"
    assert at.selectbox(key="b").value == "std-nano"
    click(at, "library_make_library|record|mine")
    finish(at, "library|record|mine")
    assert rows(at)["mine"]["Documents"] == 24
    assert (own_home / "traces" / "mine" / "manifest.json").is_file()
    at.selectbox(key="library_delete").set_value("mine")
    opened.run(at)
    assert f"The checkpoint stays at {checkpoint}" in texts(at).replace("\\", "")
    next(each for each in at.button if each.label == "Delete it for good").click()
    opened.run(at)
    assert "mine" not in rows(at) and at.selectbox(key="a").value == "emo-nano"
    assert not at.warning
    assert not [path for path in own_home.rglob("*") if path.is_file()]
    assert (checkpoint / "config.json").is_file()


def test_an_own_pair_is_put_on_all_pages_with_its_documents(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Beside an assets folder with other runs and documents, of which none may be shown."""
    pair, ids = Path(shutil.copytree(tiny_assets, tmp_path / "own")), ("emo-nano", "std-nano")
    write_sources(pair, Sources("own", ids, (tmp_path / "emo", tmp_path / "std"), tmp_path))
    pairs.keep("own", pair)
    root = tmp_path / "assets"
    shutil.copytree(tiny_assets / "checkpoints" / "emo-nano", root / "checkpoints" / "other")
    (root / "documents").mkdir()
    some = pd.read_parquet(pair / "documents" / "documents.parquet").head(3)
    some.to_parquet(root / "documents" / "documents.parquet", index=False)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(root))
    at = follow_link(PAGE, a="other", b="none")
    assert {row["Kind"] for row in rows(at).values()} == {"yours"}
    assert "with 24 held-out documents of 4 domains" in texts(at)
    click(at, "library_pair_own")
    assert (at.selectbox(key="a").value, at.selectbox(key="b").value) == ids
    assert "analyse --runs" in at.code[0].value, "what it lacks"
    at.switch_page("app.py")
    said = texts(opened.run(at))
    assert "Your held-out documents: 24 documents" in said and "Bundled" not in said
    assert len(opened.charts(at)) == 3, "its findings, from its own files"
    at.switch_page("pages/6_Library.py")
    click(opened.run(at), "library_pair_gone_own")
    assert list(rows(at)) == ["other"] and (pair / "pair.json").is_file()
    shutil.move(pair, pairs.usual_folder("own"))
    pairs.keep("own", pairs.usual_folder("own"))
    click(opened.run(at), "library_pair_own")
    click(at, "library_pair_gone_own")
    assert not pairs.usual_folder("own").exists()
    assert (at.selectbox(key="a").value, at.selectbox(key="b").value) == ("other", "none")
    assert not at.warning, "the slots were emptied, so nothing is missing from them"


def test_a_run_that_another_of_its_id_hides_is_deleted_by_its_own_facts(own_home: Path):
    home.add("emo-nano", "/models/hidden", [])
    home.trace_path("emo-nano").mkdir(parents=True)
    at = follow_link(PAGE)
    at.selectbox(key="library_delete").set_value("emo-nano")
    said = texts(opened.run(at)).replace("\\", "")
    assert "this deletes traces/emo-nano. The checkpoint stays at /models/hidden." in said
    assert "document map" not in said
    next(each for each in at.button if each.label == "Delete it for good").click()
    opened.run(at)
    assert not home.runs() and at.selectbox(key="a").value == "emo-nano"


def popover_id(at: AppTest) -> str:
    """Which popover the fields of a new run are in: another one is drawn closed."""
    found = [block for block in at.get("popover") if block.proto.popover.label == "Add a run"]
    return found[0].proto.id


def test_the_way_to_add_a_run_closes_once_one_is_added(checkpoint: Path, tmp_path: Path):
    at = follow_link(PAGE)
    before = popover_id(at)
    add(at, tmp_path / "nowhere")
    assert errors(at) and popover_id(at) == before, "what was typed can be mended"
    add(at, checkpoint)
    assert popover_id(at) != before


def errors(at: AppTest) -> list[str]:
    return [each.value.replace("\\", "") for each in at.error]


def with_way(at: AppTest, way: str) -> AppTest:
    at.session_state["library_way"] = way
    return opened.run(at)


def added_by(at: AppTest) -> AppTest:
    """Wait for what is being added."""
    if "library_job" in at.session_state:  # else it has come to an end already
        registry().find(at.session_state["library_job"]).wait()
        opened.run(at)
    return at


def import_file(at: AppTest, path: Path) -> AppTest:
    with_way(at, "Routing file")
    at.text_input(key="library_file").set_value(str(path))
    opened.run(at)
    next(each for each in at.button if each.label == "Import").click()
    return added_by(opened.run(at))


def test_a_routing_file_becomes_a_run_and_its_routing_is_shown(tmp_path: Path):
    path = tmp_path / "answers.npy"
    np.save(
        path,
        np.random.default_rng(0).permuted(np.tile(np.arange(64), (30, 3, 1)), axis=2)[:, :, :8],
    )
    at = import_file(follow_link(PAGE), path)
    assert "answers is added, and stands in slot A." in at.success[0].value
    found = rows(at)["answers"]
    assert (found["Kind"], found["Layers"], found["Top-k"]) == ("imported", 3, 8)
    assert (found["Documents"], found["Tokens recorded"]) == (1, 30)
    assert at.selectbox(key="a").value == "answers"
    at = follow_link("pages/1_Token_routing.py", a="answers", b="none")
    assert "answers" in texts(at)


def test_a_stopped_import_speaks_of_no_checkpoint(tmp_path: Path):
    np.save(tmp_path / "answers.npy", np.tile(np.arange(8), (30, 3, 1)))
    at = with_way(follow_link(PAGE), "Routing file")
    at.text_input(key="library_file").set_value(str(tmp_path / "answers.npy"))
    opened.run(at)
    with jobs._turn:  # something else is being done
        next(each for each in at.button if each.label == "Import").click()
        opened.run(at)
        job = registry().find(at.session_state["library_job"])
        next(each for each in at.button if each.label == "Stop").click()
        opened.run(at)
        job.wait()
    if "library_job" in at.session_state:
        opened.run(at)
    assert [each.value for each in at.info if "Stopped" in each.value] == [
        "Stopped; nothing was added."
    ]


def test_a_file_of_a_foreign_shape_adds_nothing(tmp_path: Path, own_home: Path):
    (tmp_path / "other.json").write_text('{"hello": 1}')
    at = import_file(follow_link(PAGE), tmp_path / "other.json")
    assert len(errors(at)) == 1 and errors(at)[0].startswith("Nothing was added: ")
    assert len(rows(at)) == 2 and not list(own_home.rglob("manifest.json"))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, "There is no checkpoint at"),
        ({"model_type": "llama", "num_hidden_layers": 2}, "names no experts in its config.json"),
    ],
)
def test_a_folder_that_is_no_mixture_of_experts_is_one_sentence(
    checkpoint: Path, config: dict | None, sentence: str
):
    if config is None:
        (checkpoint / "config.json").unlink()
    else:
        (checkpoint / "config.json").write_text(json.dumps(config))
        from safetensors.numpy import save_file

        save_file({"embed": np.zeros((4, 2), np.float32)}, checkpoint / "model.safetensors")
    at = add(follow_link(PAGE), checkpoint)
    assert len(errors(at)) == 1 and sentence in errors(at)[0]
    assert len(rows(at)) == 2


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("model.safetensors", "model.safetensors is damaged or cut short; copy the checkpoint"),
        ("tokenizer.json", "There is no tokenizer in"),
    ],
)
def test_a_checkpoint_that_no_page_could_open_is_not_added(
    checkpoint: Path, broken: str, sentence: str
):
    whole = (checkpoint / broken).read_bytes()
    (checkpoint / broken).unlink()
    if broken != "tokenizer.json":
        (checkpoint / broken).write_bytes(whole[: len(whole) // 2])
    at = add(follow_link(PAGE), checkpoint)
    assert len(errors(at)) == 1 and sentence in errors(at)[0]
    assert len(rows(at)) == 2
    (checkpoint / broken).write_bytes(whole)
    assert "mine is added, and stands in slot A." in add(at, checkpoint).success[0].value


def test_a_folder_that_is_listed_already_is_put_in_slot_a(checkpoint: Path, tiny_assets: Path):
    at = add(follow_link(PAGE), checkpoint)
    (checkpoint.parent / "link").symlink_to(checkpoint)
    for folder, run in (
        (checkpoint, "mine"),
        (checkpoint.parent / "link", "mine"),
        (tiny_assets / "checkpoints" / "std-nano", "std-nano"),
    ):
        at = add(at, folder)
        said = at.success[0].value.replace("\\", "")
        assert said == f"{run} is this folder already, and stands in slot A."
        assert at.selectbox(key="a").value == run and len(rows(at)) == 3


def test_a_hub_name_without_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    def no_network(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    at = with_way(follow_link(PAGE), "Hugging Face hub")
    at.text_input(key="library_hub").set_value("owner/model")
    opened.run(at)
    next(each for each in at.button if each.label == "Fetch and add").click()
    at = added_by(opened.run(at))
    assert len(errors(at)) == 1
    assert (
        "owner/model is no folder here and could not be had from the Hugging Face hub"
        in errors(at)[0]
    )


def test_broken_runs_are_listed_with_their_faults(checkpoint: Path, own_home: Path):
    for name in ("gone", "cut", "unfinished", "short"):
        home.add(name, str(checkpoint.parent / name), [])
    short = Path(shutil.copytree(checkpoint, checkpoint.parent / "short")) / "model.safetensors"
    os.truncate(short, short.stat().st_size - 1)
    cut = Path(shutil.copytree(checkpoint, checkpoint.parent / "cut")) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:100])
    shutil.copytree(checkpoint, checkpoint.parent / "unfinished")
    home.trace_path("unfinished").mkdir(parents=True)
    (own_home / "runs" / "torn.json").write_text("{")
    at = follow_link(PAGE)
    assert set(rows(at)) == {"EMO", "Standard MoE", "gone", "cut", "unfinished", "short", "torn"}
    said = "\n".join(errors(at))
    assert "The checkpoint of gone is no longer at" in said
    assert said.count("model.safetensors is damaged or cut short") == 2
    assert "The trace of unfinished is unfinished; record it again." in said
    assert "The run torn cannot be read" in said
    assert "5 runs cannot be used as a whole" in at.markdown[0].value
    for page in ("", "pages/1_Token_routing.py", "pages/2_Document_clusters.py"):
        for run in ("gone", "cut", "unfinished", "short"):
            follow_link(page, a=run)


def test_a_recording_that_is_stopped_leaves_nothing_and_begins_again(checkpoint: Path):
    at = add(follow_link(PAGE), checkpoint)
    with jobs._turn:  # something else is being done
        click(at, "library_make_library|record|mine")
        job = registry().find("library|record|mine")
        assert "about to begin" in at.get("progress")[0].proto.text
        next(each for each in at.button if each.label == "Stop").click()
        at.run()
        job.wait()
        assert job.cancelled and job.error is None
    assert not home.trace_path("mine").exists()
    opened.run(at)
    click(at, "library_make_library|record|mine")
    finish(at, "library|record|mine")
    assert rows(at)["mine"]["Documents"] == 24


def test_all_is_measured_of_an_added_run_and_shown(
    checkpoint: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(projection, "umap_map", lambda rows, *_: projection.pca_map(rows))
    at = add(follow_link(PAGE), checkpoint)
    for key in (
        "record|mine",
        "clusters|mine",
        "maps.npz|mine|std-nano",
        "token_map.npz|mine|std-nano",
    ):
        click(at, f"library_make_library|{key}")
        finish(at, f"library|{key}")
    curves = next(each for each in at.button if "Subset curves" in (each.help or ""))
    curves.click()
    opened.run(at)
    finish(at, next(key for key in registry()._jobs if key.startswith("all curves|mine")))
    assert rows(at)["mine"]["Measured"] == "clusters, document map, token map, curves"
    for page in ("", "pages/2_Document_clusters.py", "pages/3_Subset_ablation.py"):
        shown = follow_link(page, a="mine")
        assert not shown.error and not shown.warning
        assert "in mine" in texts(shown) or "**mine**" in texts(shown)
        assert "Not measured yet" not in texts(shown)


def test_no_run_at_all_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "none"))
    at = follow_link(PAGE)
    assert at.markdown[0].value.startswith("There is no run here yet. Add a checkpoint folder")
    assert not at.dataframe


@pytest.mark.parametrize("family", ["olmoe", "gpt_oss", "deepseek_v3"])
def test_a_model_of_another_family_is_recorded_and_shown(family: str, tmp_path: Path):
    save_tiny(family, tmp_path / family)
    at = add(follow_link(PAGE), tmp_path / family)
    found = rows(at)[family]
    assert (found["Family"], found["Layers"], found["Experts a layer"]) == (family, 3, "8")
    at.number_input(key="library_limit").set_value(6)
    opened.run(at)
    click(at, f"library_make_library|record|{family}")
    finish(at, f"library|record|{family}")
    assert rows(at)[family]["Documents"] == 6
    for page in ("", "pages/1_Token_routing.py", "pages/2_Document_clusters.py"):
        for beside in ("none", "std-nano"):
            shown = follow_link(page, a=family, b=beside)
            assert not shown.error
    shown = follow_link("pages/1_Token_routing.py", a=family, b="none")
    assert "half of this text's routing goes to" in texts(shown)
    shown = follow_link("pages/3_Subset_ablation.py", a=family, b="none")
    said = "No curves over many documents have been measured here of these models"
    assert f"{said}. The Library measures them" in texts(shown)
    assert "likelihood kept" in lines(shown)["document"]


def test_a_pair_of_which_nothing_is_made_names_its_command_alone(own_home: Path, tmp_path: Path):
    folder = pairs.usual_folder("bare")
    folder.mkdir(parents=True)
    write_sources(folder, Sources("bare", ("bare-emo",), (tmp_path / "run",), tmp_path))
    pairs.keep("bare", folder)
    at = follow_link(PAGE)
    said = texts(at)
    assert "**bare**: nothing of it is made yet." in said and "Not here:" not in said
    assert "analyse --runs" in at.code[0].value
