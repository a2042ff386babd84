"""The tour turns its five pages with their state, and stories open what they say."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.analysis import stories
from emo_viz.analysis.curves import Curves
from emo_viz.server import library
from emo_viz.server.assets import APP_FOLDER
from emo_viz.ui.home.stories import offered
from emo_viz.ui.shell import chrome, routes, tour
from model.run.loading import load_tokenizer
from tests.pages.ablation_page import slider
from tests.pages.opened import follow_link, run, texts


def step(at: AppTest) -> str:
    return "".join(re.findall(r"Tour, \d of 5: [^.]+", texts(at)))


def param(at: AppTest, name: str) -> str:
    """AppTest has a list of what a test has set, and a text of what a page has."""
    value = at.query_params[name]
    return value if isinstance(value, str) else "".join(value)


def test_the_tour_visits_five_pages_and_back(tiny_assets: Path):
    at = follow_link("")
    assert not step(at)
    at.button(key="tour_begin").click()
    assert step(run(at)) == "Tour, 1 of 5: Take experts away"
    seen = [step(at)]
    for number in range(2, 6):
        at.button(key="tour_next").click()
        seen.append(step(run(at)))
        assert param(at, "tour") == str(number)
    assert len(set(seen)) == 5 and at.button(key="tour_next").label == "Finish"
    at.button(key="tour_previous").click()
    assert step(run(at)) == seen[3]
    at.button(key="tour_next").click()
    run(at)
    at.button(key="tour_next").click()
    assert not step(run(at)) and not at.query_params and at.title[0].value == "Overview"
    at.button(key="tour_begin").click()
    run(at)
    at.button(key="tour_end").click()
    assert not step(run(at)) and "tour" not in at.query_params


def test_a_step_opens_the_document_of_the_first_screen(tiny_assets: Path):
    at = follow_link("", tour="1")
    shown = re.search(r"id ([\w\\-]+)", texts(at))
    assert shown
    document = shown[1].replace("\\", "")
    at.button(key="tour_next").click()
    assert param(run(at), "routing_doc") == document


def test_links_and_the_tour_lead_to_what_the_first_screen_shows(tiny_assets: Path):
    asked = {"home_document": "heldout-garden-1", "home_k": "6", "home_token": "3"}
    at = follow_link("", tour="1", home_layer="0", **asked)
    ways = {link.proto.label: link.proto.query_string for link in at.get("page_link")}
    routing, cut = ways["See this text, token by token"], ways["Choose a subset of the experts"]
    assert parse_qs(routing) == {
        "routing_doc": ["heldout-garden-1"],
        "routing_token": ["3"],
        "routing_layer": ["0"],
    }
    assert parse_qs(cut) == {
        "subset_document": ["heldout-garden-1"],
        "k": ["6"],
        "subset_token": ["3"],
    }
    at.button(key="tour_next").click()
    assert param(run(at), "routing_doc") == "heldout-garden-1"
    at.button(key="tour_next").click()
    run(at)
    at.button(key="tour_next").click()
    assert not run(at).warning and slider(at)["position"] == 6
    assert param(at, "subset_document") == "heldout-garden-1"


@pytest.mark.parametrize("asked", ["0", "6", "two", ""])
def test_an_unknown_step_is_one_sentence(tiny_assets: Path, asked: str):
    at = follow_link("", tour=asked)
    said = [part.value for part in at.warning]
    assert len(said) == 1 and "step of the tour" in said[0]
    assert not step(at)


def test_whoever_goes_elsewhere_has_left_the_tour(tiny_assets: Path):
    at = follow_link("", tour="1")
    at.query_params.clear()
    at.switch_page("pages/6_Library.py")
    assert not step(run(at))


def test_every_step_is_a_page_of_the_app(tiny_assets: Path):
    known = {path for path, *_ in chrome.PAGES}
    runs = library.default()
    pages = [each.page for each in tour.steps(runs)]
    assert len(pages) == tour.STEPS == len(set(pages)) and set(pages) <= known


def test_stories_open_what_they_say(tiny_assets: Path, curves: Curves):
    shown = {story.label.replace("\\", ""): story for story in offered(library.default())}
    cost = stories.dearest(curves.rows, "emo-nano", 16)
    assert cost is not None
    dearest = next(story for label, story in shown.items() if "cut costs most" in label)
    at = follow_link(dearest.page, **dearest.params)
    assert at.selectbox(key=routes.SUBSET_DOMAIN).value == cost.domain
    assert slider(at)["position"] == cost.keep_k
    cut = next(story for label, story in shown.items() if "cut to" in label)
    at = follow_link(cut.page, **cut.params)
    assert not at.warning and cut.params[routes.SUBSET_DOCUMENT] in texts(at).replace("\\", "")
    tokens = next(story for label, story in shown.items() if "map of all tokens" in label)
    at = follow_link(tokens.page, **tokens.params)
    assert not at.warning
    assert at.multiselect(key=routes.CLUSTER_DOMAIN).value == [tokens.params[routes.CLUSTER_DOMAIN]]


def test_what_lacks_is_not_offered(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "assets"
    shutil.copytree(tiny_assets, folder)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    labels = [story.label for story in offered(library.default())]
    assert any("cut costs most" in label for label in labels)
    (folder / "analysis" / "curves.parquet").unlink()
    (folder / "analysis" / "token_map.npz").unlink()
    assert not offered(library.default())  # tiny texts are of one kind, too


def test_code_and_prose_come_from_two_domains():
    texts = {
        "notes": "We walked along the river and talked of the weather. " * 20,
        "code_go": "if (a[i] == b) { return f(x); }\n" * 30,
        "maths": "( ( A -> B ) /\\ ( B -> C ) ) |- $.\n" * 30,
        "russian": "Мы шли вдоль реки. " * 30,
    }
    rows = [{"domain": domain, "text": text} for domain, text in texts.items()]
    found = stories.mixed(pd.DataFrame(rows))
    assert found and (found.first, found.second) == ("code_go", "notes")
    first, second = found.text.split("\n\n")
    assert texts["code_go"].startswith(first) and texts["notes"].startswith(second)
    assert max(len(first), len(second)) <= stories.PART
    assert stories.mixed(pd.DataFrame(rows[:1])) is None


def test_the_dearest_domain_is_that_of_the_largest_increase(curves: Curves):
    found = stories.dearest(curves.rows, "std-nano", 8)
    assert found and found.keep_k == 8
    rows = curves.rows[curves.rows["model"].astype(str) == "std-nano"]
    rows = rows[rows["domain"].astype(str) == found.domain]
    nats = {
        method: rows[(rows["method"] == method) & rows["keep_k"].isin([8, 16])]
        for method in ("full", "router_probability")
    }
    cut = nats["router_probability"][nats["router_probability"]["keep_k"] == 8]
    whole = nats["full"]
    increase = (cut["loss_sum"].sum() - whole["loss_sum"].sum()) / whole["tokens"].sum()
    assert found.increase == pytest.approx(increase, abs=1e-5)


def test_the_bundled_models_read_all_of_the_text_of_two_domains():
    assets = APP_FOLDER / "assets"
    found = stories.mixed(pd.read_parquet(assets / "documents" / "documents.parquet"))
    assert found is not None
    tokenizer = load_tokenizer(assets / "checkpoints" / "emo-nano")
    assert len(tokenizer(found.text)["input_ids"]) < 256  # the rows that they were trained on
