"""The token routing page: one input changed, the right number changes; odd texts stay texts."""

import base64
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from model.run.inference import Recording, encode, record
from model.run.loading import load_model, load_tokenizer
from tests.pages.opened import charts, follow_link

PAGE = "pages/1_Token_routing.py"
MAP = 1  # the second figure: the first one is in the panel beside the text
SECONDS = 600


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets."""


@pytest.fixture(scope="module")
def documents(tiny_assets: Path) -> pd.DataFrame:
    return pd.read_parquet(tiny_assets / "documents" / "documents.parquet")


def recorded(folder: Path, text: str, name: str = "emo-nano") -> Recording:
    """What a model does with a text, worked out beside the app."""
    checkpoint = folder / "checkpoints" / name
    token_ids = encode(load_tokenizer(checkpoint), text, 512).token_ids
    return record(load_model(checkpoint), token_ids)


def opened(**params: str) -> AppTest:
    return follow_link(PAGE, **params)


def array(packed: dict) -> np.ndarray:
    """A typed array of a figure."""
    values = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])
    if "shape" in packed:
        values = values.reshape([int(size) for size in packed["shape"].split(",")])
    return values


def words(at: AppTest) -> str:
    """All that the page says in words."""
    parts = [*at.markdown, *at.caption, *at.info, *at.warning]
    return "\n".join(part.value for part in parts)


def emo_cells(at: AppTest) -> set[tuple[int, int]]:
    """(position, expert) of the cells of EMO's map."""
    return {(int(p), int(e)) for p, e, *_ in array(charts(at)[MAP]["data"][1]["customdata"])}


@pytest.mark.parametrize("layer", [0, 1])
def test_map_shows_the_experts_of_the_chosen_layer(
    tiny_assets: Path, documents: pd.DataFrame, layer: int
):
    experts = recorded(tiny_assets, documents["text"][2]).expert_ids[layer]
    expected = {(t, int(e)) for t in range(1, len(experts)) for e in experts[t]}
    at = opened(routing_doc=documents["id"][2], routing_layer=str(layer))
    assert emo_cells(at) == expected
    assert len({expert for _, expert in expected}) != experts.max()  # ids are not all in use


def test_first_line_counts_the_experts_that_carry_half(tiny_assets: Path, documents: pd.DataFrame):
    experts = recorded(tiny_assets, documents["text"][0]).expert_ids[:, 1:]
    halves = []
    for layer in experts:
        choices = Counter(layer.ravel().tolist()).most_common()
        carried = np.cumsum([times for _, times in choices])
        halves.append(1 + int((carried < layer.size / 2).sum()))
    sentence = next(part.value for part in opened().markdown if "routing goes to" in part.value)
    assert f"goes to **{np.mean(halves):.1f}** of 15 experts in EMO" in sentence


def test_token_of_a_link_shows_its_loss(tiny_assets: Path, documents: pd.DataFrame):
    loss = recorded(tiny_assets, documents["text"][1]).loss
    said = words(opened(routing_doc=documents["id"][1], routing_token="7"))
    assert f"**{loss[7]:.2f} nats** (" in said
    assert "Token 7 of " in said


def test_choosing_a_token_changes_the_panel_only(documents: pd.DataFrame):
    at = opened()
    before = emo_cells(at)
    at.number_input(key="routing_token").set_value(3).run()
    assert "Token 3 of " in words(at)
    assert "of its routed experts" in charts(at)[0]["layout"]["title"]["text"]
    at.number_input(key="routing_token").set_value(None).run()
    assert emo_cells(at) == before


def test_next_document_is_in_the_address_and_forgets_the_token(documents: pd.DataFrame):
    at = opened(routing_token="4")
    at.button(key="routing_next").click().run()
    assert documents["id"][1] in at.query_params["routing_doc"]
    assert at.number_input(key="routing_token").value is None
    assert at.button(key="routing_previous").disabled is False


def test_domain_narrows_the_documents(documents: pd.DataFrame):
    at = opened(routing_domain="harbour")
    of_domain = documents[documents["domain"] == "harbour"]
    assert at.selectbox(key="routing_choice").value == of_domain["id"].iloc[0]
    assert "Document of harbour" in words(at)


def test_followed_expert_is_underlined(tiny_assets: Path, documents: pd.DataFrame):
    experts = recorded(tiny_assets, documents["text"][0]).expert_ids[1]
    expert = int(experts[5, 0])
    tokens = int((experts[1:] == expert).any(axis=1).sum())
    said = words(opened(routing_layer="1", routing_expert=f"EMO {expert}"))
    assert f"the {tokens} token" in said
    assert f"routes to expert {expert} in layer 1" in said


def test_own_text_comes_from_the_link(tiny_assets: Path):
    text = "soil and seeds, then rain"
    at = opened(routing_source="Your own text", routing_text=text)
    assert at.text_area(key="routing_draft").value == text
    experts = recorded(tiny_assets, text).expert_ids[0]
    assert len(emo_cells(at)) == experts[1:].size


