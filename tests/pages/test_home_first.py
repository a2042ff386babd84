"""The first screen: one document, both runs, every notch of the slider computed beforehand."""

import base64
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageColor
from streamlit.testing.v1 import AppTest
from tiny import save_tiny

from emo_viz.analysis.ablation import ranked_subset
from emo_viz.analysis.curves import Curves
from emo_viz.analysis.glance import load_glances
from emo_viz.analysis.token_map import load_token_map
from emo_viz.figures import home as figures
from emo_viz.figures import theme
from emo_viz.runs.import_trace import Known, import_trace
from emo_viz.server import library
from emo_viz.ui.home import look, sampled
from emo_viz.ui.shell.words import share
from model.run.live import Live, open_live
from tests.pages import opened
from tests.pages.opened import follow_link, texts
from tests.pages.test_other_families import write_documents
from tests.uneven import emo_viz

RUNS = ("emo-nano", "std-nano")
FAMILIES = ("olmoe", "gpt_oss", "switch_transformers")


def first(at: AppTest) -> dict:
    """What the browser was given of the first screen."""
    given = [json.loads(part.proto.bytes) for part in at.get("bidi_component")]
    return next(each for each in given if "notches" in each)


def said(picture: dict, notch: int) -> str:
    return "".join(part["text"] for part in picture["notches"][notch]["says"])


