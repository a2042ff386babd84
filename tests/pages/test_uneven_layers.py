"""A pair with different numbers of experts in its layers is shown like any other pair.

Numbers are compared with what is worked out here, layer by layer, without the widest layer's room.
"""

import base64
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.alignment import alignment
from emo_viz.analysis.clusters import spherical_kmeans
from emo_viz.analysis.curves import read_curves
from emo_viz.analysis.projection import load_maps, pca_map
from emo_viz.analysis.tokens import TokenTable, fit_token_clusters, load_token_clusters
from emo_viz.trace import Trace
from model.run.inference import Recording, document_losses, encode, record
from model.run.loading import load_model, load_tokenizer
from model.run.subset import ExpertSubset, apply_subset
from tests.pages.ablation_page import given, lines, slider, table, words
from tests.pages.opened import (
    cards,
    cells,
    charts,
    follow_link,
    heatmaps,
    numbers,
    open_everything,
    run,
    sent_maps,
)
from tests.recipes import routing_vectors
from tests.uneven import RUNS, TWELVE_AND_SIXTEEN, cut_pair, emo_viz, measure, new_pair, shown

ROUTING = "pages/1_Token_routing.py"
CLUSTERS = "pages/2_Document_clusters.py"
ABLATION = "pages/3_Subset_ablation.py"
ROUTED = (11, 15)


