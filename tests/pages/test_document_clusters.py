"""The document clusters page, documents: its numbers are those of the traces, whatever is asked."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import normalized_mutual_info_score
from streamlit.testing.v1 import AppTest

from emo_viz.__main__ import main
from emo_viz.analysis.clusters import match_clusters, spherical_kmeans
from emo_viz.analysis.projection import load_maps
from emo_viz.analysis.quality import quality
from emo_viz.analysis.tokens import load_token_clusters
from emo_viz.analysis.vectors import flatten_usage
from emo_viz.trace import Trace
from model.run.inference import encode, record
from model.run.loading import load_model, load_tokenizer
from tests.pages.opened import (
    charts,
    drawn_points,
    follow_link,
    looks,
    marked,
    numbers,
    run,
    sent_maps,
    strips,
    texts,
    told,
)
from tests.recipes import routing_vectors

PAGE = "pages/2_Document_clusters.py"
RUNS = ("emo-nano", "std-nano")


@pytest.fixture(scope="module", autouse=True)
def folder(tiny_assets: Path) -> Path:
    return tiny_assets


def opened(**params: str | list[str]) -> AppTest:
    """The page as the first request of a visitor who follows a link."""
    return follow_link(PAGE, cluster_level="Documents", **params)


def trace(folder: Path, name: str) -> Trace:
    return Trace.open(folder / "traces" / name)


def expected_nmi(folder: Path, name: str, k: int, layer: int | None = None) -> str:
    """As the page writes it, by another implementation of NMI."""
    one = trace(folder, name)
    found = spherical_kmeans(routing_vectors(flatten_usage(one.usage, layer)), k)
    return f"**{normalized_mutual_info_score(one.documents['domain'], found.labels):.2f} ["


def answer(at: AppTest) -> str:
    return next(part.value for part in at.caption if "agree with the domain" in part.value)


def headline(at: AppTest) -> str:
    return next(part.value for part in at.markdown if part.value.startswith("## "))


def opens(at: AppTest) -> str:
    """What the button of the highlight says."""
    popovers = (each.proto.popover.label for each in at.get("popover"))
    return next(label for label in popovers if label.startswith("Highlight"))


def listed(at: AppTest) -> list[str]:
    return at.dataframe[0].value["id"].tolist()


def test_answer_is_computed_from_the_traces(folder: Path):
    said = answer(at := opened())
    for name in RUNS:
        assert expected_nmi(folder, name, 12) in said
    tokens = trace(folder, "emo-nano").manifest.tokens
    assert f"12 clusters with 4 domains, 24 documents, {tokens:,} tokens" in texts(at)


def test_the_headline_is_of_documents_and_of_tokens_whatever_is_asked_for(folder: Path):
    at = opened(cluster_k="3")
    said = headline(at)
    for name in RUNS:
        assert f"**{expected_nmi(folder, name, 12)[2:6]}** in" in said
        stored = load_token_clusters(folder / "analysis" / f"clusters-{name}.npz")
        assert f"**{stored.agreements['domain'].nmi.mean:.2f}** in" in said
    assert "Whole documents cluster by domain" in said and ". Single tokens cluster" in said
    assert said.count("NMI") == 2 and "(NMI, 1 if the clusters are the domains: " in said
    assert headline(follow_link(PAGE)) == said


def test_number_of_clusters_changes_the_answer(folder: Path):
    at = opened(cluster_part="Clusters")
    at.slider(key="cluster_k").set_value(3)
    said = answer(run(at))
    assert all(expected_nmi(folder, name, 3) in said for name in RUNS)
    assert len(at.dataframe[0].value) == len(at.dataframe[1].value) == 3


def test_one_layer_has_its_own_answer_and_map(folder: Path):
    at = opened(cluster_layer="1", cluster_k="4")
    assert expected_nmi(folder, "emo-nano", 4, layer=1) in answer(at)
    stored = load_maps(folder / "analysis" / "maps.npz")
    drawn = [place for _, place in drawn_points(sent_maps(at)["panels"][0])]
    assert np.allclose(drawn, stored.places["emo-nano"][2], atol=1e-3)


def test_highlighting_dims_the_others_and_changes_nothing_else(folder: Path):
    at = opened()
    before = sent_maps(at)
    at.multiselect(key="cluster_domain").set_value(["harbour"])
    domains = trace(folder, "emo-nano").documents["domain"]
    assert marked(run(at), "highlight") == np.flatnonzero(domains == "harbour").tolist()
    assert sent_maps(at) == before


def test_a_link_highlights_several_domains(folder: Path):
    at = opened(cluster_domain=["harbour", "court", "atlantis"])
    assert "All domains but harbour, court recede" in texts(at)
    assert opens(at) == "Highlight: 2 domains"
    assert told(at)["said"] == "all layers · 12 clusters · highlighted: harbour, court"
    assert "asks for the domain atlantis" in texts(at)
    domains = trace(folder, "emo-nano").documents["domain"]
    chosen = domains.isin(["harbour", "court"])
    assert marked(at, "highlight") == np.flatnonzero(chosen).tolist()


@pytest.mark.parametrize(
    ("colour", "sign"),
    [
        ("Cluster", ": "),
        ("Top expert", "L"),
        ("Domain", "garden"),
        ("Source", ""),
        ("Entropy", " nats"),
        ("Spread", " experts"),
    ],
)
def test_every_row_is_in_one_group_of_the_legend(colour: str, sign: str):
    for panel in sent_maps(opened(cluster_colour=colour))["panels"]:
        groups = [group for group, _ in drawn_points(panel)]
        assert {each["name"]: each["size"] for each in panel["groups"]} == {
            name: groups.count(name) for name in set(groups)
        }
        assert any(sign in group for group in groups), groups


@pytest.mark.parametrize("colour", ["Entropy", "Spread"])
def test_a_value_has_the_same_colour_and_limits_on_both_maps(colour: str):
    first, second = (
        {each["colour"]: each["name"] for each in panel["groups"]}
        for panel in sent_maps(opened(cluster_colour=colour))["panels"]
    )
    shared = first.keys() & second.keys()
    assert shared and all(first[each] == second[each] for each in shared)
    assert len(first | second) == len(set((first | second).values()))


def test_every_cluster_has_a_name_on_its_map_that_can_be_shortened():
    for panel in sent_maps(opened(cluster_colour="Cluster"))["panels"]:
        labels = {label["name"]: label["texts"] for label in panel["labels"]}
        assert labels.keys() == {group["name"] for group in panel["groups"]}
        assert all(texts[-1] == name.split(":")[0] for name, texts in labels.items())


def test_the_table_of_clusters_has_their_names():
    at = opened(cluster_part="Clusters", cluster_colour="Cluster")
    for frame, panel in zip(at.dataframe, sent_maps(at)["panels"], strict=True):
        names = {name.split(": ")[0] for name in frame.value["cluster"]}
        assert names == {group["name"].split(": ")[0] for group in panel["groups"]}


def test_clusters_that_match_look_alike_in_both_maps():
    looks = [
        {each["name"].split(":")[0]: (each["colour"], each["symbol"]) for each in panel["groups"]}
        for panel in sent_maps(opened(cluster_colour="Cluster"))["panels"]
    ]
    assert looks[0] == looks[1] and len(set(looks[0].values())) == 12


def test_documents_selected_by_a_link_are_listed_and_drawn():
    chosen = ["heldout-garden-1", "heldout-court-4"]
    at = opened(cluster_selection=",".join(chosen))
    assert sorted(listed(at)) == sorted(chosen)
    assert "2 documents selected" in texts(at)
    assert told(at)["said"] == "all layers · 12 clusters · 2 documents selected"
    assert opens(at) == "Highlight and map"
    ids = sent_maps(at)["ids"]
    assert sorted(ids[row] for row in marked(at, "selected")) == sorted(chosen)
    at.button(key="cluster_selection_clear").click()
    assert len(listed(run(at))) == 24
    assert "cluster_selection" not in at.query_params


def test_a_region_without_documents_says_so():
    at = opened(cluster_selection="none")
    assert "No document lies in this region" in texts(at)
    assert len(at.dataframe) == 0 and marked(at, "selected") is None
    assert at.button(key="cluster_selection_read").disabled


def test_a_link_to_lost_documents_selects_nothing():
    at = opened(cluster_selection="gone", cluster_document="lost")
    assert "selects documents gone, which are not here" in texts(at)
    assert "asks for the document lost, which is not here" in texts(at)
    assert len(listed(at)) == 24 and not strips(at)


def test_nothing_is_read_until_it_is_asked_for():
    at = opened(cluster_selection="heldout-garden-1,heldout-court-4")
    assert not strips(at) and "cluster_document" not in at.query_params
    at.button(key="cluster_selection_read").click()
    assert len(strips(run(at))) == 2
    assert at.query_params["cluster_document"] == listed(at)[0]


def test_the_reader_shows_the_document_of_the_link(folder: Path):
    at = opened(cluster_document="heldout-kitchen-2")
    row = trace(folder, "emo-nano").documents.set_index("id").loc["heldout-kitchen-2"]
    text = "".join(token["text"] for token in strips(at)[0]["tokens"])
    assert text == row["text"]
    for name, strip in zip(RUNS, strips(at), strict=True):
        path = folder / "checkpoints" / name
        ids = encode(load_tokenizer(path), row["text"], 256).token_ids
        probs = record(load_model(path), ids).router_probs[:, 1:]
        stored = load_token_clusters(folder / "analysis" / f"clusters-{name}.npz")
        clusters = [int(token["title"].split(" ")[1][:-1]) for token in strip["tokens"]]
        assert clusters == stored.assign(probs).tolist()


def test_next_document_goes_through_the_listed_ones():
    chosen = ["heldout-garden-1", "heldout-court-4"]
    at = opened(cluster_selection=",".join(chosen))
    order = listed(at)
    at.button(key="cluster_selection_read").click()
    run(at)
    assert at.button(key="cluster_previous").disabled
    at.button(key="cluster_next").click()
    run(at)
    assert at.query_params["cluster_document"] == order[1]
    assert at.button(key="cluster_next").disabled


def test_the_token_of_a_link_is_picked_until_another_document_is_opened():
    at = opened(cluster_token="3", cluster_document="heldout-garden-0")
    assert [look["selected"] for look in looks(at)] == [3, 3]
    links = [part.proto for part in at.get("page_link")]
    (link,) = [link for link in links if link.label.startswith("Token routing of")]
    assert "routing_token=3" in link.query_string
    at.button(key="cluster_next").click()
    run(at)
    assert [look["selected"] for look in looks(at)] == [None, None]
    assert "cluster_token" not in at.query_params


def test_a_token_of_no_document_is_named():
    at = opened(cluster_token="3")
    assert "token 3 of no document" in texts(at) and "cluster_token" not in at.query_params


def test_what_a_link_asks_for_in_vain_is_named():
    at = opened(cluster_domain="atlantis", cluster_layer="9", cluster_k="7000")
    said = " ".join(warning.value for warning in at.warning)
    assert "domain atlantis" in said and "layer 9" in said and "number of clusters 7000" in said


def test_tokens_by_top_expert_of_a_layer(folder: Path):
    at = opened(cluster_document="heldout-court-0", cluster_reader="Top expert")
    at.get("button_group")
    text = trace(folder, "emo-nano").documents.set_index("id").loc["heldout-court-0", "text"]
    path = folder / "checkpoints" / "emo-nano"
    ids = encode(load_tokenizer(path), text, 256).token_ids
    best = record(load_model(path), ids).router_probs[1, 1:].argmax(axis=1)
    titles = [token["title"].split("\n")[0].split(" ", 1)[1] for token in strips(at)[0]["tokens"]]
    assert titles == [f"L1 E{expert}" for expert in best]


def test_markup_in_a_document_reaches_the_page_as_data():
    told = sent_maps(opened())["texts"]
    assert any("<b onclick='alert(1)'>soil & seeds" in text for text in told)


def lose(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the assets to take something from."""
    copy = tmp_path / "assets"
    shutil.copytree(folder, copy)
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(copy))
    return copy