def integers(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def write(folder: Path, *more: str) -> Path:
    """The file of the first screen, by the command."""
    documents, out = folder / "documents", folder / "analysis" / "glance.npz"
    emo_viz(
        "glance",
        "--models",
        *(folder / "checkpoints" / run for run in RUNS),
        "--documents",
        documents / "documents.parquet",
        "--calibration",
        documents / "calibration.parquet",
        "--out",
        out,
        *more,
    )
    return out


@pytest.fixture
def own(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny assets that a test may change."""
    folder = tmp_path / "assets"
    shutil.copytree(tiny_assets, folder)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    return folder


@pytest.fixture
def lives(tiny_assets: Path) -> dict[str, Live]:
    return {run: open_live(tiny_assets / "checkpoints" / run) for run in RUNS}


def test_every_notch_says_what_the_cut_models_lose(own: Path, curves: Curves, lives: dict):
    write(own, "--document", "heldout-court-2")
    picture = first(follow_link(""))
    row = library.documents().set_index("id").loc["heldout-court-2"]
    for notch, keep_k in enumerate((4, 5, 6, 7, 8, 10, 12, 14)):
        assert f"{keep_k} of 16" in said(picture, notch)
        for run, live in lives.items():
            ids = live.encode(row["text"], 256).token_ids
            ranking = np.asarray(curves.info["ranking"][run]["court"])
            kept = ranked_subset(ranking, keep_k, live.geometry, ()).experts
            increase = np.nanmean(live.losses(ids, kept)) - np.nanmean(live.losses(ids))
            assert share(np.exp(-increase)).replace(" ", "\u00a0") in said(picture, notch)
    assert said(picture, 8).startswith("All 16 experts of every layer")


def test_cells_and_kept_shares_are_those_of_the_routing(own: Path, lives: dict):
    write(own, "--document", "heldout-court-2")
    picture = first(follow_link(""))
    text = library.documents().set_index("id").loc["heldout-court-2", "text"]
    for drawn, (run, live) in zip(picture["runs"], lives.items(), strict=True):
        recording = live.record(live.encode(text, 256).token_ids)
        ids = recording.expert_ids[:, 1:]
        assert integers(drawn["ids"], "<u2").reshape(ids.shape).tolist() == ids.tolist(), run
        weights = recording.gate_weights[:, 1:]
        shares = weights / weights.sum(axis=-1, keepdims=True)
        places = integers(drawn["places"], "<u2").reshape(ids.shape)
        kept = np.array(drawn["kept"])
        for notch, layers in enumerate(drawn["share"]):
            within = places < kept[notch][:, None, None]
            expected = 100 * np.where(within, shares, 0).sum(-1).mean(-1)
            np.testing.assert_allclose(layers, expected, atol=0.6)
        assert drawn["share"][-1] == [100, 100]


def test_without_the_file_the_models_themselves_are_asked(own: Path):
    live = first(follow_link(""))
    shown = next(t for t in ("court", "garden", "kitchen", "harbour") if t in live["hint"])
    written = load_glances(write(own, "--curves", str(own / "analysis" / "curves.parquet")))
    assert written.text.domain == shown
    stored = first(follow_link(""))
    ours, theirs = ([n["says"] for n in each["notches"]] for each in (live, stored))
    assert ours == theirs


def test_a_file_of_another_checkpoint_is_not_shown(own: Path):
    write(own, "--document", "heldout-court-2")
    stored = first(follow_link(""))
    assert "heldout-court" in stored["hint"]
    weights = "model.safetensors"
    shutil.copy(own / "checkpoints" / RUNS[1] / weights, own / "checkpoints" / RUNS[0] / weights)
    shown = first(follow_link(""))
    assert shown["key"] != stored["key"]
    one, other = (each["change"] for each in shown["runs"])
    assert one == other  # they are one model now


def stands(at: AppTest) -> dict:
    """Where the browser was told that the slider, the layer and the token stand."""
    given = [json.loads(part.proto.bytes) for part in at.get("bidi_component")]
    return next(each for each in given if "notch" in each)


def test_a_link_says_where_the_slider_the_layer_and_the_token_stand(own: Path):
    write(own)
    usual = follow_link("")
    assert stands(usual)["of"] == first(usual)["key"]
    assert (stands(usual)["notch"], stands(usual)["layer"]) == (first(usual)["start"], 1)
    assert stands(usual)["token"] is None and not usual.query_params
    at = follow_link("", home_k="6", home_layer="0", home_token="3")
    assert (stands(at)["notch"], stands(at)["layer"], stands(at)["token"]) == (2, 0, 2)
    assert at.query_params == {"home_k": "6", "home_layer": "0", "home_token": "3"}


def test_a_link_that_asks_in_vain_is_named_and_shows_the_usual(own: Path):
    write(own)
    at = follow_link("", home_k="7000", home_layer="9", home_token="0", home_document="gone")
    said = texts(at)
    for words in ("number of experts 7000", "layer 9", "token 0", "document gone"):
        assert words in said
    assert stands(at) == stands(follow_link("")) and not at.query_params


def test_any_document_can_be_shown(own: Path, lives: dict, everything_open: None):
    write(own, "--document", "heldout-court-2")
    at = follow_link("")
    assert at.selectbox(key="home_domain_heldout-court-2").value == "court"
    listed = at.selectbox(key="home_all_heldout-court-2_court")
    assert listed.value == "heldout-court-2" and len(listed.options) == 6
    at.session_state["home_token"] = 4
    at.query_params["home_token"] = "4"
    listed.set_value("heldout-court-5")
    at = opened.run(at)
    assert at.query_params == {"home_document": "heldout-court-5"}
    text = library.documents().set_index("id").loc["heldout-court-5", "text"]
    for drawn, live in zip(first(at)["runs"], lives.values(), strict=True):
        assert "".join(drawn["tokens"]) == "".join(live.encode(text, 256).texts[1:])
    assert [n["label"] for n in first(at)["notches"]] == [
        n["label"] for n in first(follow_link(""))["notches"]
    ]


def test_documents_typical_of_their_domains_are_one_click_away(own: Path, everything_open: None):
    write(own, "--document", "heldout-court-2")
    at = follow_link("")
    good = {
        one.key.removeprefix("home_good_"): one for one in at.button if "good" in (one.key or "")
    }
    assert good["heldout-court-2"].disabled and len(good) == 4
    other = next(key for key in good if "garden" in key)
    good[other].click()
    assert opened.run(at).query_params["home_document"] == other


def test_what_nobody_has_opened_is_not_sent(own: Path, monkeypatch: pytest.MonkeyPatch):
    write(own)
    closed = follow_link("")
    keys = [one.key or "" for one in closed.button]
    assert not any(key.startswith("home_good") for key in keys)
    assert len(closed.get("download_button")) == 1  # of the session
    opened.open_everything(monkeypatch)
    at = follow_link("")
    assert len(at.get("download_button")) == 5
    assert first(at) == first(closed)


def test_a_small_map_shows_where_tokens_of_the_domain_lie(own: Path):
    write(own, "--document", "heldout-court-2")
    small = first(follow_link(""))["map"]
    assert len(json.dumps(small)) <= 20 * 1024
    places = [integers(each, "<u1").reshape(-1, 2) for each in small["places"]]
    assert len(places) == 2 and len(places[0]) == len(places[1]) <= sampled.MOST
    runs = library.default()
    kept, whole = sampled.tokens(runs), load_token_map(own / "analysis" / "token_map.npz")
    domains = library.documents()["domain"].to_numpy(str)[whole.sample.documents]
    for place, domain in zip(kept.places[runs.first.id], kept.domains, strict=True):
        found = (whole.places[runs.first.id] == place).all(axis=1)
        assert domain in domains[found]
    assert (kept.domains[integers(small["own"], "<u2")] == "court").all()
    assert "coloured: court" in small["says"]
    assert small["page"] == "Document_clusters" and small["way"] == {"cluster_domain": "court"}
    (own / "analysis" / "token_map.npz").unlink()
    assert first(follow_link(""))["map"] is None


def test_the_small_map_takes_as_many_tokens_of_each_domain():
    rows = sampled._even(np.repeat(["a", "b", "c"], [2000, 500, 3]))
    assert len(rows) == len(set(rows)) == 803 and (rows < 2000).sum() == 400


def test_one_run_alone_has_a_first_screen(own: Path):
    write(own)
    both = first(follow_link(""))
    alone = first(follow_link("", b="none"))
    assert [run["label"] for run in alone["runs"]] == ["EMO"]
    assert alone["runs"][0]["share"] == both["runs"][0]["share"]
    assert said(alone, 0) in said(both, 0).replace("; ", ".")


def test_a_trace_alone_says_where_its_routing_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "own"))
    ids = np.argsort(np.random.default_rng(0).random((50, 3, 8)), axis=2)[:, :, :2]
    line = {"id": "<b>", "model": "Qwen", "prompt_routed_experts": ids.tolist()}
    line["choices"] = [{"index": 0, "routed_experts": ids[:3].tolist()}]
    (tmp_path / "answers.jsonl").write_text(json.dumps(line))
    known = Known(num_experts=8)
    import_trace(tmp_path / "answers.jsonl", tmp_path / "own" / "traces" / "qwen", known)
    picture = first(follow_link(""))
    assert "qwen sends " in said(picture, 0) and "routing to the experts kept" in said(picture, 0)
    drawn = picture["runs"][0]
    assert drawn["change"] is None and drawn["layers"] == [0, 1, 2]
    np.testing.assert_array_equal(
        integers(drawn["ids"], "<u2").reshape(3, 53, 2)[:, :50], ids.swapaxes(0, 1)
    )


def test_a_trace_of_documents_alone_says_what_it_lacks(own: Path):
    for run in RUNS:
        shutil.rmtree(own / "checkpoints" / run)
    at = follow_link("")
    assert "No document to show" in texts(at)
    assert "no tokens" in texts(at).replace("\\", "")
    assert "of 15 experts" in texts(at)  # the findings of the traces are there all the same


def test_large_models_are_loaded_on_request_alone(own: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(look, "HEAVY", 1)
    at = follow_link("")
    assert not [part for part in at.get("bidi_component") if b"notches" in part.proto.bytes]
    at.button(key="home_load_models").click()
    assert len(first(opened.run(at))["runs"]) == 2


def test_a_damaged_file_is_made_again_by_the_models(own: Path):
    write(own).write_bytes(b"PK damaged")
    assert len(first(follow_link(""))["runs"]) == 2


def test_colours_run_from_better_over_nothing_to_worse():
    palette = figures.palette()
    assert len(palette) % 2 and palette[len(palette) // 2].endswith(" 0)")
    hues = [ImageColor.getrgb(end) for end in (theme.BETTER, theme.WORSE)]
    for drawn, hue in zip((palette[0], palette[-1]), hues, strict=True):
        assert [float(part) for part in drawn[5:-1].split(",")[:3]] == pytest.approx(hue, abs=2)


def test_an_unknown_document_or_domain_is_one_sentence(own: Path):
    for option, value in (("--document", "nowhere"), ("--domain", "nowhere")):
        with pytest.raises(AssertionError, match="nowhere"):
            write(own, option, value)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a model of another family and documents of two domains, nothing measured."""
    folder = tmp_path / "assets"
    write_documents(folder / "documents")
    save_tiny(request.param, folder / "checkpoints" / "mine")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    return str(request.param)


def test_any_family_has_a_first_screen(family: str):
    at = follow_link("")
    picture = first(at)
    drawn = picture["runs"][0]
    live = open_live(library.assets.checkpoint_path("mine"))
    assert drawn["layers"] == list(live.own_layers)
    if live.why_not_cut:
        assert "mine sends" in said(picture, 0) and drawn["change"] is None
    else:
        assert "mine predicts this text" in said(picture, 0) and drawn["change"]
    assert "whole" in said(picture, -1)


def test_a_document_that_the_trace_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "own"))
    ids = np.argsort(np.random.default_rng(0).random((20, 3, 8)), axis=2)[:, :, :2]
    line = {"id": "here", "prompt_routed_experts": ids.tolist()}
    line["choices"] = [{"index": 0, "routed_experts": ids[:1].tolist()}]
    (tmp_path / "answers.jsonl").write_text(json.dumps(line))
    trace = tmp_path / "own" / "traces" / "qwen"
    import_trace(tmp_path / "answers.jsonl", trace, Known(num_experts=8))
    runs = library.comparison()
    for asked, named in (("gone", True), ("here", False), (None, False)):
        found, _, sentences = look.made(runs, document=asked)
        assert found.text.id == "here"
        assert any("The document gone is not shown" in each for each in sentences) == named


def test_without_documents_each_place_names_the_command_that_makes_them(own: Path):
    shutil.rmtree(own / "documents")
    for part in ("traces", "analysis"):
        shutil.rmtree(own / part)
    at = follow_link("")
    assert "No document to show" in texts(at) and not opened.charts(at)
    made = [each for each in at.code if "emo_viz documents" in each.value]
    assert len(made) == 2 and all(each.proto.wrap_lines for each in made)
    assert "95 % intervals" not in texts(at), "there is no number"
