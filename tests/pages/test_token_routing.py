"""The token routing page: one input changed, the right number changes; odd texts stay texts."""

import base64
import json
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.figures import theme
from emo_viz.server import library, typical
from emo_viz.ui.routing import panel
from emo_viz.ui.shell import routes
from model.run.inference import Recording, encode, record
from model.run.loading import load_model, load_tokenizer
from tests.pages.opened import (
    cards,
    cells,
    charts,
    components,
    follow_link,
    heatmaps,
    looks,
    run,
    strips,
    texts,
)

PAGE = "pages/1_Token_routing.py"
SECONDS = 600
AMONG = typical.among


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


def words(at: AppTest) -> str:
    """All that the page says in words."""
    parts = [*at.markdown, *at.caption, *at.info, *at.warning]
    return "\n".join(part.value for part in parts)


def emo_cells(at: AppTest) -> set[tuple[int, int]]:
    """(position, expert) of the cells of EMO's map."""
    return set(cells(heatmaps(at)[0]["sides"][0]["layers"][0]))


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
    (card,) = cards(opened(routing_doc=documents["id"][1], routing_token="7"))
    assert card["parts"][0]["loss"].startswith(f"{loss[7]:.2f} nats (")
    assert card["title"].startswith("Token 7 of ")


def test_choosing_a_token_changes_the_panel_only(documents: pd.DataFrame):
    at = opened()
    before = emo_cells(at)
    at.number_input(key="routing_token").set_value(3).run()
    assert cards(at)[0]["title"].startswith("Token 3 of ") and looks(at)[0]["selected"] == 3
    assert emo_cells(at) == before
    at.number_input(key="routing_token").set_value(None).run()
    assert emo_cells(at) == before and not cards(at)


def test_next_document_is_in_the_address_and_forgets_the_token(documents: pd.DataFrame):
    at = opened(routing_token="4")
    at.button(key="routing_next").click().run()
    assert documents["id"][1] in at.query_params["routing_doc"]
    assert at.number_input(key="routing_token").value is None
    assert at.button(key="routing_previous").disabled is False


def test_each_source_of_texts_keeps_its_chosen_token():
    at = opened(routing_token="4")
    at.segmented_control(key="routing_source").set_value("Your own text")
    run(at).button(key="routing_example_python_code").click()
    assert run(at).number_input(key="routing_token").value is None
    at.number_input(key="routing_token").set_value(2)
    run(at).segmented_control(key="routing_source").set_value("Held-out document")
    assert run(at).number_input(key="routing_token").value == 4
    at.segmented_control(key="routing_source").set_value("Your own text")
    assert run(at).number_input(key="routing_token").value == 2


def test_a_token_beyond_the_last_is_the_last_and_it_is_said():
    at = opened(routing_token="2")
    at.number_input(key="routing_token").set_value(9999).run()
    (said,) = [part.value for part in at.toast]
    last = len(strips(at)[0]["tokens"])
    assert said == f"There is no token 9,999 here: {last} is the last."
    assert at.number_input(key="routing_token").value == last == looks(at)[0]["selected"]


def test_the_page_opens_on_the_document_of_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(typical, "among", AMONG)
    usual = str(typical.document(library.comparison())["id"])
    assert opened().selectbox(key="routing_choice").value == usual
    domain = "court" if "court" not in usual else "garden"  # one that it is not of
    narrowed = opened(routing_domain=domain).selectbox(key="routing_choice").value
    assert narrowed == f"heldout-{domain}-0"


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
    assert f"sent to L1 E{expert} of EMO." in said


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
    assert "".join(token["text"] for token in strips(at)[0]["tokens"]) == text
    assert "<script" in "".join(heatmaps(at)[0]["tokens"])  # data, written as text
    at.session_state["routing_along_open"] = True
    hovers = json.dumps(charts(run(at))[0], ensure_ascii=False)
    assert "<script" not in hovers and "<b>bold" not in hovers
    assert "&lt;" in hovers


@pytest.mark.parametrize("text", ["\u202eevil \u2066x", "\x07\x00 bell", "🙂🙃 emoji", "שלום עולם"])
def test_odd_characters_are_shown(text: str):
    at = opened(routing_source="Your own text")
    at.text_area(key="routing_draft").set_value(text).run()
    assert not at.exception
    at.session_state["routing_along_open"] = True
    drawn = json.dumps([*charts(run(at)), *heatmaps(at), *strips(at)], ensure_ascii=False)
    assert not set("\u202e\u2066\x07\x00") & set(drawn)
    assert len(heatmaps(at)) == 1 and len(charts(at)) == 2


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
    bars = cards(at)[0]["parts"][0]["bars"]
    assert [bar["experts"] for bar in bars] == found.expert_ids[:, 5].tolist()
    at.session_state["routing_table_open"] = True
    table = next(one.value for one in run(at).dataframe if "Choice" in one.value)
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


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x89PNG\xff\xfe", "not text in UTF-8"), (b"", "empty"), (b"a\x00b", "not text in UTF-8")],
)
def test_a_file_that_is_no_text_is_said_and_changes_nothing(content: bytes, said: str):
    at = opened(routing_source="Your own text", routing_text="soil", routing_token="1")
    at.file_uploader(key="routing_file").set_value(("a.png", content, "image/png")).run()
    assert said in "\n".join(part.value for part in at.warning)
    assert at.text_area(key="routing_draft").value == "soil"
    assert at.number_input(key="routing_token").value == 1


