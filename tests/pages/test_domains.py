"""Domains page: every view's answer is the one that the recording gives."""

import shutil

import numpy as np
import pytest

from emo_viz.analysis import domains, flow
from emo_viz.analysis.expert_tokens import load
from emo_viz.analysis.experts import use_of
from emo_viz.figures import domains as figures
from emo_viz.trace import Trace
from emo_viz.ui.parts import export
from tests.pages.opened import charts, follow_link, numbers, texts
from tests.uneven import TWELVE_AND_SIXTEEN, cut_pair, emo_viz, measure, shown

PAGE = "pages/9_Domains.py"
VIEWS = ("Similarity", "Coverage", "Kept", "Co-activation", "Flow", "Balance")


@pytest.fixture(scope="module")
def read(tiny_assets, tmp_path_factory):
    """The tiny assets, with what tokens say of the experts of both runs."""
    folder = tmp_path_factory.mktemp("domains") / "assets"
    shutil.copytree(tiny_assets, folder)
    for run in ("emo-nano", "std-nano"):
        source = ("--model", folder / "checkpoints" / run)
        source += ("--documents", folder / "documents" / "documents.parquet")
        emo_viz("experts", *source, "--out", folder / "analysis" / f"experts-{run}.npz")
    return folder


@pytest.fixture
def opened(read):
    with shown(read) as folder:
        yield folder


@pytest.fixture
def saved(everything_open, monkeypatch):
    """What makes each table that can be saved of the page, and its provenance, by its name."""
    tables = {}

    def table(name, make, code, said):
        tables[name] = (make, said)

    monkeypatch.setattr(export, "_table", table)
    return tables


def used(assets, run: str):
    return use_of(Trace.open(assets / "traces" / run))


def said_of(value: float) -> str:
    percent = 100 * value
    return f"**{percent:.1f} %**" if percent < 10 else f"**{percent:.0f} %**"


def test_similarity_of_both_runs_on_one_scale_and_in_one_order(opened):
    at = follow_link(PAGE)
    first, second = (domains.similarity(used(opened, run)) for run in ("emo-nano", "std-nano"))
    assert f"in common {said_of(first.between)} in EMO, {said_of(second.between)} in" in texts(at)
    one, two = charts(at)[0]["data"]
    assert one["y"] == two["y"] and one["coloraxis"] == two["coloraxis"]
    axes = charts(at)[0]["layout"]
    for axis in ("xaxis", "xaxis2", "yaxis"):
        assert axes[axis].get("showticklabels", True) and axes[axis]["showgrid"] is False
    order = domains.order([first.matrix, second.matrix])
    assert numbers(one["z"]) == pytest.approx(first.matrix[np.ix_(order, order)].ravel(), abs=1e-5)
    layer = follow_link(PAGE, domains_layer="1")
    alone = domains.similarity(used(opened, "emo-nano"), 1)
    assert f"in common {said_of(alone.between)} in EMO" in texts(layer)
    assert "in layer 1" in texts(layer)
    for chart in charts(layer) + charts(follow_link(PAGE, domains_view="Kept", domains_k="5")):
        assert chart["data"][0]["y"] == one["y"], "domains keep their places"


def test_the_order_of_domains_is_worked_out_once(opened, monkeypatch):
    follow_link(PAGE)
    order, calls = domains.order, []
    monkeypatch.setattr(domains, "order", lambda some: calls.append(some) or order(some))
    for params in ({}, {"domains_layer": "1"}, {"domains_view": "Kept"}):
        follow_link(PAGE, **params)
    assert not calls


def test_coverage(opened):
    at = follow_link(PAGE, domains_view="Coverage")
    found = domains.coverage(used(opened, "emo-nano"))
    assert f"goes to **{found.half.mean():.1f}** experts in EMO" in texts(at)
    assert f"All documents together: {found.all_half:.1f} in EMO" in texts(at)


