"""Experts page: all experts, one of them, what breaks without it, and two side by side."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.analysis import expert_effects, expert_tokens
from emo_viz.analysis.experts import use_of
from emo_viz.server import expert_facts, library
from emo_viz.server.jobs import registry
from emo_viz.trace import Trace
from emo_viz.ui.parts import export
from tests.pages.opened import charts, follow_link, numbers, run, texts
from tests.uneven import TWELVE_AND_SIXTEEN, cut_pair, emo_viz, measure, shown

PAGE = "pages/8_Experts.py"


@pytest.fixture(scope="module")
def read(tiny_assets, tmp_path_factory):
    """The tiny assets, with what tokens say of EMO's experts and what each costs."""
    folder = tmp_path_factory.mktemp("experts") / "assets"
    shutil.copytree(tiny_assets, folder)
    source = ("--model", folder / "checkpoints" / "emo-nano")
    source += ("--documents", folder / "documents" / "documents.parquet")
    analysis = folder / "analysis"
    emo_viz("experts", *source, "--out", analysis / "experts-emo-nano.npz")
    out = analysis / "expert-effects-emo-nano.npz"
    emo_viz("ablate-experts", *source, "--out", out, "--max-tokens", "40")
    return folder


@pytest.fixture
def opened(read):
    with shown(read) as folder:
        yield folder


@pytest.fixture
def taken(monkeypatch):
    """A table that the page offers to save, by its name."""
    offered = {}
    monkeypatch.setattr(export, "offer", lambda *_, tables, **how: offered.update(tables))
    return lambda name: offered[name]()


def used(assets, run: str):
    return use_of(Trace.open(assets / "traces" / run))


def table(at: AppTest):
    return at.dataframe[0].value


def kwic(at: AppTest) -> list[dict]:
    import json

    given = [json.loads(part.proto.bytes) for part in at.get("bidi_component")]
    return next((each["lines"] for each in given if "lines" in each), [])


def test_all_experts_of_both_runs_with_their_load_and_entropy(opened):
    at = follow_link(PAGE)
    rows, use = table(at), used(opened, "emo-nano")
    assert len(rows) == 2 * 2 * 15 and set(rows["Open"]) == {"Open"}
    mine = rows[(rows["Run"] == "EMO") & (rows["Layer"] == 1) & (rows["Expert"] == 6)].iloc[0]
    assert mine["Load"] == pytest.approx(use.load[1, 6] * 15)
    assert mine["Entropy"] == pytest.approx(use.entropy[1, 6])
    assert mine["Top domains"].startswith(use.domains[use.domain_shares[:, 1, 6].argmax()])
    median = np.exp(np.nanmedian(use.entropy[use.there]))
    assert f"the median expert serves **{median:.1f}** in EMO" in texts(at)
    assert "24 documents" in texts(at)
    assert [len(numbers(trace["x"])) for trace in charts(at)[0]["data"]] == [30, 30]
    assert rows["Without it"].notna().sum() == 30  # measured in one of the runs


def test_filters_by_layer_and_domain(opened):
    layer = follow_link(PAGE, experts_layer="1", experts_shown="EMO")
    assert set(table(layer)["Layer"]) == {1} and "Run" not in table(layer)
    domain = follow_link(PAGE, experts_domain="court", experts_shown="EMO")
    shares = table(domain)["Of the domain"]
    use = used(opened, "emo-nano")
    court = use.affinity[use.domains.index("court")]
    assert shares.is_monotonic_decreasing and shares[0] == pytest.approx(100 * court.max())
    assert f"{len(shares)} of 60 experts" in texts(domain) and "60 experts." in texts(layer)


def test_columns_that_differ_come_before_the_long_ones(opened):
    columns = list(table(follow_link(PAGE)).columns)
    assert columns[:5] == ["Open", "Run", "Layer", "Expert", "Without it"]
    assert columns[-2:] == ["Top domains", "Enriched tokens"]


def test_experts_of_every_other_layer_that_the_same_documents_choose(opened):
    at = follow_link(PAGE, expert="1.6")
    alike = next(frame.value for frame in at.dataframe if "Median expert" in frame.value)
    use = used(opened, "emo-nano")
    shares = use.shares * use.weights[:, None, None]
    shares = shares / shares.sum(axis=0)
    common = np.minimum(shares[:, 1, [6]], shares[:, 0]).sum(axis=0)
    assert alike["Layer"].tolist() == [0, 0, 0]
    assert alike["Expert"].tolist() == np.argsort(-common)[:3].tolist()
    assert alike["In common"].tolist() == pytest.approx(sorted(100 * common)[:-4:-1], rel=1e-4)


