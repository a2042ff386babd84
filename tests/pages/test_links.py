"""Links: whatever one asks for, the page opens; what a visitor types outlives a change of page."""

import os
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.server import assets
from emo_viz.ui.shell.words import escape_markdown
from tests.pages.opened import follow_link, run, texts

ROUTING, CLUSTERS, ABLATION, KERNEL, DIFFERENCE, SEARCH = (
    "pages/1_Token_routing.py",
    "pages/2_Document_clusters.py",
    "pages/3_Subset_ablation.py",
    "pages/4_Kernel.py",
    "pages/7_Routing_difference.py",
    "pages/10_Search.py",
)
PARAMS = {
    ROUTING: {
        "routing_source": "text",
        "routing_domain": "domain",
        "routing_doc": "document",
        "routing_layer": "layer",
        "routing_token": "token",
        "routing_expert": "expert",
        "routing_order": "order",
        "routing_rows": "tokens shown",
        "routing_colour": "colour",
    },
    CLUSTERS: {
        "cluster_level": "view",
        "cluster_tokens": "selects tokens",
        "cluster_token_colour": "colouring",
        "cluster_token_k": "number of clusters",
        "cluster_layer": "layer",
        "cluster_domain": "domain",
        "cluster_highlight": "token",
        "cluster_document": "document",
        "cluster_token": "token",
        "cluster_reader": "colouring",
    },
    ABLATION: {
        "subset_domain": "domain",
        "subset_method": "method",
        "k": "experts a layer",
        "subset_document": "document",
        "subset_token": "token",
        "subset_view": "curve",
    },
    DIFFERENCE: {
        "difference_of": "comparison",
        "difference_source": "text",
        "difference_domain": "domain",
        "difference_documents": "number of documents",
        "difference_experts": "matching of experts",
        "difference_document": "document",
        "difference_token": "token",
        "difference_colour": "colour of the text",
    },
    SEARCH: {
        "search_view": "view",
        "search_for": "kind of search",
        "search_match": "matching of words",
        "search_domain": "domain",
        "pins": "pin",
    },
    KERNEL: {"kernel_arch": "architecture", "kernel_size": "layer"},
}
NASTY = ["Infinity", "", "-1", "9" * 300, "²", "8.5", "<b>🙂</b> \u202e:red[x]"]


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path) -> None:
    """Every test here reads the tiny assets."""