def test_kept_sets_change_with_the_number_kept(opened):
    for keep in (5, 9):
        at = follow_link(PAGE, domains_view="Kept", domains_k=str(keep))
        found = domains.kept_sets(used(opened, "emo-nano"), keep - 1)
        assert f"overlap by {said_of(found.between)} in EMO" in texts(at)
        most = found.matrix[~np.eye(len(found.matrix), dtype=bool)].max()
        assert f"the two nearest by {said_of(most)} (" in texts(at)
        (table,) = (frame.value for frame in at.dataframe)
        assert table["Overlap (Jaccard), EMO"].max() == pytest.approx(100 * most)


def test_co_activation_beside_independence(opened):
    at = follow_link(PAGE, domains_view="Co-activation", domains_layer="1")
    found = load(opened / "analysis" / "experts-emo-nano.npz")
    pairs = next(frame.value for frame in at.dataframe if "Experts" in frame.value)
    one, two = map(int, pairs["Experts"][0].split(" and "))
    share = 100 * found.pairs[1, one, two] / found.tokens
    assert pairs["Of all tokens"][0] == pytest.approx(share)
    usual = 100 * flow.expected_pairs(found.pairs[1])[one, two] / found.tokens
    assert pairs["If independent"][0] == pytest.approx(usual)


def test_all_pairs_of_experts_are_saved_in_the_order_of_the_picture(opened, saved):
    at = follow_link(PAGE, domains_view="Co-activation", domains_layer="1")
    rows = saved["All pairs, EMO"][0]()
    pairs = load(opened / "analysis" / "experts-emo-nano.npz").pairs[1]
    shown = charts(at)[0]["data"][0]["x"]
    assert rows["expert"].astype(str).tolist() == shown == list(rows)[1:]
    one, two = rows["expert"][0], rows["expert"][1]
    usual = flow.expected_pairs(pairs)[one, two]
    assert rows[str(two)][0] == pytest.approx(pairs[one, two] / usual)
    assert np.isnan(rows[str(one)][0]), "an expert beside itself"


@pytest.mark.parametrize("view", VIEWS)
def test_every_table_has_a_name(opened, view):
    tables = follow_link(PAGE, domains_view=view).dataframe
    assert tables and all(table.proto.alt for table in tables)


def test_flow_between_layers(opened):
    at = follow_link(PAGE, domains_view="Flow", domains_nodes="4")
    found = load(opened / "analysis" / "experts-emo-nano.npz")
    known = flow.information(found.flow[0], found.tokens)
    assert f"tell **{known.known:.2f}** nats in EMO" in texts(at)
    assert f"Possible: {known.possible:.2f} in EMO" in texts(at)
    sankeys = [trace for chart in charts(at) for trace in chart["data"]]
    assert [trace["type"] for trace in sankeys] == ["sankey", "sankey"]
    for chart, run in zip(charts(at), ("emo-nano", "std-nano"), strict=True):
        said = [note["text"] for note in chart["layout"]["annotations"]]
        assert [f"at least {figures.STRONG:.0f} times" in each for each in said][-1]
        streams = flow.stream([load(opened / "analysis" / f"experts-{run}.npz").flow[0]], 4)
        ids = [each for own in streams.nodes for each in own]
        assert said[:-1] == [f"<b>{'other' if each < 0 else each}</b>" for each in ids]
        (trace,) = chart["data"]
        drawn = sum(numbers(trace["link"]["value"]))
        assert drawn == pytest.approx(1 - streams.rest), "from others to others is not drawn"
        assert said_share(streams.rest) in texts(at)
        middles = numbers(trace["node"]["y"])
        assert len(middles) == len(ids) and 0 < min(middles) < max(middles) < 1


def said_share(value: float) -> str:
    return f"Not drawn: the {said_of(value).strip('*')} of the gate weight"


def test_the_strongest_streams_stand_below_the_picture(opened):
    at = follow_link(PAGE, domains_view="Flow", domains_nodes="4")
    table = at.dataframe[0].value
    found = flow.stream([load(opened / "analysis" / "experts-emo-nano.npz").flow[0]], 4)
    best = found.strongest([0, 1], len(table))
    assert table["expert"].tolist() == best["expert"].tolist()
    assert table["share"].tolist() == pytest.approx((100 * best["share"]).tolist())


