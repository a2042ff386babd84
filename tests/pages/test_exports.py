"""What every page lets a visitor take home: its tables have the numbers of what is shown."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.server import training
from emo_viz.ui.parts import export
from emo_viz.ui.shell.report_html import markdown
from tests.pages.opened import follow_link
from tests.pages.training_runs import write_histories, write_runs

Table = Callable[[], pd.DataFrame]
HAND = re.compile(r"\b(click|press|drag|draw around|hold it)\b", re.IGNORECASE)
# A number with what a page writes around it: "+0.01", "7.7 M", "63 %", "107 / 122", "0.7 [0.6, 1]".
SAID = r"NUMBER( ?[%kMG]B?)?( / NUMBER| \[.*\])?".replace("NUMBER", r"[-+\u2212]?\d[\d.,]*")


class Offered:
    """What the opened page offers: tables by name, keys of charts, and signs of legends."""

    def __init__(self) -> None:
        self.tables: list[tuple[str, Table]] = []
        self.charts: set[str] = set()
        self.signs: dict[str, str] = {}

    def __getitem__(self, name: str) -> Table:
        return dict(self.tables)[name]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.tables]

    def holds(self, shown: pd.DataFrame) -> bool:
        """Whether a table has the rows of one that is shown, by a third of its columns or more."""
        columns = [values(part) for name in shown for part in runs_in(shown[name])]
        for _, make in self.tables:
            frame = make()
            theirs = [values(frame[name]) for name in frame]
            held = sum(any(own <= column for column in theirs) for own in columns)
            if len(frame) >= len(shown) and 3 * held >= len(columns):
                return True
        return False


def runs_in(column: pd.Series) -> list[pd.Series]:
    """A column that says the values of two runs ("107 / 122") as one of each."""
    both = column.astype(str).str.split(" / ", expand=True)
    is_of_both = both.shape[1] == 2 and both.notna().all(axis=None)
    return [both[0], both[1]] if is_of_both else [column]


def values(column: pd.Series) -> set[str]:
    """What stands in a column; numbers to two places, as a page rounds them, in text too."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    pairs = zip(column, numbers, strict=True)
    return {f"{number:.2f}" if number == number else str(each) for each, number in pairs}


def text_of_numbers(frame: pd.DataFrame) -> list[str]:
    """The columns that hold numbers as text: what the page says, not what it is."""
    texts = frame.select_dtypes(["object", "string", "category"]).astype(str)
    return [name for name in texts if texts[name].str.fullmatch(SAID).all()]


def with_ids(frame: pd.DataFrame) -> bool:
    """Whether runs are called by their ids, which no page shows."""
    text = frame.select_dtypes(["object", "string", "category"]).astype(str)
    cells = text.isin(["emo-nano", "std-nano"]).any(axis=None)
    return bool(cells) or any("-nano" in str(name) for name in frame)


@pytest.fixture
def offered(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everything_open: None
) -> Offered:
    """What the page that is opened offers."""
    seen, draw = Offered(), export._COMPONENT

    def pictures(*, data, **how):
        seen.charts.update(chart["key"] for chart in data["charts"])
        seen.signs.update((entry["text"], entry["sign"]) for entry in data["legend"])
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


def of_a_hand(at: AppTest) -> list[str]:
    """What a report of the page would ask of its reader, who has nothing to press there."""
    said = [*at.markdown, *at.caption]
    return [one.value for one in said if HAND.search(markdown(one.value))]


def nameless(at: AppTest) -> Iterator[str]:
    """Charts and tables of the page of which a screen reader has no name."""
    for part in [*at.get("plotly_chart"), *at.dataframe]:
        if not part.proto.alt:
            yield str(part.proto.id or part.value.columns.tolist())


def plotly_s_own(at: AppTest) -> list[str]:
    """Charts that Plotly would save as well, without the line that says of what they are."""
    charts = at.get("plotly_chart")
    left_out = {one.proto.id: json.loads(one.proto.config) for one in charts}
    return [id for id, how in left_out.items() if "toImage" not in how["modeBarButtonsToRemove"]]


