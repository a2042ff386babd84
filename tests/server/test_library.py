"""What is not here is raised, with the command that makes it; nothing is drawn."""

import os
from pathlib import Path

import pytest

from emo_viz.server import assets, library
from emo_viz.server.library import Missing


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("ask", "sentence", "command"),
    [
        (library.models, "There is no checkpoint and no trace in", "model.train --preset nano"),
        (library.documents, "The held-out documents are not here", "emo_viz documents"),
        (library.traces, "There is no checkpoint and no trace in", "--objective standard"),
    ],
)
def test_what_is_not_here_names_its_command(ask, sentence: str, command: str):
    with pytest.raises(Missing) as raised:
        ask()
    assert sentence in raised.value.sentence
    assert command in raised.value.command


@pytest.mark.parametrize("device", ["cuda:99", "auto", "meta", "toaster"])
def test_a_device_that_is_not_there_is_one_sentence(tiny_assets: Path, monkeypatch, device: str):
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tiny_assets))
    monkeypatch.setenv("EMO_VIZ_DEVICE", device)
    with pytest.raises(Missing, match=f"There is no device '{device}' here; set EMO_VIZ_DEVICE"):
        library.models()
    assert library.models("cpu").first.key == library.models(device="cpu").first.key


def test_a_damaged_file_is_missing_too(empty: Path):
    (empty / "documents").mkdir()
    (empty / "documents" / "documents.parquet").write_bytes(b"none")
    with pytest.raises(Missing, match="The file of documents cannot be read"):
        library.documents()


def test_caches_go_by_what_stands_in_files(empty: Path):
    """Not by their names or times: what is touched is the same, what is exchanged is not."""
    folder = empty / "trace"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    key, state = assets.content(folder), (folder / "a").stat()
    os.utime(folder / "a")
    assert assets.content(folder) == key
    (empty / "new").write_text("x")
    (empty / "new").replace(folder / "a")
    os.utime(folder / "a", ns=(state.st_atime_ns, state.st_mtime_ns))
    exchanged = assets.content(folder)
    assert exchanged != key
    (folder / "a").write_text("a")
    assert assets.content(folder) == key
    (folder / "a").rename(folder / "c")
    assert len({key, exchanged, assets.content(folder), assets.content(empty / "none")}) == 4


def test_a_run_is_what_has_a_checkpoint_or_a_trace(tiny_assets: Path, monkeypatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tiny_assets))
    assert library.comparison().ids == ("emo-nano", "std-nano")
    models, recorded = library.models(), library.traces()
    assert models.comparison.why_not("tokens") == models.comparison.why_not("experts") == ""
    assert recorded.comparison.why_not("documents") == "" and not recorded.left_out
    assert models.first.routed == recorded.traces["emo-nano"].manifest.model.routed == (15, 15)


def test_a_large_file_is_known_by_its_state_and_never_read(empty: Path, monkeypatch):
    monkeypatch.setattr(assets, "LARGE", 10)
    file = empty / "tokens.parquet"
    file.write_bytes(b"a" * 20)
    key = assets.content(file)
    assert assets.content(file) == key
    state = file.stat()
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
    assert assets.content(file) != key  # a small file that is only touched stays the same