def test_without_a_stored_map_there_is_a_pca(folder, tmp_path, monkeypatch):
    (lose(folder, tmp_path, monkeypatch) / "analysis" / "maps.npz").unlink()
    at = opened()
    assert "python -m emo_viz map" in texts(at)
    assert sent_maps(at)["method"] == "PCA"


def test_without_token_clusters_tokens_show_their_top_expert(folder, tmp_path, monkeypatch):
    (lose(folder, tmp_path, monkeypatch) / "analysis" / "clusters-std-nano.npz").unlink()
    at = opened(cluster_document="heldout-garden-0")
    assert "python -m emo_viz clusters --model assets/checkpoints/std-nano" in texts(at)
    assert strips(at)[0]["tokens"][0]["title"].split(" ")[1].startswith("L1")


def test_traces_of_different_documents_are_shown_one_at_a_time(folder, tmp_path, monkeypatch):
    copy = lose(folder, tmp_path, monkeypatch)
    command = ["record", "--model", copy / "checkpoints" / "std-nano", "--limit", 5]
    command += ["--documents", copy / "documents" / "documents.parquet"]
    command += ["--out", copy / "traces" / "std-nano"]
    assert CliRunner().invoke(main, [str(each) for each in command]).exit_code == 0
    at = opened()
    assert "were recorded on different documents" in texts(at)
    assert len(listed(at)) == 24 and "in EMO" in answer(at) and "Standard" not in answer(at)
    other = opened(run="std-nano", cluster_document="heldout-garden-0")
    assert len(listed(other)) == 5 and "in Standard MoE" in answer(other)
    assert len(strips(other)) == 1