def test_a_file_in_another_encoding_is_read_and_it_is_said():
    at = opened(routing_source="Your own text")
    content = "Grüße und Wasser".encode("latin-1")
    at.file_uploader(key="routing_file").set_value(("a.txt", content, "text/plain")).run()
    assert at.text_area(key="routing_draft").value == "Grüße und Wasser"
    assert "read as Latin-1" in texts(at)


def test_a_text_of_two_kinds_opens_as_a_whole_and_no_other_does():
    def whole(at: AppTest) -> bool:
        return bool(heatmaps(run(at))[0]["whole"])

    mixed = opened(**routes.routing_of_mixed("int x;\n\nThe tide is high."))
    assert whole(mixed) and "routing_rows" in mixed.query_params
    mixed.button(key="routing_example_recipe").click()
    assert not whole(mixed) and "routing_rows" not in mixed.query_params
    mixed.button(key="routing_example_recipe,_then_code").click()
    assert whole(mixed)
    mixed.segmented_control(key="routing_source").set_value("Held-out document")
    assert not whole(mixed)
    mixed.segmented_control(key="routing_source").set_value("Your own text")
    assert whole(mixed)


def test_an_example_fills_the_field_and_is_read():
    at = opened(routing_source="Your own text")
    at.button(key="routing_example_recipe").click()
    run(at)
    assert at.text_area(key="routing_draft").value.startswith("Lentil soup")
    assert "".join(token["text"] for token in strips(at)[0]["tokens"]).startswith("Lentil soup")
    assert not strips(at)[0]["code"]
    at.button(key="routing_example_python_code").click()
    assert strips(run(at))[0]["code"]


def test_what_is_said_of_a_text_and_its_link_is_true():
    said = texts(opened(routing_source="Your own text"))
    assert "address carries the text" in said and "stays on this machine" not in said


def test_experts_are_ordered_by_use_and_on_request_by_id(
    tiny_assets: Path, documents: pd.DataFrame
):
    def order(at: AppTest) -> list[int]:
        layer = heatmaps(at)[0]["sides"][0]["layers"][0]
        return np.frombuffer(base64.b64decode(layer["order"]), "<u2").tolist()

    found = recorded(tiny_assets, documents["text"][0])
    ids, weights = found.expert_ids[-1, 1:].ravel(), found.gate_weights[-1, 1:].ravel()
    mass = np.bincount(ids, weights, minlength=max(order(opened())) + 1)
    assert order(opened()) == np.argsort(-mass, kind="stable").tolist()
    assert order(opened(routing_order="By id")) == sorted(order(opened()))


def test_a_text_opens_at_the_layer_that_home_opens_at(tiny_assets: Path):
    home = next(each for each in components(follow_link("")) if "notch" in each and "of" in each)
    for side in heatmaps(opened())[0]["sides"]:
        assert [layer["number"] for layer in side["layers"]] == [home["layer"]] == [1]


def test_all_layers_are_small_pictures(tiny_assets: Path, documents: pd.DataFrame):
    found = recorded(tiny_assets, documents["text"][0], "std-nano").expert_ids
    side = heatmaps(opened(routing_picture="All layers"))[0]["sides"][1]
    assert [layer["number"] for layer in side["layers"]] == list(range(len(found)))
    assert side["scale"] == [colour for _, colour in theme.shades_of(theme.AMBER)]
    for layer, ids in zip(side["layers"], found, strict=True):
        assert set(cells(layer)) == {(t, int(e)) for t in range(1, len(ids)) for e in ids[t]}