def opened(page: str, **params: str) -> AppTest:
    return follow_link(f"pages/{page}.py" if page else "app.py", **params)


CLUSTERS, WHOLE = "2_Document_clusters", {"cluster_level": "Documents"}
BOTH, OF_BOTH = ["EMO", "Standard MoE"], ["Both runs' clusters"]
LOADS, OF_LOADS = {"training_view": "Expert load"}, "Every step, layer and expert"
# Page, what of it is asked for, and some of the tables that it offers.
OFFERED = [
    ("", {}, ["Findings", "Models"]),
    ("1_Token_routing", {}, ["Every token, layer and run", "Layers"]),
    (
        "3_Subset_ablation",
        {},
        ["Loss by experts kept", "This document by experts kept", "Losses of every token"],
    ),
    ("4_Kernel", {}, []),
    ("6_Library", {}, []),
    ("7_Routing_difference", {}, []),
    ("8_Experts", {}, ["Experts"]),
    (
        "8_Experts",
        {"expert": "0.1", "expert_run": "emo-nano", "expert_other": "0.2"},
        ["Domains", "Two experts", "By domain"],
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
    assert list(lacking(at, offered)) == [] == of_a_hand(at)
    assert plotly_s_own(at) == []
    assert list(nameless(at)) == []
    assert set(names) <= set(offered.names)
    for name in names:
        frame = offered[name]()
        assert len(frame) and export.csv(frame).count(b"\n") > len(frame) * 0.99
        assert export.parquet(frame, "of these runs")
    for name, make in offered.tables:
        assert not with_ids(make()), name
        assert text_of_numbers(make()) == [], name


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
        cut, full = (table[f"loss_nats_{what}_Standard MoE"] for what in ("cut", "full"))
        rises.append((cut - full).mean())
        document = offered["This document by experts kept"]()
        own = document[(document["run"] == "Standard MoE") & (document["keep_k"] == int(keep_k))]
        assert own["increase_nats"].item() == pytest.approx(rises[-1], abs=1e-5)
    assert rises[0] > rises[1]


def test_what_is_said_of_models_and_layers_is_saved_as_numbers(offered: Offered):
    opened("")
    models = offered["Models"]().set_index("Model")
    assert models.loc["EMO", "Routed experts a layer"] == 15
    assert models.loc["EMO", "Shared experts a layer"] == 1
    opened("6_Library")
    runs = offered["Runs"]().set_index("Run")
    assert runs.loc["EMO", "Parameters"] == models.loc["EMO", "Parameters"] > 1000
    assert runs.loc["EMO", "Memory (bytes)"] > runs.loc["EMO", "Parameters"]
    assert runs.loc["EMO", "Experts a layer"] == 16
    opened("1_Token_routing")
    layers, tokens = offered["Layers"](), offered["Every token, layer and run"]()
    means = tokens.groupby(["run", "layer"])["router_entropy_nats"].mean()
    for label in ("EMO", "Standard MoE"):
        assert layers[f"Entropy (nats), {label}"].tolist() == pytest.approx(means[label].tolist())
        assert (layers[f"Experts for half, {label}"] < layers[f"Distinct experts, {label}"]).all()


def test_a_saved_finding_marks_runs_as_its_chart_does(offered: Offered):
    figures = [json.loads(chart.proto.spec) for chart in opened("").get("plotly_chart")]
    drawn = [point["marker"]["symbol"] for point in figures[0]["data"]]
    signs = {"circle": "●", "diamond": "◆"}
    assert [signs[symbol] for symbol in drawn] == list(offered.signs.values())


def test_the_loads_that_are_saved_are_those_that_the_run_wrote(offered: Offered):
    opened("11_Training", **LOADS, training_run="runs/whole")
    table = offered[OF_LOADS]()
    assert len(table) == 4 * 2 and set(table["layer"]) == {1}  # layer 0 is dense
    last = table[table["step"] == 60]
    assert last["expert"].tolist() == [0, 1] and last["share"].tolist() == [0.25, 0.75]
