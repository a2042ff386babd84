"""The search page: every hit counted, its lines, where they lead, and what is said of nothing."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.runs.import_trace import Known, import_trace
from emo_viz.runs.record import Options, record
from emo_viz.trace import Trace
from emo_viz.ui.parts import export
from model.run.inference import encode
from model.run.loading import load_tokenizer
from tests.pages.opened import follow_link, run, texts

PAGE = "pages/10_Search.py"


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets, unless it says otherwise."""


@pytest.fixture
def documents(tiny_assets: Path) -> pd.DataFrame:
    return pd.read_parquet(tiny_assets / "documents" / "documents.parquet")


def searched(text: str, kind: str = "Words", **params: str) -> AppTest:
    return follow_link(PAGE, search_text=text, search_for=kind, **params)


def lines(at: AppTest) -> list[dict]:
    given = [json.loads(part.proto.bytes) for part in at.get("bidi_component")]
    return next((each["rows"] for each in given if "rows" in each), [])


def headline(at: AppTest) -> str:
    return next(part.value for part in at.markdown if part.value.startswith("## "))


def test_an_empty_search_says_what_there_is_and_offers_examples(documents: pd.DataFrame):
    at = follow_link(PAGE)
    assert f"{len(documents)} documents of 4 domains" in headline(at)
    assert not lines(at)
    at.button(key="search_example_0").click()
    assert lines(run(at))


def test_all_hits_are_taken_home_as_a_table(
    documents: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, everything_open: None
):
    made: dict[str, pd.DataFrame] = {}
    monkeypatch.setattr(export, "_table", lambda title, make, *_: made.update({title: make()}))
    searched("the")
    counts = documents.set_index("id")["text"].str.count(r"\bthe\b")
    table = made["Hits"]
    assert len(table) == counts.sum() > 25, "more than one page of them"
    found = table["document"].value_counts()
    assert found.to_dict() == counts[counts > 0].to_dict() and set(table["hit"]) == {"the"}
    texts_of = documents.set_index("id")["text"]
    for _, row in table.head(5).iterrows():
        around = f"{row['before'][-8:]}{row['hit']}{row['after'][:8]}"
        assert around.strip("…") in texts_of[row["document"]]
    by_domain = documents.set_index("id")["domain"].loc[table["document"]].value_counts()
    assert made["By domain"].set_index("domain")["hits"].to_dict() == by_domain.to_dict()
    assert export.csv(table).count(b"\n") == len(table) + 1 and export.parquet(table, "of these")


def test_a_word_is_counted_and_each_line_leads_to_its_token(
    documents: pd.DataFrame, tiny_assets: Path
):
    at = searched("anchor")
    hits = documents["text"].str.count(r"\banchor\b")
    assert f"**{hits.sum()} times** in {(hits > 0).sum()} of {len(documents)}" in headline(at)
    rows = lines(at)
    assert len(rows) == min(25, hits.sum()) and {row["hit"] for row in rows} == {"anchor"}
    first = documents[hits > 0].iloc[0]
    tokenizer = load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")
    pieces = encode(tokenizer, first["text"], 500).texts
    place = first["text"].index("anchor")
    token = next(i for i in range(len(pieces)) if len("".join(pieces[: i + 1])) > place)
    address = f"Token_routing?routing_doc={first['id']}&routing_token={token}"
    assert rows[0]["address"] == address
    assert rows[0]["clusters"].endswith(f"cluster_document={first['id']}&cluster_token={token}")


def test_a_domain_and_a_page_are_filters_in_the_address(documents: pd.DataFrame):
    court = documents[documents["domain"] == "court"]
    hits = int(court["text"].str.count(r"\bthe\b").sum())
    at = searched("the", search_domain="court")
    assert f"**{hits} times** in {len(court)} of {len(court)} documents of court" in headline(at)
    first = lines(at)
    at.button(key="search_next").click()
    run(at)
    assert at.query_params["search_page"] in ("2", ["2"])
    assert lines(at) and lines(at) != first
    at.text_input(key="search_text").set_value("every")
    run(at)
    assert "search_page" not in at.query_params


def test_parts_of_words_and_capitals(documents: pd.DataFrame):
    assert "nowhere" in headline(searched("ancho"))
    parts = searched("ANCHO", search_match="Parts of words too")
    assert f"**{documents['text'].str.count('ancho').sum()} times**" in headline(parts)
    typed = searched("ANCHOR", search_match="Whole words, capitals as typed")
    assert "nowhere" in headline(typed)


def test_markup_in_a_text_is_data_and_in_the_headline_escaped():
    at = searched("<b onclick='alert(1)'>soil")
    assert r"\<b onclick" in headline(at) and "**once**" in headline(at)
    row = lines(at)[0]
    assert row["hit"] == "<b onclick='alert(1)'>soil" and row["after"].startswith(" & seeds</b>")
    assert row["direction"] == "ltr"


def test_a_token_is_exact_and_others_that_hold_it_are_offered():
    at = searched("␣the", "Token")
    assert "exactly “␣the”" in headline(at)
    assert {row["hit"] for row in lines(at)} == {" the"}
    none = searched("zzqx", "Token")
    assert "No token is exactly" in headline(none) and not lines(none)
    part = searched("he", "Token")
    buttons = [button for button in part.button if "search_alike" in (button.key or "")]
    assert buttons
    buttons[0].click()
    assert lines(run(part))


