"""What every page lets a visitor take home: its tables have the numbers of what is shown."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.server import training
from emo_viz.ui.parts import export
from tests.pages.opened import follow_link
from tests.pages.training_runs import write_histories, write_runs

Table = Callable[[], pd.DataFrame]


class Offered:
    """What the opened page offers: tables by name, and keys of charts."""

    def __init__(self) -> None:
        self.tables: list[tuple[str, Table]] = []
        self.charts: set[str] = set()

    def __getitem__(self, name: str) -> Table:
        return dict(self.tables)[name]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.tables]

    def holds(self, shown: pd.DataFrame) -> bool:
        """Whether a table has the rows of one that is shown, by a third of its columns or more."""
        columns = [values(shown[name]) for name in shown]
        for _, make in self.tables:
            frame = make()
            theirs = [values(frame[name]) for name in frame]
            held = sum(any(own <= column for column in theirs) for own in columns)
            if len(frame) >= len(shown) and 3 * held >= len(columns):
                return True
        return False


def values(column: pd.Series) -> set[str]:
    """What stands in a column; numbers to two places, as a page rounds them."""
    numbers = pd.api.types.is_numeric_dtype(column)
    return {f"{float(each):.2f}" if numbers else str(each) for each in column}


@pytest.fixture
def offered(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everything_open: None
) -> Offered:
    """What the page that is opened offers."""
    seen, draw = Offered(), export._COMPONENT

    def pictures(*, data, **how):
        seen.charts.update(chart["key"] for chart in data["charts"])
        draw(data=data, **how)

    monkeypatch.setattr(export, "_COMPONENT", pictures)
    monkeypatch.setattr(export, "_table", lambda title, make, *_: seen.tables.append((title, make)))
    write_runs(tmp_path / "runs")
    monkeypatch.setattr(training, "RUNS", str(tmp_path / "runs"))
    write_histories(tmp_path / "own", monkeypatch, "stopped")
    return seen


def lacking(at: AppTest, offered: Offered) -> Iterator[str]:
    """Charts and tables of the page that cannot be taken home."""
    for chart in at.get("plotly_chart"):
        if not any(chart.proto.id.endswith(f"-{key}") for key in offered.charts):
            yield f"the chart {chart.proto.id}"
    for frame in [*at.dataframe, *at.table]:
        shown = frame.value.reset_index() if frame.value.index.name else frame.value
        if len(shown) and not offered.holds(shown):
            yield f"the table with the columns {', '.join(map(str, shown))}"


def opened(page: str, **params: str) -> AppTest:
    return follow_link(f"pages/{page}.py" if page else "app.py", **params)


CLUSTERS, WHOLE = "2_Document_clusters", {"cluster_level": "Documents"}
BOTH, OF_BOTH = ["EMO", "Standard MoE"], ["Both runs' clusters"]
LOADS, OF_LOADS = {"training_view": "Expert load"}, "Every step, layer and expert"
# Page, what of it is asked for, and some of the tables that it offers.
OFFERED = [
    ("", {}, ["Findings", "Models"]),
    ("1_Token_routing", {}, ["Every token, layer and model"]),
    ("3_Subset_ablation", {}, ["Loss by experts kept", "Losses of every token"]),
    ("4_Kernel", {}, []),
    ("6_Library", {}, []),
    ("7_Routing_difference", {}, []),
    ("8_Experts", {}, ["Experts"]),
    (
        "8_Experts",
        {"expert": "0.1", "expert_run": "emo-nano", "expert_other": "0.2"},
        ["Domains", "Two experts"],
    ),
    ("9_Domains", {}, BOTH),
    ("9_Domains", {"domains_view": "Coverage"}, ["Coverage"]),
    ("9_Domains", {"domains_view": "Kept"}, BOTH),
    ("9_Domains", {"domains_view": "Balance"}, ["Balance"]),
    (
        "10_Search",
        {"search_view": "Compare pins", "pins": ["5.d.heldout-court-1", "7.d.heldout-garden-2"]},
        BOTH,
    ),
    ("11_Training", {}, ["Every step"]),
    ("11_Training", LOADS | {"training_run": "runs/whole"}, [OF_LOADS]),
    ("11_Training", LOADS | {"training_run": "runs/stopped"}, [OF_LOADS]),
    ("11_Training", {"training_view": "Checkpoints"}, ["By checkpoint"]),
    (CLUSTERS, {}, ["Tokens"]),
    (CLUSTERS, {"cluster_part": "Quality"}, ["Quality"]),
    (CLUSTERS, {"cluster_part": "Domains"}, BOTH),
    (CLUSTERS, {"cluster_part": "Clusters"}, BOTH),
    (CLUSTERS, WHOLE, ["Documents"]),
    (CLUSTERS, WHOLE | {"cluster_part": "Quality"}, ["Quality"]),
    (
        CLUSTERS,
        WHOLE | {"cluster_part": "Clusters"},
        ["Clusters of EMO", "Clusters of Standard MoE", "Cluster of every document"],
    ),
    (CLUSTERS, WHOLE | {"cluster_part": "Domains"}, BOTH),
    (CLUSTERS, WHOLE | {"cluster_part": "Confusion"}, OF_BOTH),
]


@pytest.mark.parametrize(("page", "params", "names"), OFFERED)
def test_every_table_and_chart_of_a_page_can_be_saved(
    page: str, params: dict[str, str], names: list[str], offered: Offered
):
    at = opened(page, **params)
    assert list(lacking(at, offered)) == []
    assert set(names) <= set(offered.names)
    for name in names:
        frame = offered[name]()
        assert len(frame) and export.csv(frame).count(b"\n") > len(frame) * 0.99
        assert export.parquet(frame, "of these runs")


def test_a_table_that_is_not_offered_is_noticed(offered: Offered):
    at = opened(CLUSTERS)
    offered.tables.clear()
    offered.charts.clear()
    assert len(list(lacking(at, offered))) == 1
    assert len(list(lacking(opened("9_Domains"), Offered()))) > 1


def test_the_losses_that_are_saved_are_those_of_the_cut(offered: Offered):
    rises = []
    for keep_k in ("4", "8"):
        opened("3_Subset_ablation", k=keep_k)
        table = offered["Losses of every token"]()
        rises.append((table["std-nano_cut"] - table["std-nano_full"]).mean())
    assert rises[0] > rises[1]


def test_the_loads_that_are_saved_are_those_that_the_run_wrote(offered: Offered):
    opened("11_Training", **LOADS, training_run="runs/whole")
    table = offered[OF_LOADS]()
    assert len(table) == 4 * 2 and set(table["layer"]) == {1}  # layer 0 is dense
    last = table[table["step"] == 60]
    assert last["expert"].tolist() == [0, 1] and last["share"].tolist() == [0.25, 0.75]
