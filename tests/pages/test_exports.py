"""What every page lets a visitor take home: its tables have the numbers of what is shown."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from emo_viz.ui.parts import export
from tests.pages.opened import follow_link

Offered = dict[str, Callable[[], pd.DataFrame]]
# Page, what of it is asked for, and the tables that it offers.
OFFERED = [
    ("app.py", {}, ["Findings"]),
    ("pages/1_Token_routing.py", {}, ["Every token, layer and model"]),
    ("pages/3_Subset_ablation.py", {}, ["Curve", "Losses of every token"]),
    ("pages/8_Experts.py", {}, ["Experts"]),
    ("pages/8_Experts.py", {"expert": "0.1", "expert_run": "emo-nano"}, ["Domains"]),
    ("pages/9_Domains.py", {}, ["EMO", "Standard MoE"]),
    ("pages/9_Domains.py", {"domains_view": "Coverage"}, ["Coverage"]),
    ("pages/9_Domains.py", {"domains_view": "Kept"}, ["EMO", "Standard MoE"]),
    ("pages/9_Domains.py", {"domains_view": "Balance"}, ["Balance"]),
    (
        "pages/2_Document_clusters.py",
        {"cluster_level": "Documents", "cluster_part": "Clusters"},
        ["Clusters of EMO", "Clusters of Standard MoE", "Cluster of every document"],
    ),
    (
        "pages/2_Document_clusters.py",
        {"cluster_level": "Documents", "cluster_part": "Domains"},
        ["EMO", "Standard MoE"],
    ),
    (
        "pages/2_Document_clusters.py",
        {"cluster_level": "Documents", "cluster_part": "Confusion"},
        ["Both runs' clusters"],
    ),
    ("pages/2_Document_clusters.py", {"cluster_part": "Domains"}, ["EMO", "Standard MoE"]),
    ("pages/2_Document_clusters.py", {"cluster_part": "Clusters"}, ["EMO", "Standard MoE"]),
]


@pytest.fixture
def offered(tiny_assets: Path, monkeypatch: pytest.MonkeyPatch) -> Offered:
    """The tables of the page that is opened, by their names."""
    seen: Offered = {}
    monkeypatch.setattr(export, "_table", lambda title, make, *_: seen.update({title: make}))
    return seen


@pytest.mark.parametrize(("page", "params", "names"), OFFERED)
def test_every_table_can_be_saved(
    page: str, params: dict[str, str], names: list[str], offered: Offered
):
    follow_link(page, **params)
    assert set(names) <= set(offered)
    for name in names:
        frame = offered[name]()
        assert len(frame) and export.csv(frame).count(b"\n") > len(frame) * 0.99
        assert export.parquet(frame, "of these runs")


def test_the_losses_that_are_saved_are_those_of_the_cut(offered: Offered):
    rises = []
    for keep_k in ("4", "8"):
        follow_link("pages/3_Subset_ablation.py", k=keep_k)
        table = offered["Losses of every token"]()
        rises.append((table["std-nano_cut"] - table["std-nano_full"]).mean())
    assert rises[0] > rises[1]