def test_one_expert_has_its_contexts_partners_and_effect(opened):
    at = follow_link(PAGE, expert="1.6")
    found = expert_facts.tokens(library.default().first)
    effects = expert_facts.all_effects(library.default().first)
    said = texts(at)
    assert "EMO, layer 1, expert 6:" in said
    assert f"{effects.overall(1, 6).mean:+.4f} nats a token" in said
    lines = kwic(at)
    assert len(lines) == 12 and lines[0]["weight"] == f"{found.context_gates[1, 6, 0]:.2f}"
    text = library.documents()["text"][int(found.context_rows[1, 6, 0])]
    assert lines[0]["token"].strip("␣") in text and lines[0]["direction"] == "ltr"
    partners = next(frame.value for frame in at.dataframe if "If independent" in frame.value)
    best = int(partners["Expert"][0])
    together = found.pairs[1, 6, best] / found.pairs[1, 6, 6]
    assert partners["Of its tokens"][0] == pytest.approx(100 * together)
    figure = charts(at)[0]
    bars = [trace for trace in figure["data"] if trace["type"] == "bar"]
    use = used(opened, "emo-nano")
    assert max(numbers(bars[1]["x"])) == pytest.approx(100 * use.affinity[:, 1, 6].max())
    assert any("worse without it" in trace["name"] for trace in bars)


def test_what_is_saved_of_one_expert_is_all_that_is_shown_of_it_as_numbers(opened, taken):
    at = follow_link(PAGE, expert="1.6")
    found, use = expert_facts.tokens(library.default().first), used(opened, "emo-nano")
    domains = taken("Domains").set_index("domain")
    band = next(trace for trace in charts(at)[0]["data"] if trace["name"] == "95 % of shuffles")
    low, wide = numbers(band["base"]), numbers(band["x"])
    drawn = domains.loc[band["y"]]
    assert 100 * drawn["share_by_chance_low"].to_numpy() == pytest.approx(np.array(low))
    assert 100 * drawn["share_by_chance_high"].to_numpy() == pytest.approx(np.add(low, wide))
    assert {"loss_without_nats_mean", "loss_without_nats_high"} <= set(domains)
    weights = taken("Where it weighs most")["gate_weight"]
    assert weights.tolist() == pytest.approx(found.context_gates[1, 6, : len(weights)].tolist())
    enriched = taken("Enriched tokens")
    ratios = found.enriched_ratios[1, 6][found.enriched[1, 6] >= 0]
    assert enriched["ratio"].tolist() == ratios.tolist() and len(enriched)
    chips = next(each.proto.body for each in at.get("html") if "Enriched" in each.proto.body)
    assert all(f"×{ratio:.1f}" in chips for ratio in ratios)
    first = taken("Documents").iloc[0]
    assert first["share"] == pytest.approx(use.shares[:, 1, 6].max())
    text = library.documents().set_index("id")["text"][first["document"]]
    assert first["opening"].split()[:3] == text.split()[:3]


@pytest.mark.parametrize("damage", ["experts", "layers", "documents"])
def test_files_that_do_not_fit_the_recording_are_named_and_left_out(damage, read, tmp_path):
    folder = shutil.copytree(read, tmp_path / "assets")
    paths = [folder / "analysis" / f"{name}-emo-nano.npz" for name in ("experts", "expert-effects")]
    tokens, effects = expert_tokens.load(paths[0]), expert_effects.load(paths[1])
    if damage == "documents":
        expert_tokens.save(paths[0], replace(tokens, context_rows=tokens.context_rows + 24))
    elif damage == "layers":
        expert_tokens.save(paths[0], replace(tokens, numbers=(0, 7)))
        expert_effects.save(paths[1], replace(effects, numbers=(0, 7)))
    else:
        few = replace(effects, routed=(14, 14), without=effects.without[:, :14])
        expert_effects.save(paths[1], few)
    with shown(folder):
        at = follow_link(PAGE, expert="1.6")
    said = " ".join(each.value.replace("\\", "") for each in at.warning)
    assert not at.exception and "must be made again" in said or "make it again" in said
    assert ("expert-effects-emo-nano.npz is of layers or experts" in said) == (
        damage == "experts" or damage == "layers"
    )
    assert (" experts-emo-nano.npz" in said) == (damage != "experts")