@pytest.fixture(scope="module")
def cut(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pair cut to 12 experts in layer 0 and 16 in layer 1."""
    folder = tmp_path_factory.mktemp("uneven") / "assets"
    cut_pair(tiny_assets, folder, TWELVE_AND_SIXTEEN)
    measure(tiny_assets, folder)
    return folder


@pytest.fixture(scope="module")
def narrow(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair with 3 experts in layer 0, where a token of layer 1 uses 4 of 16."""
    folder = tmp_path_factory.mktemp("narrow") / "assets"
    new_pair(tiny_assets, folder, (3, 16))
    measure(tiny_assets, folder)
    return folder


@pytest.fixture
def uneven(cut: Path) -> Iterator[Path]:
    with shown(cut) as folder:
        yield folder


@pytest.fixture
def small(narrow: Path) -> Iterator[Path]:
    with shown(narrow) as folder:
        yield folder


def first_text(folder: Path) -> str:
    return str(pd.read_parquet(folder / "documents" / "documents.parquet")["text"][0])


def recorded(folder: Path, name: str = "emo-nano") -> Recording:
    """What a model does with the first document."""
    checkpoint = folder / "checkpoints" / name
    return record(
        load_model(checkpoint),
        encode(load_tokenizer(checkpoint), first_text(folder), 512).token_ids,
    )


def half(chosen: np.ndarray) -> int:
    """The fewest experts that carry half of the choices, counted one by one."""
    carried, total = 0, (chosen >= 0).sum()
    loads = Counter(chosen[chosen >= 0].tolist()).most_common()
    for number, (_, load) in enumerate(loads, start=1):
        carried += load
        if 2 * carried >= total:
            return number
    raise AssertionError("no choices")


def value(chart: dict, trace: int, field: str) -> np.ndarray:
    """A typed array of a figure."""
    packed = chart["data"][trace][field]
    shape = packed.get("shape", "-1")
    return np.array(numbers(packed)).reshape([int(size) for size in shape.split(",")])


# Home


def test_home_counts_each_layer_by_its_own_experts(uneven: Path):
    at = follow_link("")
    activation = np.asarray(Trace.open(uneven / "traces" / "emo-nano").activation, np.float64)
    halves = []
    for layer, routed in enumerate(ROUTED):
        falling = -np.sort(-activation[:, layer, :routed], axis=1)
        carried = falling.cumsum(axis=1)
        halves.append((carried < carried[:, -1:] / 2).sum(axis=1) + 1)
    assert f"goes to **{np.mean(halves):.1f}**" in words(at)
    assert "of 11 to 15 experts (1 more serves all tokens) in EMO" in words(at)
    assert "all 12 to 16 experts a layer" in words(at)
    assert "With all 12 to 16 experts" in words(at)
    even = [shape for shape in charts(at)[0]["layout"]["shapes"] if shape["x0"] == 6.5]
    assert len(even) == 1  # half of 13, the mean of 11 and 15
    assert at.table[0].value["Experts a layer"]["EMO"] == "11 to 15 routed + 1 shared"


def test_models_that_differ_in_a_layer_stand_side_by_side(
    cut: Path, tiny_assets: Path, tmp_path: Path
):
    """What compares is shown for both; what does not is said."""
    folder = tmp_path / "assets"
    analysis = folder / "analysis"
    analysis.mkdir(parents=True)
    (folder / "documents").symlink_to(tiny_assets / "documents")
    for part in ("checkpoints", "traces"):
        (folder / part).mkdir()
        (folder / part / "emo-nano").symlink_to(cut / part / "emo-nano")
        (folder / part / "std-nano").symlink_to(tiny_assets / part / "std-nano")
    traces = [str(folder / "traces" / name) for name in RUNS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emo_viz.analysis.projection.umap_map", lambda rows, *_: pca_map(rows))
        emo_viz("map", "--traces", *traces, "--out", analysis / "maps.npz")
    models = [folder / "checkpoints" / name for name in RUNS]
    texts = folder / "documents"
    source = ("--documents", texts / "documents.parquet", "--calibration")
    few = ("--methods", "router_probability,random", "--random-seeds", "1")
    out = (texts / "calibration.parquet", "--out", analysis / "curves.parquet")
    emo_viz("curves", "--models", *models, *source, *out, *few)
    sentence = "EMO has 11 routed experts in layer 0 and Standard MoE 15, so numbers of experts"
    with shown(folder):
        home = words(follow_link(""))
        assert (
            "of 11 to 15 experts (1 more serves all tokens) in EMO" in home
            and "of 15 experts (1 more serves all tokens) in Standard MoE" in home
        )
        assert "With all experts, the loss in nats a token" in home
        clusters = follow_link(CLUSTERS, cluster_level="Documents")
        assert len(sent_maps(clusters)["panels"]) == 2 and "in EMO" in words(clusters)
        assert sentence in words(follow_link(ROUTING))
        at = follow_link(ABLATION, k="14")
        assert "up to 14 of 12 to 16 in EMO, 14 of 16 in Standard MoE" in lines(at)["all"]
        assert len(table(at)) == 2


# Token routing


def test_the_routing_of_a_text_is_that_of_each_layers_experts(uneven: Path):
    at = follow_link(ROUTING)
    halves = [half(layer[1:]) for layer in recorded(uneven).expert_ids]
    assert f"goes to **{np.mean(halves):.1f}** of 11 to 15 experts in EMO" in words(at)
    lines = charts(at)[0]["data"]
    assert numbers(lines[0]["y"]) == halves
    assert numbers(lines[2]["y"]) == [5.5, 7.5]  # even use


@pytest.mark.parametrize("layer", [0, 1])
def test_the_map_of_a_layer_is_as_wide_as_the_layer(uneven: Path, layer: int):
    shown = heatmaps(follow_link(ROUTING, routing_layer=str(layer)))[0]["sides"][0]["layers"][0]
    assert len(base64.b64decode(shown["order"])) == 2 * ROUTED[layer]
    ids = recorded(uneven).expert_ids[layer, 1:]
    assert set(cells(shown)) == {(token + 1, int(e)) for token, own in enumerate(ids) for e in own}


def test_only_experts_of_the_layer_are_offered(uneven: Path):
    at = follow_link(ROUTING, routing_layer="1", routing_expert="EMO 14")
    expert = at.selectbox(key="routing_expert")
    assert (expert.value, len(expert.options)) == ("EMO L1 E14", 30)
    at.button(key="routing_previous_layer").click().run()
    assert not at.exception
    expert = at.selectbox(key="routing_expert")
    assert expert.value == "EMO L1 E14" and len(expert.options) == 22 + 1
    assert "L0 E10, EMO" in expert.options and "L0 E11, EMO" not in expert.options
    assert "sent to L1 E14 of EMO; layer 0 is shown" in words(at)


def test_a_link_to_an_expert_that_the_layer_lacks_is_said(uneven: Path):
    at = follow_link(ROUTING, routing_layer="0", routing_expert="EMO 14")
    assert "EMO 14" in "".join(part.value for part in at.warning)
    assert at.selectbox(key="routing_expert").value is None


def test_a_token_has_no_more_experts_than_its_layer(small: Path):
    at = follow_link(ROUTING, routing_token="5")
    ids = recorded(small).expert_ids[:, 5]
    assert ids[0, 2] == -1 and (ids[1] >= 0).all()
    bars = cards(at)[0]["parts"][0]["bars"]
    assert [bar["experts"] for bar in bars] == [ids[0, :2].tolist(), ids[1].tolist()]
    at.session_state["routing_table_open"] = True
    run(at)
    rows = next(frame.value for frame in at.dataframe if "Choice" in frame.value)
    assert rows["Layer"].tolist() == [0, 0, 1, 1, 1]
    assert rows["EMO expert"].tolist() == ids[ids >= 0].tolist()
    assert "The shared expert, a layer's last, has weight 1" in words(at)


# Document clusters


def nmi(folder: Path, layer: int, k: int) -> float:
    """Of k clusters by the routing of a layer's own experts with the domains."""
    trace = Trace.open(folder / "traces" / "emo-nano")
    usage = np.asarray(trace.usage[:, layer, : trace.manifest.model.routed[layer]], np.float32)
    labels = spherical_kmeans(routing_vectors(usage), k).labels
    return alignment(labels, trace.documents["domain"].tolist()).nmi.mean


def test_documents_are_clustered_by_the_experts_that_there_are(uneven: Path):
    found = []
    for layer in (0, 1):
        at = follow_link(CLUSTERS, cluster_level="Documents", cluster_layer=str(layer))
        found.append(f"**{nmi(uneven, layer, 12):.2f} [")
        assert found[-1] in words(at)
    assert found[0] != found[1]


def test_no_expert_that_a_layer_lacks_is_named(uneven: Path):
    for layer, routed in ((0, 11), (1, 15)):
        at = follow_link(
            CLUSTERS,
            cluster_level="Documents",
            cluster_layer=str(layer),
            cluster_colour="Top expert",
            cluster_part="Clusters",
        )
        usage = Trace.open(uneven / "traces" / "emo-nano").usage[:, layer, :routed]
        best = Counter(np.asarray(usage).argmax(axis=1).tolist()).most_common(1)[0][0]
        names = {group["name"] for group in sent_maps(at)["panels"][0]["groups"]}
        assert any(name.startswith(f"L{layer} E{best}") for name in names), names
        named = re.findall(r"L(\d) E(\d+)", f"{names} {at.dataframe[0].value.to_string()}")
        assert all(int(expert) < ROUTED[int(at_layer)] for at_layer, expert in named)


def test_token_clusters_are_those_of_the_experts_that_there_are(uneven: Path):
    documents = pd.read_parquet(uneven / "documents" / "documents.parquet")
    checkpoint = uneven / "checkpoints" / "emo-nano"
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    runs = [record(model, encode(tokenizer, text, 256).token_ids) for text in documents["text"]]
    compact = [
        np.concatenate([run.router_probs[layer, 1:, :n] for layer, n in enumerate(ROUTED)], 1)
        for run in runs
    ]
    ids = [run.token_ids[1:] for run in runs]
    own = fit_token_clusters(
        TokenTable(
            np.concatenate(compact).astype(np.float16),
            np.concatenate(ids),
            np.repeat(np.arange(len(ids)), [len(each) for each in ids]),
            documents["id"].tolist(),
            documents["domain"].tolist(),
            dict.fromkeys(np.concatenate(ids).tolist(), "x"),
        ),
        "emo-nano",
        {},
        k=6,
    )
    stored = load_token_clusters(uneven / "analysis" / "clusters-emo-nano.npz")
    np.testing.assert_allclose(stored.shares, own.shares, atol=0.002)
    said = words(follow_link(CLUSTERS, cluster_document=documents["id"][0]))
    assert f"**{own.agreements['domain'].nmi.mean:.2f} [" in said
    components = stored.pca.components.reshape(-1, 2, 15)
    assert np.abs(components[:, 0, 11:]).max() < 1e-6
    largest = np.bincount(own.assign_rows(compact[0])).max() / len(compact[0])
    assert f"holds {100 * largest:.0f} % of the tokens" in said


def test_two_experts_tell_two_groups_of_documents_apart(small: Path):
    at = follow_link(CLUSTERS, cluster_level="Documents", cluster_layer="0")
    assert "The routing of layer 0 tells apart 2 groups of documents at most" in words(at)
    assert "(NMI) of 2 clusters" in words(at)
    assert f"**{nmi(small, 0, 2):.2f} [" in words(at)


def test_a_layer_of_one_routed_expert_tells_no_documents_apart(tiny_assets: Path, tmp_path: Path):
    folder = tmp_path / "assets"
    new_pair(tiny_assets, folder, (16, 2))
    measure(tiny_assets, folder)
    assert not load_maps(folder / "analysis" / "maps.npz").places["emo-nano"][2].any()
    with shown(folder):
        at = follow_link(CLUSTERS, cluster_level="Documents")
        assert at.selectbox(key="cluster_layer").options == ["All layers", "0"]
        assert "of 1 to 15 experts in EMO" in words(follow_link(ROUTING, routing_layer="1"))


# Subset ablation


def subset(folder: Path, name: str, keep_k: int, domain: str = "garden") -> ExpertSubset:
    """The likeliest experts on the calibration documents of the domain, layer by layer."""
    checkpoint = folder / "checkpoints" / name
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    table = pd.read_parquet(folder / "documents" / "calibration.parquet")
    texts = table.loc[table["domain"] == domain, "text"]
    probs = [record(model, encode(tokenizer, t, 256).token_ids).router_probs for t in texts]
    means = np.concatenate(probs, axis=1).mean(axis=1)
    kept = []
    for layer in range(model.config.num_hidden_layers):
        routed = model.config.experts_in_layer(layer) - 1
        best = np.argsort(-means[layer, :routed])[: keep_k - 1]
        kept.append((*sorted(best.tolist()), routed))
    return ExpertSubset(tuple(kept), "", (), keep_k)


@pytest.mark.parametrize("keep_k", [8, 14])
def test_the_cut_is_that_of_each_layers_experts(uneven: Path, keep_k: int):
    at = follow_link(ABLATION, k=str(keep_k))
    for name, label in (("emo-nano", "EMO"), ("std-nano", "Standard MoE")):
        checkpoint = uneven / "checkpoints" / name
        model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
        token_ids = encode(tokenizer, first_text(uneven), 256).token_ids
        own = subset(uneven, name, keep_k)
        assert [len(layer) for layer in own.experts] == [min(keep_k, 12), keep_k]
        with apply_subset(model, own):
            cut_loss = np.nanmean(document_losses(model, [token_ids])[0])
        assert table(at)[label][1] == f"{cut_loss:.3f}"
    up_to = "" if keep_k == 8 else "up to "
    assert f"with {up_to}{keep_k} of 12 to 16 experts" in lines(at)["all"]
    low = min(keep_k, 12)
    kept = "8" if keep_k == low else f"{low} to {keep_k}"
    said = [run["said"][str(keep_k)] for run in given(at, "prompt")["runs"]]
    assert said[0].startswith(f"writes with {kept} experts: ")
    assert [slider(at)["stops"][i]["keep"] for i in (0, -1)] == [4, 16]


def test_the_kept_experts_are_drawn_as_far_as_a_layer_goes(
    uneven: Path, monkeypatch: pytest.MonkeyPatch
):
    open_everything(monkeypatch)
    drawn = [charts(follow_link(ABLATION, k=k))[:2] for k in ("8", "14")]
    for keep_k, (kept_map, overlap) in zip((8, 14), drawn, strict=True):
        kept = value(kept_map, 0, "z")
        assert np.isnan(kept[0]).tolist() == [False] * 12 + [True] * 4
        own = subset(uneven, "emo-nano", keep_k).experts
        assert [np.flatnonzero(row == 1).tolist() for row in kept] == [list(ids) for ids in own]
        chance = np.mean([min(keep_k - 1, routed) / routed for routed in ROUTED])
        assert overlap["layout"]["shapes"][0]["x0"] == pytest.approx(100 * chance)
        emo = overlap["data"][0]
        for domain, share in zip(emo["y"], numbers(emo["x"]), strict=True):
            other = subset(uneven, "emo-nano", keep_k, domain).experts
            both = [len({*own[i][:-1]} & {*other[i][:-1]}) / len(own[i][:-1]) for i in (0, 1)]
            assert share == pytest.approx(100 * np.mean(both))


def test_the_curves_say_the_experts_of_every_layer(uneven: Path, small: Path):
    for folder, counts in ((uneven, [12, 16]), (small, [3, 16])):
        curves = read_curves(folder / "analysis" / "curves.parquet")
        assert curves.experts("emo-nano") == curves.experts("std-nano") == tuple(counts)
        for domains in curves.info["ranking"].values():
            for ranking in domains.values():
                for layer, count in zip(ranking, counts, strict=True):
                    routed = count - 1
                    assert sorted(layer[:routed]) == list(range(routed))
                    assert layer[routed:] == [-1] * (15 - routed)


def test_every_page_shows_layers_narrower_than_top_k(small: Path):
    assert "of 2 to 15 experts (1 more serves all tokens) in EMO" in words(follow_link(""))
    assert "of 2 to 15 experts in EMO" in words(follow_link(ROUTING, routing_layer="1"))
    assert "Clusters of single tokens agree" in words(follow_link(CLUSTERS))
    own = {"subset_document": "own", "subset_text": "the anchor and a rope"}
    at = follow_link(ABLATION, k="4", **own)
    assert "with up to 4 of 3 to 16 experts" in lines(at)["all"] and table(at)