@pytest.mark.parametrize("match", ["Matched by use", "By id"])
def test_a_difference_is_the_first_less_the_second(
    tiny_assets: Path, documents: pd.DataFrame, match: str
):
    shown = {} if match == "Matched by use" else {"routing_match": match}  # two models: by use
    given = heatmaps(opened(routing_picture="Difference", routing_layer="0", **shown))[0]
    emo, std = (
        recorded(tiny_assets, documents["text"][0], name) for name in ("emo-nano", "std-nano")
    )
    dense = np.zeros((2, emo.expert_ids.shape[1], 256))
    for weights, one in zip(dense, (emo, std), strict=True):
        np.put_along_axis(weights, one.expert_ids[0].astype(int), one.gate_weights[0], axis=1)
    ends = [given["sides"][0]["scale"][end] for end in (0, -1)]
    assert ends == [theme.with_alpha(colour, 1.0) for colour in (theme.AMBER, theme.TEAL)]
    names = given["sides"][0]["layers"][0]["names"]
    assert bool(names) == (match == "Matched by use")
    for column, name in enumerate(names):  # "5=7": the second's 7 stands where the first's 5 does
        first, _, second = name.partition("=")
        for side, expert in enumerate((first, second)):
            dense[side, :, 128 + column] = dense[side, :, int(expert)] if expert else 0
    expected = (dense[0] - dense[1])[:, 128 if names else 0 :]
    shown = cells(given["sides"][0]["layers"][0])
    assert set(shown) == {(t, e) for t, e in np.argwhere(expected != 0).tolist() if t}
    for (token, expert), level in shown.items():
        root = (level - 128) / 127
        assert given["top"] * root * abs(root) == pytest.approx(expected[token, expert], abs=0.01)


def test_the_table_of_two_runs_has_room_in_a_window_of_900_pixels():
    both = panel._columns(SimpleNamespace(runs=library.default()))
    assert len(both) == 6 and sum(one["width"] for one in both.values()) <= 330


def test_one_run_has_no_difference_to_choose():
    at = opened(routing_picture="Difference", b="none")
    assert at.segmented_control(key="routing_picture").options == ["One layer", "All layers"]
    assert "asks for the picture Difference, which is not here" in texts(at)
    assert [side["label"] for side in heatmaps(at)[0]["sides"]] == ["EMO"]


def test_a_followed_expert_is_of_one_layer_and_says_so_in_another(
    tiny_assets: Path, documents: pd.DataFrame
):
    experts = recorded(tiny_assets, documents["text"][0]).expert_ids
    expert = int(experts[0, 5, 0])
    at = opened(routing_layer="0", routing_expert=f"EMO {expert}")  # as links were before
    marked = [token["marked"] for token in strips(at)[0]["tokens"]]
    assert marked == (experts[0, 1:] == expert).any(axis=1).tolist()
    assert at.query_params["routing_expert"] == f"EMO L0 E{expert}"
    at.segmented_control(key="routing_layer").set_value(1)
    run(at)
    assert [token["marked"] for token in strips(at)[0]["tokens"]] == marked
    assert looks(at)[0]["followed"] == {"run": "emo-nano", "layer": 0, "expert": expert}
    assert f"sent to L0 E{expert} of EMO; layer 1 is shown." in texts(at)
    assert f"L0 E{expert}, EMO" in at.selectbox(key="routing_expert").options


@pytest.mark.parametrize(
    ("param", "asked"),
    [
        ("routing_source", "A book"),
        ("routing_domain", "nowhere"),
        ("routing_doc", ""),
        ("routing_layer", "99"),
        ("routing_order", "By size"),
        ("routing_colour", "Taste"),
        ("routing_picture", "A film"),
        ("routing_token", "0"),
        ("routing_expert", "EMO L0 E999"),
        ("routing_expert", "EMO L9 E1"),
        ("routing_expert", "Nobody 3"),
    ],
)
def test_what_a_link_asks_for_in_vain_is_named(param: str, asked: str):
    at = opened(**{param: asked})
    (said,) = [part.value.replace("\\", "") for part in at.warning]
    assert (asked or "(nothing)") in said and "which is not" in said
    if param in ("routing_token", "routing_expert"):
        assert "none is chosen" in said and not cards(at)


def test_the_way_to_the_cut_carries_the_token(documents: pd.DataFrame):
    at = opened(routing_token="5")
    links = [part.proto for part in at.get("page_link")]
    (cut,) = [link for link in links if link.label.startswith("Cut the models on")]
    assert "subset_token=5" in cut.query_string
    assert f"subset_document={documents['id'][0]}" in cut.query_string


def test_colours_of_better_and_worse_have_a_second_mark(tiny_assets: Path, documents: pd.DataFrame):
    emo, std = (
        recorded(tiny_assets, documents["text"][0], name).loss[1:]
        for name in ("emo-nano", "std-nano")
    )
    leans = np.array([token["lean"] for token in strips(opened())[0]["tokens"]])
    assert set(leans[std > emo]) <= {0, 1} and set(leans[std < emo]) <= {0, -1}
    assert leans[np.argmax(std - emo)] == 1 and leans[np.argmin(std - emo)] == -1
