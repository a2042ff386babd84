"""The user's folder: where it is, what is kept there, and what deleting a run takes away."""

import os
import stat
from pathlib import Path

import pytest

from emo_viz.server import home


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    return tmp_path / "home"


def test_it_is_the_platforms_folder_for_a_users_data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EMO_VIZ_HOME")
    monkeypatch.setattr(home.sys, "platform", "linux")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    assert home.folder() == Path("/home/ada/.local/share/emo-viz")
    monkeypatch.setenv("XDG_DATA_HOME", "/data/ada")
    assert home.folder() == Path("/data/ada/emo-viz")
    monkeypatch.setattr(home.sys, "platform", "darwin")
    assert home.folder() == Path("/home/ada/Library/Application Support/emo-viz")


def test_without_a_home_folder_nothing_is_there_and_adding_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EMO_VIZ_HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(home.sys, "platform", "linux")
    monkeypatch.setattr(home.Path, "home", nowhere)
    assert home.runs() == {}
    assert home.find("mine") is None
    with pytest.raises(ValueError, match="There is no home folder .* set EMO_VIZ_HOME to a folder"):
        home.add("mine", "/models/mine", [])


def test_a_place_that_cannot_be_written_is_one_sentence(folder: Path):
    folder.write_text("a file")
    with pytest.raises(ValueError, match=r"cannot be written .* another place in EMO_VIZ_HOME"):
        home.add("mine", "/models/mine", [])
    assert home.runs() == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_is_one_sentence(folder: Path):
    folder.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ValueError, match="cannot be written"):
        home.add("mine", "/models/mine", [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mine", "mine"),
        ("allenai/OLMoE-1B-7B", "OLMoE-1B-7B"),
        ("../../etc", "etc"),
        ("a b<c>", "a-b-c"),
        ("EMO-nano", "EMO-nano-2"),  # another run has it, but for the case
        ("none", "none-2"),  # no run in an address
        ("...", "run"),
        ("x" * 300, "x" * 80),
    ],
)
def test_a_run_gets_a_safe_id_of_its_own(name: str, expected: str):
    assert home.add(name, "/models/mine", ["emo-nano"]).id == expected


def test_a_run_is_kept_and_a_second_of_its_name_is_another():
    first = home.add("mine", "/models/mine", [])
    second = home.add("mine", "owner/mine", [])
    assert (first.id, second.id) == ("mine", "mine-2")
    assert home.runs() == {"mine": first, "mine-2": second}
    assert (first.kind, home.Added("x").kind) == ("yours", "imported")
    kept = home.keep_documents(first, "/texts.jsonl")
    assert home.find("mine") == kept
    assert kept.checkpoint == "/models/mine"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": "emo-viz-run", "format_version": 9, "checkpoint": "", "documents": ""}',
        '{"format": "emo-viz-run", "format_version": 1, "checkpoint": 3, "documents": ""}',
        f'{{"format": "emo-viz-run", "format_version": 1, "checkpoint": "{"x" * 999}", '
        '"documents": ""}',
    ],
)
def test_a_damaged_run_is_a_sentence_and_can_be_deleted(folder: Path, content: str):
    (folder / "runs").mkdir(parents=True)
    (folder / "runs" / "mine.json").write_text(content)
    said = home.runs()["mine"]
    assert isinstance(said, str)
    assert said.startswith("The run mine cannot be read (")
    assert said.endswith("; delete it here and add it again.")
    home.delete("mine")
    assert home.runs() == {}


def _write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("something")
    return path


def test_deleting_a_run_takes_what_was_made_of_it_and_nothing_else(folder: Path, tmp_path: Path):
    checkpoint = _write(tmp_path / "model" / "config.json").parent
    for name in ("mine", "mine-2"):
        home.add(name, str(checkpoint), [])
        _write(home.trace_path(name) / "manifest.json")
        _write(home.clusters_path(name))
    _write(folder / "traces" / ".mine.partial" / "00000.npz")
    _write(home.analysis_path("maps.npz", ["std-nano", "mine"]))
    other = _write(home.analysis_path("maps.npz", ["std-nano", "mine-2"]))
    home.delete("mine")
    left = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert left == {
        "runs/mine-2.json",
        "traces/mine-2/manifest.json",
        "analysis/mine-2/clusters-mine-2.npz",
        str(other.relative_to(folder)),
    }
    assert (checkpoint / "config.json").is_file()
    with pytest.raises(ValueError, match="There is no added run mine"):
        home.delete("mine")


def test_a_linked_trace_is_unlinked_and_what_it_leads_to_stays(folder: Path, tmp_path: Path):
    elsewhere = _write(tmp_path / "elsewhere" / "manifest.json")
    home.add("mine", "/models/mine", [])
    home.trace_path("mine").parent.mkdir()
    home.trace_path("mine").symlink_to(elsewhere.parent)
    home.delete("mine")
    assert elsewhere.is_file()
    assert not home.trace_path("mine").exists()


@pytest.mark.parametrize("run", ["../x", "", "a/b", "/etc/passwd", "a+b"])
def test_what_is_no_id_is_deleted_nowhere(run: str):
    with pytest.raises(ValueError, match="is not the id of an added run"):
        home.delete(run)
    assert home.find(run) is None


def test_what_is_left_of_a_run_is_no_part_of_another():
    _write(home.trace_path("mine") / "manifest.json")
    assert home.free_id("mine") == "mine-2"


def test_measured_files_of_more_runs_serve_some_of_them():
    both = _write(home.analysis_path("curves.parquet", ["a", "b"]))
    alone = _write(home.analysis_path("curves.parquet", ["b"]))
    assert home.measured("curves.parquet", ["b", "a"]) == [both]
    assert home.measured("curves.parquet", ["b"]) == [alone, both]
    assert home.measured("curves.parquet", ["c"]) == []


def test_an_upload_is_kept_once_under_a_safe_name(folder: Path):
    path = home.upload("../my texts.jsonl.gz", b"one")
    assert path.parent == folder / "documents"
    assert path.name.startswith("my-texts-") and path.name.endswith(".jsonl.gz")
    assert home.upload("../my texts.jsonl.gz", b"one") == path
    assert home.upload("../my texts.jsonl.gz", b"two") != path
    assert path.read_bytes() == b"one"


@pytest.mark.parametrize("typed", ["x" * 5000, "a\0b", "~nobody-of-this-name/x"])
def test_what_cannot_be_a_path_is_one_sentence(typed: str):
    with pytest.raises(ValueError, match="is no path on this machine; check it"):
        home.given_path(typed)