def test_streams_are_saved_by_the_ids_that_are_shown(opened, saved):
    follow_link(PAGE, domains_view="Flow", domains_nodes="4")
    make, _ = saved["Streams of EMO"]
    rows = make()
    found = load(opened / "analysis" / "experts-emo-nano.npz")
    shown = flow.stream([found.flow[0]], 4).nodes
    for column, ids in zip(("expert", "next_expert"), shown, strict=True):
        assert set(rows[column]) == {"other" if expert < 0 else str(expert) for expert in ids}
    assert set(rows["layer"]) == {0} and set(rows["next_layer"]) == {1}


def test_a_flow_is_saved_with_its_layers_and_how_many_experts_at_their_defaults(opened, saved):
    follow_link(PAGE, domains_view="Flow")
    _, said = saved["Streams of EMO"]
    assert "; layers 0 to 1; experts shown of each layer: 8; " in said


def test_balance_by_layer(opened):
    at = follow_link(PAGE, domains_view="Balance")
    table = domains.balance(used(opened, "emo-nano"), [3, 3])
    assert f"by {said_of(table['cv'].mean())} in EMO" in texts(at)
    rows = at.dataframe[0].value
    mine = rows[rows["run"] == "EMO"].reset_index(drop=True)
    assert mine["gini"].tolist() == pytest.approx(table["gini"].tolist())
    assert mine["by_chance"].tolist() == pytest.approx((100 * table["by_chance"]).tolist())
    (chart,) = charts(at)
    box, label, *ends = chart["data"][:4]
    assert box["hoverinfo"] == "skip" and "median" in label["hovertemplate"]
    assert numbers(label["base"]) == pytest.approx(table["p5"].tolist())
    assert numbers(label["y"]) == pytest.approx((table["p95"] - table["p5"]).tolist())
    assert not any(each["cliponaxis"] for each in ends), "whole at zero"
    assert "whiskers: 5th to 95th percentile" in chart["layout"]["xaxis"]["title"]["text"]
    usual = f"{100 * table['by_chance'].mean():.1f} %"
    assert f"Choices at random: {usual} in EMO" in texts(at)


def test_what_needs_tokens_says_so_and_offers_to_read_them(tiny_assets):
    for view in ("Co-activation", "Flow"):
        at = follow_link(PAGE, domains_view=view)
        assert "This needs the tokens of the documents" in texts(at)
        assert at.button(key="gather_emo-nano")


@pytest.mark.parametrize("view", VIEWS)
def test_a_recording_alone_and_layers_of_different_widths(view, tiny_assets, tmp_path):
    (tmp_path / "documents").symlink_to(tiny_assets / "documents")
    shutil.copytree(tiny_assets / "traces" / "emo-nano", tmp_path / "traces" / "mine")
    with shown(tmp_path):
        at = follow_link(PAGE, domains_view=view)
        needs = view in ("Co-activation", "Flow")
        assert ("record it again with --level tokens" in texts(at)) == needs
        assert "in Standard MoE" not in texts(at) and (needs or charts(at))


def test_uneven_layers(tiny_assets, tmp_path):
    cut_pair(tiny_assets, tmp_path, TWELVE_AND_SIXTEEN)
    measure(tiny_assets, tmp_path)
    with shown(tmp_path):
        for view in VIEWS:
            follow_link(PAGE, domains_view=view)
        rows = follow_link(PAGE, domains_view="Balance").dataframe[0].value
        assert rows["experts"].tolist() == [11, 15, 11, 15]


def test_what_a_link_asks_for_in_vain_is_said(opened):
    at = follow_link(PAGE, domains_view="Opera", domains_layer="8")
    assert [each.value.split(",")[0] for each in at.warning] == [
        "The link asks for the view Opera",
        "The link asks for the layer 8",
    ]