@pytest.fixture
def with_report(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same assets with the bundled kernel report."""
    shutil.copytree(tiny_assets, tmp_path / "assets")
    report = assets.APP_FOLDER / "assets" / "analysis" / "kernel_report.json"
    shutil.copy(report, tmp_path / "assets" / "analysis")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "assets"))


@pytest.mark.usefixtures("with_report")
@pytest.mark.parametrize("page", PARAMS)
@pytest.mark.parametrize("asked", NASTY, ids=[repr(text)[:12] for text in NASTY])
def test_a_link_that_asks_in_vain_opens_the_page_and_is_named(page: str, asked: str):
    at = follow_link(page, **dict.fromkeys(PARAMS[page], asked))
    said = [warning.value for warning in at.warning]
    for name, what in PARAMS[page].items():
        if name == "cluster_tokens" and not asked:
            continue  # an empty selection is one
        assert any(what in sentence for sentence in said), (what, said)
    plain = follow_link(page)
    assert texts(at).replace("\n".join(said), "").strip() == texts(plain).strip()
    assert asked not in at.query_params.values()


@pytest.mark.parametrize("page", [ROUTING, CLUSTERS, ABLATION])
def test_a_link_that_asks_twice_opens_the_page(page: str):
    at = follow_link(page, **{name: ["Infinity", "2"] for name in PARAMS[page]})
    assert len(at.warning) >= len(PARAMS[page]) - 1


def test_documents_have_their_own_parameters():
    asked = {
        "cluster_selection": "selects documents",
        "cluster_colour": "colouring",
        "cluster_map": "map",
        "cluster_layer": "layer",
        "cluster_k": "number of clusters",
    }
    at = follow_link(CLUSTERS, cluster_level="Documents", **dict.fromkeys(asked, "NaN"))
    said = [warning.value for warning in at.warning]
    assert all(any(what in sentence for sentence in said) for what in asked.values())


UNREAD = {
    ROUTING: {"routing_text": "zz", "routing_tokn": "5", "run": "zz"},
    CLUSTERS: {"cluster_k": "zz", "cluster_selection": "zz"},
    ABLATION: {"subset_text": "zz"},
    DIFFERENCE: {"difference_text": "zz"},
}


@pytest.mark.parametrize("page", UNREAD)
def test_what_this_view_of_a_page_does_not_read_is_named_and_kept(page: str):
    at = follow_link(page, **UNREAD[page])
    (said,) = [warning.value for warning in at.warning]
    assert all(escape_markdown(name) in said for name in UNREAD[page])
    assert all(at.query_params[name] in (text, [text]) for name, text in UNREAD[page].items())
    assert not run(at).warning


def test_every_unread_parameter_is_named():
    """Also on a page that ends early, for want of a text."""
    many = {f"unknown_{number}": f"value {number}" for number in range(9)}
    early = {"routing_source": "Your own text", "routing_token": "zz", "routing_layer": ""}
    for asked in (many, early | many):
        (said,) = [each.value for each in follow_link(ROUTING, **asked).warning]
        unread = many if asked is many else many | {"routing_token": "zz", "routing_layer": ""}
        for name, value in unread.items():
            assert f"{escape_markdown(name)} ({value or 'nothing'})" in said


def walk(at: AppTest, page: str) -> AppTest:
    """To another page by the sidebar, whose links carry nothing."""
    at.query_params.clear()
    at.switch_page(page)
    return run(at)


@pytest.mark.parametrize(
    ("page", "start", "draft"),
    [
        (ROUTING, {"routing_source": "Your own text"}, "routing_draft"),
        (ABLATION, {"subset_document": "own"}, "subset_draft"),
    ],
)
@pytest.mark.parametrize("length", [1, 300, 3000])
def test_a_text_outlives_a_change_of_page_and_a_reload(
    page: str, start: dict[str, str], draft: str, length: int
):
    text = "".join(chr(0x4E00 + (7 * i * i) % 5000) for i in range(length)) + " anchor"
    at = follow_link(page, **start)
    at.text_area(key=draft).set_value(text).run()
    assert walk(walk(at, CLUSTERS), page).text_area(key=draft).value == text
    again = follow_link(page, **dict(at.query_params))
    assert again.text_area(key=draft).value == text
    assert texts(again) == texts(at)


def test_a_text_outlives_a_link_to_a_document():
    at = follow_link(ROUTING, routing_source="Your own text")
    at.text_area(key="routing_draft").set_value("anchor and rope").run()
    walk(at, CLUSTERS)
    at.query_params["routing_doc"] = "heldout-court-1"
    at.switch_page(ROUTING)
    run(at)
    assert at.selectbox(key="routing_choice").value == "heldout-court-1"
    at.session_state["routing_source"] = "Your own text"
    assert run(at).text_area(key="routing_draft").value == "anchor and rope"


def test_a_link_whose_text_is_gone_says_so():
    at = follow_link(ROUTING, routing_source="Your own text", routing_text="~k." + "0" * 32)
    assert "paste the text again" in at.warning[0].value
    assert "No text yet" in texts(at)


def test_choices_outlive_a_change_of_page():
    at = follow_link(ABLATION, k="8", subset_domain="court")
    at.session_state["k"] = 12
    at.run()
    walk(walk(at, ROUTING), ABLATION)
    assert at.session_state["k"] == 12 and at.query_params["k"] == "12"
    assert at.selectbox(key="subset_domain").value == "court"
    assert at.query_params["k"] in ("12", ["12"])


def test_a_huge_text_is_kept_in_part_and_says_so():
    at = follow_link(ROUTING, routing_source="Your own text")
    at.text_area(key="routing_draft").set_value("anchor rope " * 20_000).run()
    assert len(at.text_area(key="routing_draft").value) == 100_000
    assert "Of 240,000 characters the first 100,000 are kept" in at.warning[0].value
    assert not run(at).warning


def test_a_new_text_has_no_token_of_the_old_one():
    at = follow_link(ROUTING, routing_source="Your own text", routing_text="a b c d e f g")
    at.number_input(key="routing_token").set_value(3).run()
    at.text_area(key="routing_draft").set_value("").run()
    at.text_area(key="routing_draft").set_value("soil and seeds and rain").run()
    assert at.number_input(key="routing_token").value is None
    assert "routing_token" not in at.query_params


@pytest.mark.parametrize("page", [ROUTING, CLUSTERS, ABLATION])
def test_a_control_hears_its_value_from_a_link_and_not_again(page: str):
    """Said once more, it would undo what a visitor chooses meanwhile."""
    at = follow_link(page)
    assert told(at)
    assert not told(run(at))


def told(at: AppTest) -> list[str]:
    """The controls that a run gives their values."""
    drawn = [*at.get("button_group"), *at.selectbox, *at.number_input]
    return [each.label for each in drawn if each.proto.set_value]