@pytest.mark.parametrize(
    ("text", "sentence"), [("", "No text yet"), ("  \n\t ", "This text is blank")]
)
def test_empty_text_is_no_error(text: str, sentence: str):
    at = opened(routing_source="Your own text")
    at.text_area(key="routing_draft").set_value(text).run()
    assert not at.exception
    assert sentence in words(at)
    assert not at.get("plotly_chart")


def test_a_text_of_one_token_has_no_halves_to_compare():
    at = opened(routing_source="Your own text", routing_text="a")
    assert at.dataframe[0].value["Shared"].tolist() == ["– / –"] * len(at.dataframe[0].value)


def test_long_text_says_what_was_cut():
    at = opened(routing_source="Your own text")
    at.text_area(key="routing_draft").set_value("anchor " * 900).run()
    said = words(at)
    assert "its first 511 tokens are shown" in said
    assert "are cut off" in said


def test_markup_stays_text():
    text = "<script>alert(1)</script> & <b>bold</b>"
    at = opened(routing_source="Your own text", routing_text=text)
    hovers = json.dumps(charts(at)[MAP], ensure_ascii=False)
    assert "<script" not in hovers
    assert "<b>bold" not in hovers
    assert "&lt;" in hovers


@pytest.mark.parametrize("text", ["\u202eevil \u2066x", "\x07\x00 bell", "🙂🙃 emoji", "שלום עולם"])
def test_odd_characters_are_shown(text: str):
    at = opened(routing_source="Your own text")
    at.text_area(key="routing_draft").set_value(text).run()
    assert not at.exception
    drawn = json.dumps(charts(at), ensure_ascii=False)
    assert not set("\u202e\u2066\x07\x00") & set(drawn)
    assert len(at.get("plotly_chart")) == 3


def test_unknown_document_is_said(documents: pd.DataFrame):
    at = opened(routing_doc="no-such <i>document</i>")
    assert "no\\-such \\<i\\>" in at.warning[0].value
    assert at.selectbox(key="routing_choice").value == documents["id"][0]


def test_token_beyond_the_text_is_ignored():
    assert "Choose a token" in words(opened(routing_token="4000"))


def test_token_left_over_from_a_longer_text_is_dropped():
    at = opened()
    at.session_state["routing_token"] = 4000
    at.run()
    assert not at.exception
    assert "Choose a token" in words(at)


def test_missing_assets_are_an_empty_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path))
    at = opened()
    assert "Nothing to show yet" in words(at)
    assert at.code[0].value.startswith("python -m ")


@pytest.mark.parametrize(
    ("param", "asked", "what"),
    [("routing_token", "9999", "token 9999"), ("routing_expert", "EMO 999", "expert EMO 999")],
)
def test_a_token_or_expert_that_is_not_there_is_named(param: str, asked: str, what: str):
    said = "\n".join(part.value for part in opened(**{param: asked}).warning)
    assert f"asks for the {what}" in said


def test_the_experts_of_a_token_are_there_as_a_table(tiny_assets: Path, documents: pd.DataFrame):
    found = recorded(tiny_assets, documents["text"][0])
    at = opened(routing_token="5")
    table = next(one.value for one in at.dataframe if "Choice" in one.value)
    assert table["EMO expert"].tolist() == found.expert_ids[:, 5].ravel().tolist()
    weights = found.gate_weights[:, 5].ravel()
    np.testing.assert_allclose(table["EMO gate weight"], weights, atol=1e-4)


def test_entropy_colours_run_from_the_lowest_to_the_highest_of_both(
    tiny_assets: Path, documents: pd.DataFrame
):
    both = [
        recorded(tiny_assets, documents["text"][0], name).entropy[1, 1:]
        for name in ("emo-nano", "std-nano")
    ]
    said = words(opened(routing_colour="Router entropy, EMO", routing_layer="1"))
    assert f"from {np.min(both):.2f} (pale) to {np.max(both):.2f} nats (deep)" in said


def test_a_file_is_read_like_a_typed_text(tiny_assets: Path):
    at = opened(routing_source="Your own text", routing_text="rain and sun", routing_token="2")
    at.file_uploader(key="routing_file").set_value(("a.txt", b"soil and water", "text/plain")).run()
    assert at.text_area(key="routing_draft").value == "soil and water"
    assert at.number_input(key="routing_token").value is None
    tokens = len(recorded(tiny_assets, "soil and water").loss) - 1
    assert f"Your own text, {tokens} tokens" in words(at)


def test_a_file_that_is_no_text_is_said_and_changes_nothing():
    at = opened(routing_source="Your own text", routing_text="soil")
    at.file_uploader(key="routing_file").set_value(("a.png", b"\x89PNG\xff\xfe", "image/png")).run()
    assert "not text in UTF-8" in "\n".join(part.value for part in at.warning)
    assert at.text_area(key="routing_draft").value == "soil"