@pytest.mark.parametrize("name", ["emo-nano", "std-nano"])
def test_an_expert_is_counted_and_its_tokens_are_those_of_the_model(tiny_assets: Path, name: str):
    trace = Trace.open(tiny_assets / "traces" / name)
    counts = np.rint(trace.activation[:, 1, 3].astype(float) * trace.facts["n_tokens"])
    at = searched("1.3", "Expert", search_run=name, search_domain="kitchen")
    kitchen = counts[trace.facts["domain"] == "kitchen"]
    assert f"**{int(kitchen.sum()):,} token" in headline(at) and "L1 E3" in headline(at)
    (way,) = [each.proto for each in at.main.get("page_link")]
    assert way.page == "Experts" and f"expert_run={name}&expert=1.3" in way.query_string
    rows = lines(at)
    assert len(rows) == min(25, kitchen.sum())
    assert all(row["domain"] == "kitchen" and float(row["note"]) > 0 for row in rows)


def test_the_tokens_of_an_expert_are_the_same_recorded_and_routed_again(
    tiny_assets: Path,
    documents: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    everything_open: None,
):
    made: dict[str, pd.DataFrame] = {}
    monkeypatch.setattr(export, "_table", lambda title, make, *_: made.update({title: make()}))
    at = searched("L1 E3", "Expert")
    again = lines(at)
    assert len(made["Hits of this page"]) == len(again) == 25 and "Hits" not in made
    assert "lines 1 to 25 of" in texts(at), "no one click routes all documents"
    checkpoint = tiny_assets / "checkpoints" / "emo-nano"
    own = tmp_path / "own"
    record(str(checkpoint), documents, own / "traces" / "emo-nano", Options(level="tokens"))
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(own))
    recorded = lines(searched("L1 E3", "Expert"))
    assert len(made["Hits"]) > 25, "what is recorded is taken whole"
    told = ("hit", "before", "after", "address")
    assert [[row[k] for k in told] for row in recorded] == [[row[k] for k in told] for row in again]
    weights = [[float(row["note"]) for row in rows] for rows in (recorded, again)]
    np.testing.assert_allclose(*weights, atol=2e-3)  # a trace keeps them in two bytes
    assert "exactly" in headline(searched("␣the", "Token"))


def test_of_a_domain_an_expert_is_in_so_many_of_its_documents(documents: pd.DataFrame):
    of = int((documents["domain"] == "court").sum())
    said = headline(searched("1.3", "Expert", search_domain="court"))
    assert f" of {of} documents of court." in said


def test_blanks_are_said_and_leave_the_address():
    at = searched("  ", search_page="zzz")
    assert any("which is blank" in each.value for each in at.warning)
    assert "search_text" not in at.query_params
    at = follow_link(PAGE, search_text=["rope", "soil"])
    assert "more than one text to search for, rope and soil" in at.warning[0].value
    none = searched("nobodysays", search_page="zzz")
    assert any("the page zzz, which is not one" in each.value for each in none.warning)
    assert "search_page" not in none.query_params


@pytest.mark.parametrize("text", ["9.0", "1.99", "expert", "1"])
def test_what_is_no_expert_is_said(text: str):
    at = searched(text, "Expert")
    said = headline(at)
    assert ("has no expert" in said or "names no expert" in said) and not lines(at)


def test_documents_and_domains(documents: pd.DataFrame):
    at = searched("court-volume-2", "Document")
    assert "**1 document**" in headline(at)
    assert lines(at)[0]["hit"] == "heldout-court-volume-2"
    domain = searched("harb", "Domain")
    assert f"**{(documents['domain'] == 'harbour').sum()} documents**" in headline(domain)
    none = searched("zzz", "Domain")
    assert "garden, harbour, kitchen" in headline(none)


def test_a_trace_without_texts_says_so_and_finds_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path / "own"))
    ids = np.argsort(np.random.default_rng(0).random((20, 3, 8)), axis=2)[:, :, :2]
    answer = {"id": "one <b>", "prompt_routed_experts": ids.tolist(), "choices": [{"index": 0}]}
    answer["choices"][0]["routed_experts"] = ids[:3].tolist()
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(answer))
    import_trace(path, tmp_path / "own" / "traces" / "qwen", Known(num_experts=8))
    assert "holds no texts" in texts(searched("soil"))
    assert "neither is" in texts(searched("soil", "Token"))
    at = searched("2.5", "Expert")
    expected = int((ids[:, 2] == 5).any(1).sum() + (ids[:3, 2] == 5).any(1).sum())
    assert f"**{expected} token" in headline(at)
    assert [row["name"] for row in lines(at)] == ["one <b>"] * expected


@pytest.mark.parametrize("text", ["x" * 300, ""])
def test_a_text_that_cannot_be_searched_for_is_named(text: str):
    at = follow_link(PAGE, search_text=text)
    assert "searches for" in at.warning[0].value
    assert "to search" in headline(at)