def test_the_keys_and_buttons_go_from_expert_to_expert(opened):
    at = follow_link(PAGE, expert="0.14")
    at.button(key="experts_next").click()
    run(at)
    assert (at.query_params["expert"], at.query_params["expert_run"]) == ("1.0", "emo-nano")
    at.button(key="experts_all").click()
    run(at)
    assert "expert" not in at.query_params and len(table(at)) == 60


def test_two_experts_side_by_side(opened):
    at = follow_link(PAGE, expert="1.6", expert_other="1.2")
    found = expert_facts.tokens(library.default().first)
    together = 100 * found.pairs[1, 6, 2] / found.tokens
    assert f"**{together:.1f} %** of the tokens choose both" in texts(at)
    other = follow_link(PAGE, expert="1.6", expert_other_run="std-nano", expert_other="1.2")
    assert "with the median expert of Standard MoE" in texts(other)
    assert "choose both" not in texts(other)


def test_what_is_saved_of_two_experts_has_a_column_of_numbers_for_each(opened, taken):
    follow_link(PAGE, expert="1.6", expert_other_run="std-nano", expert_other="1.2")
    names = ["EMO 1.6", "Standard MoE 1.2"]
    facts = taken("Two experts").set_index("fact")
    assert list(facts) == names and set(facts.dtypes) == {np.dtype(float)}
    effects = expert_facts.all_effects(library.default().first)
    lost = facts.loc["Loss without it (nats a token)"]
    assert lost["EMO 1.6"] == pytest.approx(effects.mean(1, 6)) and np.isnan(lost.iloc[1])
    shares = taken("By domain").set_index("domain")
    own = used(opened, "std-nano").domain_shares[:, 1, 2]
    assert shares[names[1]].tolist() == own.tolist() and shares[names[0]].sum() == pytest.approx(1)
    assert len(taken("Enriched tokens of EMO 1.6"))


def test_what_a_link_asks_for_in_vain_is_said(opened):
    at = follow_link(
        PAGE, expert="1.15", expert_run="gone", experts_layer="9", experts_domain="opera"
    )
    warned = " ".join(each.value for each in at.warning)
    for asked in ("gone", r"1\.15", "9", "opera"):
        assert f"{asked}, which is not here" in warned
    assert len(table(at)) == 60


def test_tokens_are_read_on_request(tiny_assets):
    at = follow_link(PAGE, expert="1.6", expert_run="std-nano")
    assert not kwic(at)
    at.button(key="gather_std-nano").click()
    run(at)
    for job in registry().running().values():
        job.wait(600)
    run(at)
    assert len(kwic(at)) == 12


def test_what_breaks_is_measured_on_request(tiny_assets):
    at = follow_link(PAGE, expert="0.3", expert_run="std-nano")
    assert "without it the loss" not in texts(at)
    at.button(key="measure_effect").click()
    run(at)
    for job in registry().running().values():
        job.wait(600)
    run(at)
    assert "without it the loss changes by" in texts(at)


def test_a_recording_alone_says_what_it_lacks(tiny_assets, tmp_path):
    (tmp_path / "documents").symlink_to(tiny_assets / "documents")
    shutil.copytree(tiny_assets / "traces" / "emo-nano", tmp_path / "traces" / "mine")
    with shown(tmp_path):
        at = follow_link(PAGE)
        assert "record it again with --level tokens" in texts(at) and len(table(at)) == 30
        one = follow_link(PAGE, expert="0.1")
        assert "mine is a recording alone" in texts(one)
        assert "0 tokens" not in texts(one)


def test_layers_of_different_numbers_of_experts(tiny_assets, tmp_path):
    cut_pair(tiny_assets, tmp_path, TWELVE_AND_SIXTEEN)
    measure(tiny_assets, tmp_path)
    with shown(tmp_path):
        rows = table(follow_link(PAGE))
        assert rows.groupby(["Run", "Layer"]).size().tolist() == [11, 15, 11, 15]
        last = follow_link(PAGE, expert="0.10")
        assert "layer 0, expert 10" in texts(last)
        beyond = follow_link(PAGE, expert="0.11")
        assert "which is not here" in beyond.warning[0].value


def test_a_file_of_other_weights_is_named_and_not_shown(read, tmp_path):
    registry.clear()  # what was read on request of this run would be shown instead
    shutil.copytree(read, tmp_path / "assets")
    analysis = tmp_path / "assets" / "analysis"
    (analysis / "experts-emo-nano.npz").rename(analysis / "experts-std-nano.npz")
    with shown(tmp_path / "assets"):
        at = follow_link(PAGE)
        assert "is of the run emo\\-nano, not of std\\-nano" in texts(at)
        assert "Enriched tokens" not in table(at)
