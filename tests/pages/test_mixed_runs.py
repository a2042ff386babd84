"""Token routing of a model that can be run beside a run that is a recording alone."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.runs.import_trace import Known, import_trace
from emo_viz.runs.record import Options, record
from model.run.inference import encode
from model.run.inference import record as run_model
from model.run.loading import load_model, load_tokenizer
from tests.pages.opened import cells, follow_link, heatmaps, texts

PAGE = "pages/1_Token_routing.py"
LIVE, RECORDED = "emo-nano", "std-nano"


@pytest.fixture(scope="module")
def folder(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint, documents, and of another run the recording of three of them."""
    place = tmp_path_factory.mktemp("mixed") / "assets"
    for part in (f"checkpoints/{LIVE}", "documents"):
        shutil.copytree(tiny_assets / part, place / part)
    options = Options(level="tokens")
    some = documents(tiny_assets).head(3)
    record(tiny_assets / "checkpoints" / RECORDED, some, place / "traces" / RECORDED, options)
    return place


@pytest.fixture(autouse=True)
def _assets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))


def documents(place: Path) -> pd.DataFrame:
    return pd.read_parquet(place / "documents" / "documents.parquet")


def shown(at: AppTest) -> list[dict[tuple[int, int], int]]:
    """Of each run the cells of layer 0."""
    return [cells(side["layers"][0]) for side in heatmaps(at)[0]["sides"]]


def test_both_stand_side_by_side_token_by_token(folder: Path, tiny_assets: Path):
    table = documents(folder)
    at = follow_link(PAGE, routing_doc=table["id"][1], routing_order="By id")
    said = texts(at).replace("\\", "")
    assert "in EMO, " in said and "in Standard MoE" in said
    assert "Standard MoE is a recording (" in said and "was run now on the same text" in said
    for drawn, run in zip(shown(at), (LIVE, RECORDED), strict=True):
        checkpoint = tiny_assets / "checkpoints" / run
        ids = encode(load_tokenizer(checkpoint), table["text"][1], 256).token_ids
        own = run_model(load_model(checkpoint), ids).expert_ids[0, 1:]
        assert set(drawn) == {
            (token, int(expert)) for token, row in enumerate(own, 1) for expert in row
        }
    assert len(heatmaps(follow_link(PAGE, routing_picture="Difference"))) == 1


def test_of_a_text_of_ones_own_the_model_stands_alone_and_it_is_said():
    at = follow_link(PAGE, routing_source="Your own text", routing_text="soil and seeds")
    assert len(heatmaps(at)[0]["sides"]) == 1
    assert "says nothing of texts of your own" in texts(at)


def test_other_tokens_are_said_and_one_is_shown(folder: Path, tmp_path: Path):
    """A recording of the document by another tokenizer, which says neither ids nor texts."""
    document = documents(folder)["id"][0]
    ids = np.argsort(np.random.default_rng(0).random((9, 2, 8)), axis=2)[:, :, :2]
    line = {"id": document, "model": "Qwen", "routed_experts": ids.tolist()}
    (tmp_path / "answers.jsonl").write_text(json.dumps(line))
    import_trace(tmp_path / "answers.jsonl", folder / "traces" / "qwen", Known(num_experts=8))
    at = follow_link(PAGE, b="qwen")
    assert "other numbers of tokens in this document" in texts(at)
    assert len(heatmaps(at)[0]["sides"]) == 1
    at = follow_link(PAGE, b="qwen", run="qwen")
    assert "of 8 experts" in texts(at), "the recording alone"