def test_the_quality_of_the_clusters_is_of_what_the_slider_asks_for(folder: Path):
    at = opened(cluster_part="Quality", cluster_k="3")
    table = at.dataframe[0].value.set_index("Measure")
    for name in RUNS:
        one = trace(folder, name)
        vectors = routing_vectors(flatten_usage(one.usage))
        found = quality(vectors, spherical_kmeans(vectors, 3))
        assert table.loc["Silhouette", name] == f"{found.silhouette:.2f}"
        assert table.loc["Stability over 5 seeds", name] == f"{found.stability:.2f}"
        assert (
            table.loc["NMI with the domain", name]
            == expected_nmi(folder, name, 3)[2:6] + (table.loc["NMI with the domain", name][4:])
        )
    at.slider(key="cluster_k").set_value(5)
    again = run(at).dataframe[0].value.set_index("Measure")
    assert not again.loc["Silhouette"].equals(table.loc["Silhouette"])


def test_the_clusters_of_both_runs_side_by_side(folder: Path):
    (chart,) = charts(opened(cluster_part="Confusion", cluster_k="4"))
    (drawn,) = chart["data"]
    assert sum(numbers(drawn["customdata"])) == 24
    found = []
    for name in RUNS:
        vectors = routing_vectors(flatten_usage(trace(folder, name).usage))
        found.append(spherical_kmeans(vectors, 4))
    second = match_clusters(found[1], found[0]).labels
    counts = np.reshape(numbers(drawn["customdata"]), (4, 4))
    for row, cluster in enumerate(drawn["y"]):
        for column, other in enumerate(drawn["x"]):
            numbers_of = [int(name.split(": ")[0]) for name in (cluster, other)]
            both = (found[0].labels == numbers_of[0]) & (second == numbers_of[1])
            assert counts[row, column] == both.sum()


def test_one_run_has_nobody_to_be_confused_with():
    at = opened(cluster_part="Confusion", b="none")
    assert "Both runs' clusters" not in [tab.label for tab in at.tabs] and not charts(at)
    assert "asks for the part" in texts(at)
