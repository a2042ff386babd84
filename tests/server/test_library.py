"""What is not here is raised, with the command that makes it; nothing is drawn."""

from pathlib import Path

import pytest

from emo_viz.server import library
from emo_viz.server.library import Missing


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("ask", "sentence", "command"),
    [
        (library.pair, "The EMO checkpoint is not here.", "model.train --preset nano"),
        (library.documents, "The bundled documents are not here.", "emo_viz documents"),
        (library.traces, "emo-nano", "emo_viz record --model assets/checkpoints/emo-nano"),
    ],
)
def test_what_is_not_here_names_its_command(ask, sentence: str, command: str):
    with pytest.raises(Missing) as raised:
        ask()
    assert sentence in raised.value.sentence
    assert command in raised.value.command


def test_a_damaged_file_is_missing_too(empty: Path):
    (empty / "documents").mkdir()
    (empty / "documents" / "documents.parquet").write_bytes(b"none")
    with pytest.raises(Missing, match="The file of documents cannot be read"):
        library.documents()
