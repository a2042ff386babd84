"""Names stay inside their folder; writes are whole or leave everything as it was."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from model.files import (
    check_new_file,
    check_writable,
    file_state,
    inside,
    new_file,
    new_folder,
    num_parameters,
    read_json,
    weight_files,
    weights_digest,
    write_json,
    write_text,
)


@pytest.mark.parametrize("name", ["../b/x", "/etc/passwd", "", ".", "a/../../b", None, 3, "a\0b"])
def test_a_name_from_a_file_that_leads_outside_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match="outside of itself"):
        inside(tmp_path / "a", name)


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="outside of itself"):
        inside(tmp_path / "a", "link")


@pytest.mark.parametrize("name", ["circle", "\ud83d", [1], {"a": 1}, True])
def test_a_name_that_leads_nowhere_is_refused(tmp_path: Path, name: object) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(ValueError, match="outside of itself") as caught:
        inside(tmp_path, name)
    assert str(caught.value).isprintable()


def test_names_inside_are_taken(tmp_path: Path) -> None:
    assert inside(tmp_path, "model.safetensors") == tmp_path / "model.safetensors"
    assert inside(tmp_path, "shards/one") == tmp_path / "shards/one"


def test_a_hub_snapshot_may_link_to_the_blobs_of_its_own_repository_alone(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "repo/snapshots/main", tmp_path / "repo/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1f").write_text("weights")
    (tmp_path / "other").write_text("x")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1f")
    (snapshot / "bad").symlink_to("../../../other")
    assert inside(snapshot, "model.safetensors").read_text() == "weights"
    with pytest.raises(ValueError, match="outside of itself"):
        inside(snapshot, "bad")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(KeyError), new_file(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert (tmp_path / "a.json").read_text() == "old"
    assert _names(tmp_path) == ["a.json"]


def test_a_folder_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    with new_folder(tmp_path / "run") as first:
        (first / "weights").write_text("old")
    with pytest.raises(KeyError), new_folder(tmp_path / "run") as second:
        (second / "weights").write_text("half")
        raise KeyError
    assert (tmp_path / "run/weights").read_text() == "old"
    assert _names(tmp_path) == ["run"]


def test_a_new_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with new_folder(tmp_path / "run") as folder:
            (folder / content).write_text(content)
    assert _names(tmp_path / "run") == ["new"]
    assert _names(tmp_path) == ["run"]


def test_a_link_at_the_goal_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / "out").symlink_to(tmp_path / "other")
    write_text(tmp_path / "out", "new")
    assert (tmp_path / "other").read_text() == "kept"
    assert (tmp_path / "out").read_text() == "new"


def test_a_full_disk_is_said_of_the_file_that_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"a\.json cannot be written \(No space left"),
        new_file(tmp_path / "a.json"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert _names(tmp_path) == []


def test_a_fault_of_another_file_is_not_blamed_on_the_one_being_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "a.json"):
        (tmp_path / "input").read_text()


def test_what_is_written_is_as_open_as_its_surroundings(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_no_write_sets_what_all_threads_make_their_files_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "umask", lambda mask: asked.append(mask) or 0)
    write_text(tmp_path / "a", "x")
    with new_folder(tmp_path / "folder"):
        pass
    assert asked == []


def test_a_place_that_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot be written"):
        check_new_file(tmp_path / "file" / "out.json")
    with pytest.raises(ValueError, match="is a folder"):
        check_new_file(tmp_path)
    check_new_file(tmp_path / "new" / "out.json")
    assert not (tmp_path / "new" / "out.json").exists()


NUMBER = b'{"a": ' + b"9" * 5000 + b"}"


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff{}", b"[" * 100_000, NUMBER])
def test_what_is_not_a_json_object_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is not"):
        read_json(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_part_of_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


def _sharded(folder: Path, weight_map: object) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    return folder


def test_the_weight_files_are_those_of_the_index(tmp_path: Path) -> None:
    folder = _sharded(tmp_path / "c", {"a": "m-2.safetensors", "b": "m-1.safetensors"})
    for name in ("m-1", "m-2", "stray"):
        (folder / f"{name}.safetensors").write_text(name)
    assert [path.name for path in weight_files(folder)] == ["m-1.safetensors", "m-2.safetensors"]


@pytest.mark.parametrize(
    "weight_map",
    [
        {},
        [],
        None,
        {"a": 1},
        {"a": [1], "b": {}},
        {"a": "gone.safetensors"},
        {"a": "a/" * 3000},
        {"a": "a\n\n"},
    ],
)
def test_an_index_that_leads_nowhere_is_one_sentence(tmp_path: Path, weight_map: object) -> None:
    with pytest.raises(ValueError, match="c") as caught:
        weight_files(_sharded(tmp_path / "c", weight_map))
    assert str(caught.value).isprintable()


def test_an_index_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model.safetensors").write_text("x")
    folder = _sharded(tmp_path / "c", {"a": "../other/model.safetensors"})
    with pytest.raises(ValueError, match="outside of itself"):
        weight_files(folder)


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_text("one")
    before = weights_digest(tmp_path)
    weights.write_text("other")
    assert weights_digest(tmp_path) != before
    weights.write_text("one")
    assert weights_digest(tmp_path) == before


def test_json_files_end_in_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1]})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n") and json.loads(text) == {"a": [1]}


def test_trying_a_place_leaves_nothing_there(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep" / "file")
    assert not list(tmp_path.iterdir())
    (tmp_path / "new").mkdir()
    check_new_file(tmp_path / "new" / "deep" / "file")
    assert not list((tmp_path / "new").iterdir())


def test_processes_that_try_one_new_place_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: check_writable(tmp_path / "new" / "deep" / "out"), range(800)))
    assert not list(tmp_path.iterdir())


def test_parameters_are_counted_from_the_headers_of_all_files(tmp_path: Path) -> None:
    shards = {"a.safetensors": np.zeros((3, 4)), "b.safetensors": np.zeros(5, np.float16)}
    for name, weight in shards.items():
        save_file({f"weight of {name}": weight}, tmp_path / name)
    weight_map = {f"weight of {name}": name for name in shards}
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    assert num_parameters(tmp_path) == 17


def test_weights_that_are_cut_short_are_not_counted(tmp_path: Path) -> None:
    save_file({"weight": np.zeros((3, 4))}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="model.safetensors is damaged or cut short; copy"):
        num_parameters(tmp_path)


def test_a_link_that_leads_elsewhere_has_another_state(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("alike")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    before = file_state(link)
    assert before == file_state(link) and before.path == (tmp_path / "one").resolve()
    link.unlink()
    link.symlink_to(tmp_path / "two")
    assert file_state(link).path == (tmp_path / "two").resolve() != before.path
