"""The document clusters page, tokens: what it says and draws is that of the stored token map."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from emo_viz.__main__ import main
from emo_viz.analysis.alignment import alignment
from emo_viz.analysis.clusters import spherical_kmeans
from emo_viz.analysis.token_map import load_token_map, save_token_map
from emo_viz.analysis.tokens import headline, load_token_clusters
from emo_viz.analysis.vectors import fit_pca, unit_rows
from emo_viz.ui.shell.words import escape_markdown, visible
from tests.pages.opened import (
    charts,
    drawn_points,
    follow_link,
    legends,
    looks,
    marked,
    numbers,
    run,
    sent_maps,
    strips,
    texts,
)

RUNS = ("emo-nano", "std-nano")


@pytest.fixture(autouse=True)
def _assets(tiny_assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tiny_assets))


def opened(**params: str | list[str]) -> AppTest:
    return follow_link("pages/2_Document_clusters.py", **params)


def stored(folder: Path):
    documents = pd.read_parquet(folder / "documents" / "documents.parquet")
    return load_token_map(folder / "analysis" / "token_map.npz"), documents


def clusters_paths(folder: Path) -> list[Path]:
    return [folder / "analysis" / f"clusters-{name}.npz" for name in RUNS]


def listed(at: AppTest) -> pd.DataFrame:
    return at.dataframe[0].value


def test_tokens_come_first_and_the_answer_is_measured(tiny_assets: Path):
    said, measured = texts(opened()), headline(*clusters_paths(tiny_assets))
    for each in measured.runs.values():
        for one in (each.domain, each.token):
            assert f"**{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]** in" in said
    gap = measured.difference
    assert f"EMO less Standard MoE: **{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]**" in said
    assert f"{measured.documents:,} documents, {measured.runs['emo-nano'].tokens:,} tokens" in said
    assert "120 tokens of 24 documents, 30 of each domain" in said


def test_a_line_on_the_clusters_stands_above_the_maps_whosever_they_are(tiny_assets: Path):
    usual, other = opened(), opened(cluster_token_k="5")
    of_all, of_sample = (
        next(each.value for each in at.caption if each.value.startswith("NMI with the domain"))
        for at in (usual, other)
    )
    of = headline(*clusters_paths(tiny_assets)).runs["emo-nano"].domain
    assert f"**{of.mean:.2f} [{of.low:.2f}, {of.high:.2f}]** in EMO" in of_all
    assert of_all.endswith("6 clusters of all tokens, all layers")
    assert of_sample.endswith("5 clusters of the sampled tokens, all layers")
    assert sent_maps(usual)["above"] == sent_maps(other)["above"]


def test_both_maps_draw_every_sampled_token_where_it_is_stored(tiny_assets: Path):
    token_map, documents = stored(tiny_assets)
    for name, panel in zip(RUNS, sent_maps(opened())["panels"], strict=True):
        groups, places = zip(*drawn_points(panel), strict=True)
        assert list(groups) == documents["domain"][token_map.sample.documents].tolist()
        assert np.allclose(places, token_map.places[name], atol=1e-3)


def test_the_table_shows_a_token_in_its_context_and_its_clusters(tiny_assets: Path):
    token_map, documents = stored(tiny_assets)
    table, sample = listed(opened()), token_map.sample
    for row in (0, 17, 119):
        text = documents["text"][sample.documents[row]]
        start, end = sample.starts[row], sample.ends[row]
        around = f"{text[max(0, start - 48) : start]}[{text[start:end]}]{text[end : end + 48]}"
        assert table["context"][row] == around
        for name in RUNS:
            assert table[f"cluster_{name}"][row].startswith(f"{token_map.clusters[name][row]}: ")


def test_a_stored_cluster_is_the_one_that_the_reader_finds(tiny_assets: Path):
    token_map, documents = stored(tiny_assets)
    row = 40
    document, position = token_map.sample.documents[row], int(token_map.sample.positions[row])
    at = opened(cluster_document=documents["id"][document], cluster_token=str(position))
    table = listed(at)
    for name, strip in zip(RUNS, strips(at), strict=True):
        title = strip["tokens"][position - 1]["title"]
        assert table[f"cluster_{name}"][row] in title
    for legend in legends(at)[-2:]:  # of the two panes: only signs are pale, letters are read
        assert legend.count("font-weight:bold") == 1
        pale = re.findall(r"<span ([^>]*)opacity:0[^>]*>(.*?)</span>", legend)
        assert all("aria-hidden" in said and len(sign) == 1 for said, sign in pale)
        assert len(pale) == legend.count("font-weight:normal")


def test_colour_by_token_has_the_tokens_in_the_legend():
    groups = sent_maps(opened(cluster_token_colour="Token"))["panels"][0]["groups"]
    names = [group["name"] for group in groups]
    assert any("␣" in name for name in names) and any("others" in name for name in names)


def test_highlighting_a_token_leaves_only_its_points():
    at = opened()
    before, options = sent_maps(at), at.multiselect(key="cluster_highlight").options
    at.multiselect(key="cluster_highlight").set_value([options[0]])
    found = marked(run(at), "highlight")
    assert found == np.flatnonzero(listed(at)["token"] == options[0]).tolist() and found
    assert "recede" in texts(at) and sent_maps(at) == before
    assert "Highlight: 1 token" in [each.proto.popover.label for each in at.get("popover")]


def test_selected_tokens_of_a_link_are_listed_drawn_and_read():
    at = opened(cluster_tokens=",".join(tokens_at(3, 90)))
    assert len(listed(at)) == 2 and "2 tokens selected" in texts(at)
    assert re.search(r"selected: \d+ % \w+, most frequent token “.+” \(\d+ %\), ", texts(at))
    assert marked(at, "selected") == [3, 90] and not strips(at)
    at.button(key="cluster_tokens_read").click()
    document, position = tokens_at(3)[0].split(":")
    assert [look["selected"] for look in looks(run(at))] == [int(position)] * 2
    assert at.query_params["cluster_document"] == document
    at.button(key="cluster_tokens_clear").click()
    assert len(listed(run(at))) == 120
    assert "cluster_tokens" not in at.query_params


def tokens_at(*rows: int) -> list[str]:
    """The ids of tokens as the address has them, from what the maps say of their places."""
    ids = sent_maps(opened())["ids"]
    return [ids[row].replace(", token ", ":") for row in rows]


def test_one_token_is_named():
    at = opened(cluster_tokens=tokens_at(5)[0])
    assert f"1 token selected: “{escape_markdown(listed(at)['token'].iloc[0])}” in" in texts(at)
    assert listed(at)["domain"].iloc[0] in texts(at)


def test_what_a_link_asks_for_in_vain_is_named():
    at = opened(cluster_tokens="gone:3", cluster_highlight="zzz", cluster_domain="atlantis")
    said = texts(at)
    assert "selects tokens gone\\:3, which are not here" in said
    assert "domain atlantis" in said and "token zzz" in said


def test_heatmaps_count_the_sampled_tokens(tiny_assets: Path):
    token_map, documents = stored(tiny_assets)
    (by_domain,) = charts(opened(cluster_part="Domains"))
    emo = by_domain["data"][0]
    row, column = emo["y"].index("court"), 0
    own = documents["domain"].to_numpy()[token_map.sample.documents] == "court"
    expected = (own & (token_map.clusters["emo-nano"] == int(emo["x"][column]))).sum()
    assert np.reshape(numbers(emo["customdata"]), (4, -1))[row, column] == expected


def test_clusters_are_listed_by_their_share_of_all_tokens(tiny_assets: Path):
    token_map, _ = stored(tiny_assets)
    at = opened(cluster_part="Clusters")
    for name, path, frame in zip(RUNS, clusters_paths(tiny_assets), at.dataframe, strict=True):
        shares, table = load_token_clusters(path).shares, frame.value
        assert table["share"].is_monotonic_decreasing
        for row in table.itertuples():
            assert row.share == pytest.approx(100 * shares[row.cluster])
            assert row.sampled == (token_map.clusters[name] == row.cluster).sum()


def test_documents_are_ranked_by_the_share_of_their_tokens_selected(tiny_assets: Path):
    token_map, documents = stored(tiny_assets)
    own = token_map.sample.documents
    first = int(own[0])
    chosen = [*np.flatnonzero(own == first), int(np.flatnonzero(own != first)[0])]
    ids = ",".join(tokens_at(*map(int, chosen)))
    at = opened(cluster_part="Documents", cluster_tokens=ids)
    table = at.dataframe[0].value
    assert table["document"].iloc[0] == documents["id"][first]
    assert documents["text"][first].startswith(table["opening"].iloc[0][:12])
    assert table["share"].tolist() == pytest.approx([100, 100 / (own == own[chosen[-1]]).sum()])
    assert "Select tokens" in texts(opened(cluster_part="Documents"))


def test_the_quality_is_of_all_tokens_and_of_the_sample(tiny_assets: Path):
    at = opened(cluster_part="Quality")
    stored, sampled = (each.value.set_index("Measure") for each in at.dataframe[:2])
    for name, each in headline(*clusters_paths(tiny_assets)).runs.items():
        assert stored.loc["NMI with the token itself", name].startswith(f"{each.token.mean:.2f} [")
        sizes = [int(sampled.loc[f"{which} cluster", name]) for which in ("Largest", "Smallest")]
        assert 0 < sizes[1] <= 20 <= sizes[0] <= 120  # 120 tokens in 6 clusters
    said = texts(at)
    assert "6 clusters of the sample alone: 120 tokens of 24 documents" in said
    assert re.search(r"\*\*6 clusters of all [\d,]+ tokens\*\*", said)
    assert (
        "**6 clusters of the sampled tokens alone**" in said and "silhouette and stability" in said
    )


def test_tokens_by_the_clusters_of_both_runs(tiny_assets: Path):
    token_map, _ = stored(tiny_assets)
    (chart,) = charts(opened(cluster_part="Confusion"))
    (drawn,) = chart["data"]
    counts = np.reshape(numbers(drawn["customdata"]), (len(drawn["y"]), len(drawn["x"])))
    first, second = (token_map.clusters[name] for name in RUNS)
    row, column = (int(drawn[axis][0].split(": ")[0]) for axis in "yx")
    both = (first == row) & (second == column)
    assert counts[0, 0] == both.sum() and counts.sum() == 120


def test_documents_are_one_switch_away():
    at = opened(cluster_level="Documents")
    assert "12 clusters agree with the domain" in texts(at)


def test_what_the_maps_tell_of_a_token_is_its_context_as_data(tiny_assets: Path):
    token_map, documents = stored(tiny_assets)
    told, sample = sent_maps(opened())["texts"], token_map.sample
    for row, (start, end) in enumerate(zip(sample.starts, sample.ends, strict=True)):
        text = documents["text"][sample.documents[row]]
        around = f"{text[max(0, start - 28) : start]}[{text[start:end]}]{text[end : end + 28]}"
        assert told[row] == re.sub(" {2,}", " ", visible(around))


def without(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "assets"
    shutil.copytree(tiny_assets, copy)
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(copy))
    return copy / "analysis"


def test_without_a_token_map_the_answer_and_the_reader_stay(tiny_assets, tmp_path, monkeypatch):
    (without(tiny_assets, tmp_path, monkeypatch) / "token_map.npz").unlink()
    at = opened(cluster_document="heldout-garden-0")
    assert "There is no file token\\_map" in texts(at) and "Clusters of single" in texts(at)
    assert "python -m emo_viz token-map" in at.code[0].value
    assert len(strips(at)) == 2


def test_a_map_of_other_clusters_is_not_shown(tiny_assets, tmp_path, monkeypatch):
    folder = without(tiny_assets, tmp_path, monkeypatch)
    command = ["clusters", "--model", tiny_assets / "checkpoints" / "emo-nano"]
    command += ["--documents", tiny_assets / "documents" / "documents.parquet"]
    command += ["--out", folder / "clusters-emo-nano.npz", "--clusters", "5"]
    assert CliRunner().invoke(main, [str(each) for each in command]).exit_code == 0
    at = opened()
    assert "of other documents or other token clusters" in texts(at)
    assert len(load_token_clusters(folder / "clusters-emo-nano.npz").centroids) == 5


def test_the_command_refuses_clusters_of_another_checkpoint(tiny_assets, tmp_path):
    models = [tiny_assets / "checkpoints" / name for name in RUNS]
    command = ["token-map", "--models", *models, "--out", tmp_path / "map.npz"]
    command += ["--documents", tiny_assets / "documents" / "documents.parquet"]
    command += ["--clusters", *reversed(clusters_paths(tiny_assets))]
    result = CliRunner().invoke(main, [str(each) for each in command])
    assert result.exit_code == 2 and "another EMO checkpoint" in result.output
    assert not (tmp_path / "map.npz").exists()


def test_both_maps_refuse_more_neighbours_than_points(tiny_assets, tmp_path):
    out = tmp_path / "map.npz"
    traces = [tiny_assets / "traces" / name for name in RUNS]
    models = [tiny_assets / "checkpoints" / name for name in RUNS]
    documents = tiny_assets / "documents" / "documents.parquet"
    of_documents = ["map", "--traces", *traces]
    of_tokens = ["token-map", "--models", *models, "--documents", documents, "--clusters"]
    for command in (of_documents, [*of_tokens, *clusters_paths(tiny_assets)]):
        wanted = [*command, "--out", out, "--neighbours", "100000"]
        result = CliRunner().invoke(main, [str(each) for each in wanted])
        assert result.exit_code == 2 and "choose fewer with --neighbours" in result.output
    assert not out.exists()


def test_clusters_of_one_layer_are_those_of_the_sample(tiny_assets: Path):
    token_map, documents = stored(tiny_assets)
    at = opened(cluster_layer="1", cluster_token_k="4", cluster_part="Quality")
    rows = token_map.probabilities("emo-nano")[:, 1]
    labels = spherical_kmeans(unit_rows(fit_pca(rows).project(rows)), 4).labels
    sample = documents.iloc[token_map.sample.documents]
    agreed = alignment(labels, sample["domain"].tolist(), sample["id"].tolist())
    said = f"**{agreed.nmi.mean:.2f} [{agreed.nmi.low:.2f}, {agreed.nmi.high:.2f}]** in"
    told = next(each.value for each in at.caption if each.value.startswith("NMI with the domain"))
    assert told.endswith("4 clusters of the sampled tokens, layer 1") and said in told
    panel = sent_maps(at)["panels"][0]
    places = [place for _, place in drawn_points(panel)]
    assert np.allclose(places, token_map.layer_places["emo-nano"][1], atol=1e-3)


def test_counts_below_are_of_the_clusters_chosen():
    at = opened(cluster_token_k="3", cluster_part="Clusters")
    table = at.dataframe[0].value
    assert table["sampled"].sum() == 120 and sorted(table["cluster"]) == [0, 1, 2]
    assert table["share"].tolist() == pytest.approx((100 * table["sampled"] / 120).tolist())


@pytest.mark.parametrize("colour", ["Cluster", "Top expert", "Entropy", "Spread", "Source"])
def test_every_colouring_draws_every_token(colour: str, tiny_assets: Path):
    token_map, _ = stored(tiny_assets)
    at = opened(cluster_token_colour=colour, cluster_layer="0")
    assert not at.exception
    names = [name for name, _ in drawn_points(sent_maps(at)["panels"][0])]
    assert len(names) == 120
    if colour == "Top expert":
        best = token_map.probabilities("emo-nano")[:, 0].argmax(axis=1)
        assert all(
            name == f"L0 E{expert}" or name.endswith("others")
            for name, expert in zip(names, best, strict=True)
        )


def test_a_file_of_an_earlier_version_says_what_it_lacks(tiny_assets: Path, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_assets, tmp_path / "assets")
    path = folder / "analysis" / "token_map.npz"
    save_token_map(path, replace(load_token_map(path), numbers={}, routing={}, layer_places={}))
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(folder))
    at = opened(cluster_token_colour="Entropy")
    said = texts(at)
    assert "lacks the tokens' routing; make it" in said and "colouring Entropy" in said
    assert len(drawn_points(sent_maps(at)["panels"][0])) == 120


def test_a_run_of_the_file_that_is_not_shown_need_not_have_the_layer(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(tiny_assets, tmp_path / "assets")
    path = folder / "analysis" / "token_map.npz"
    found, parts = load_token_map(path), ("places", "clusters", "layer_places", "routing", "keys")
    more = {
        part: getattr(found, part) | {"deep": getattr(found, part)["emo-nano"]} for part in parts
    }
    numbers = found.numbers | {"deep": (7, 8)}
    save_token_map(path, replace(found, numbers=numbers, **more))
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(folder))
    at = opened(cluster_layer="1", cluster_token_k="4")
    assert "sampled tokens, layer 1" in texts(at) and len(sent_maps(at)["panels"]) == 2
