"""Damaged, foreign or empty files: one sentence and a command on the page, never a traceback."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from tests.pages.opened import follow_link

SECONDS = 600
PAGES = ("", "pages/1_Token_routing.py", "pages/3_Subset_ablation.py", "pages/4_Kernel.py")
CONFIG, WEIGHTS, TRAINING = (
    f"checkpoints/emo-nano/{name}" for name in ("config.json", "model.safetensors", "training.json")
)
DOCUMENTS = "documents/documents.parquet"


@pytest.fixture
def folder(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the assets to damage."""
    copy = tmp_path / "assets"
    shutil.copytree(tiny_assets, copy)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(copy))
    return copy


def words(at: AppTest) -> str:
    parts = [*at.markdown, *at.caption, *at.error, *at.sidebar.caption]
    return "\n".join(part.value for part in parts)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def of_another_type(path: Path) -> None:
    path.write_text('{"model_type": "gpt2", "n_layer": 2}')


def without_rows(path: Path) -> None:
    pd.read_parquet(path).head(0).to_parquet(path)


def with_a_blank_text(path: Path) -> None:
    table = pd.read_parquet(path)
    table.loc[3, "text"] = None
    table.to_parquet(path)


def with_one_id_twice(path: Path) -> None:
    table = pd.read_parquet(path)
    table.loc[3, "id"] = table.loc[2, "id"]
    table.to_parquet(path)


def without_domains(path: Path) -> None:
    pd.read_parquet(path).drop(columns="domain").to_parquet(path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [(CONFIG, cut_off), (CONFIG, of_another_type), (WEIGHTS, cut_off)],
)
def test_a_damaged_checkpoint_is_named_on_every_page(
    folder: Path, name: str, damage: Callable[[Path], None]
):
    damage(folder / name)
    for page in PAGES:
        assert "**EMO**: cannot be read" in words(follow_link(page))
    assert "The EMO checkpoint at" in words(follow_link(""))


def test_a_damaged_training_record_costs_only_its_own_number(folder: Path):
    cut_off(folder / TRAINING)
    assert follow_link("").table[0].value.loc["EMO", "Tokens trained on"] == "not recorded"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_off, "cannot be read"),
        (without_rows, "holds none"),
        (without_domains, "lacks domain"),
        (with_a_blank_text, "rows without text"),
        (with_one_id_twice, "two documents of one id"),
    ],
)
def test_unusable_documents_are_named_with_their_command(
    folder: Path, damage: Callable[[Path], None], sentence: str
):
    damage(folder / DOCUMENTS)
    at = follow_link("pages/1_Token_routing.py")
    assert sentence in words(at)
    assert at.code[0].value.startswith("python -m emo_viz documents")


def test_what_was_cut_off_a_document_is_said(folder: Path):
    file = folder / DOCUMENTS
    pd.read_parquet(file).assign(cut_tokens=7).to_parquet(file)
    for page in ("pages/1_Token_routing.py", "pages/3_Subset_ablation.py"):
        assert "the 7 tokens that follow are cut off" in words(follow_link(page))
    assert "Of 24 longer texts only the beginning is here" in words(follow_link(""))


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 1}', '{"format_version": 99}'])
def test_an_unusable_kernel_report_is_named_with_its_command(folder: Path, text: str):
    (folder / "analysis" / "kernel_report.json").write_text(text)
    at = follow_link("pages/4_Kernel.py")
    assert "The kernel report is" in words(at)
    assert at.code[0].value.startswith("python -m model.kernels.report")
