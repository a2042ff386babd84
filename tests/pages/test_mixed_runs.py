"""Token routing of a model that can be run beside a run that is a recording alone."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.analysis.routed import Numbered
from emo_viz.analysis.runs import compare
from emo_viz.runs.import_trace import Known, import_trace
from emo_viz.runs.record import Options, record
from emo_viz.server import assets, library, recordings, searching
from emo_viz.ui.parts.pins import Pin
from emo_viz.ui.routing import mixed
from emo_viz.ui.search import sides
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
    at = follow_link(PAGE, routing_doc=table["id"][1], routing_order="By id", routing_layer="0")
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


def beside(name: str, monkeypatch: pytest.MonkeyPatch) -> mixed.Beside:
    """The model beside a recording, as the page has them."""
    runs = {run.id: run for run in assets.runs()}
    monkeypatch.setattr(library, "comparison", lambda: compare([runs[LIVE], runs[name]]))
    found = mixed.found(library.models())
    assert isinstance(found, mixed.Beside)
    return found


def test_experts_are_matched_anew_by_other_held_out_texts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    path = folder / "documents" / "documents.parquet"
    table, keys = pd.read_parquet(path), []
    for one in (table, table.assign(text="other"), table):
        one.to_parquet(path)
        shown = beside(RECORDED, monkeypatch)
        keys.append(mixed._others(shown, shown.layers).key)
    assert keys[0] != keys[1] and keys[0] == keys[2]


def test_experts_are_matched_by_the_tokens_that_are_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of "known" a recording has other tokens from the fourth on, and its own text alone."""
    model = library.model(next(run for run in assets.runs() if run.id == LIVE))
    pieces = library.encoded(model, documents(folder)["text"][0], 20).texts[1:]
    used = [
        {"token_idx": token, "layer": layer, "expert_idx": expert, "gate_weight": 0.5}
        for token in range(len(pieces))
        for layer in range(2)
        for expert in range(2)
    ]
    told = [*pieces[:3], *("other " for _ in pieces[3:])]
    line = {"id": "known", "text": "".join(pieces), "token_strs": told, "activations": used}
    (tmp_path / "texts.jsonl").write_text(json.dumps(line))
    import_trace(tmp_path / "texts.jsonl", folder / "traces" / "texts", Known(num_experts=8))
    shown = beside("texts", monkeypatch)
    others = mixed._others(shown, shown.layers)
    assert [len(one.expert_ids) for one in others.read("known")] == [3, 3]
    assert searching.can_be_opened("known", shown.runs.runs), "the page has it"
    assert sides._text(Pin("known")) == "".join(pieces)


def test_links_lead_to_the_documents_and_layers_of_the_recording_beside_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    shown = beside(RECORDED, monkeypatch)
    ids = documents(folder)["id"]
    opened = [searching.can_be_opened(name, shown.runs.runs) for name in ids]
    assert opened == [True] * 3 + [False] * (len(ids) - 3)
    own = Numbered((3, 7), (8, 8))
    assert recordings.layer_of_routing(LIVE, own, 7) == 7
    monkeypatch.setattr(recordings, "_numbered", lambda run: Numbered((0, 1), (8, 8)))
    assert recordings.layer_of_routing(RECORDED, own, 7) == 1, "matched in their order"
    monkeypatch.setattr(recordings, "beside_model", lambda: "")
    assert recordings.layer_of_routing(LIVE, own, 7) == 1, "models' layers are counted"


def test_what_neither_shows_is_counted(monkeypatch: pytest.MonkeyPatch):
    shown = beside(RECORDED, monkeypatch)
    both = SimpleNamespace(num_tokens=255, dropped_tokens=45, exact=False, absent=())
    more = SimpleNamespace(num_tokens=255, dropped_tokens=50, exact=True, absent=())
    said = " ".join(mixed._absent(shown, both, more, shown.layers, 255))
    assert "first 255 tokens of about 305 are shown" in said


def test_a_recorded_document_without_tokens_leaves_the_model_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = mixed._traced

    def empty(*arguments):
        return replace(whole(*arguments), pieces=[""])

    monkeypatch.setattr(mixed, "_traced", empty)
    at = follow_link(PAGE)
    assert "holds no tokens of this document, so EMO stands alone" in texts(at)
    assert len(heatmaps(at)[0]["sides"]) == 1


def test_a_recording_with_texts_needs_no_held_out_documents(folder: Path, tmp_path: Path):
    shutil.move(folder / "documents", tmp_path / "documents")
    try:
        assert len(heatmaps(follow_link(PAGE))[0]["sides"]) == 2
    finally:
        shutil.move(tmp_path / "documents", folder / "documents")


def test_a_recording_by_document_is_one_notice(
    folder: Path, tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = tmp_path / "assets"
    for part in (f"checkpoints/{LIVE}", f"traces/{RECORDED}", "documents"):
        shutil.copytree(tiny_assets / part, place / part)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(place))
    at = follow_link(PAGE)
    (said,) = [each.value.replace("\\", "") for each in at.info]
    assert said.startswith("There is no checkpoint of Standard MoE here. ")
    assert said.endswith("recorded by document, not by token, so EMO stands alone.")
    assert len(heatmaps(at)[0]["sides"]) == 1
