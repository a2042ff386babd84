"""python -m emo_viz difference: the page's numbers as a table, of traces or of checkpoints."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from emo_viz.__main__ import main
from emo_viz.analysis.difference import compare, compare_pairs, matched
from emo_viz.analysis.matching import matched_by_use
from emo_viz.analysis.routed import of_trace
from emo_viz.runs.record import Options, record
from emo_viz.trace import Trace
from tests.uneven import emo_viz

NAMES = ("emo-nano", "std-nano")


@pytest.fixture(scope="module")
def traces(tiny_assets: Path, tmp_path_factory) -> dict[str, Trace]:
    """Both models over ten of the tiny documents, token by token."""
    documents = pd.read_parquet(tiny_assets / "documents" / "documents.parquet").head(10)
    folder = tmp_path_factory.mktemp("recorded")
    return {
        name: record(
            tiny_assets / "checkpoints" / name, documents, folder / name, Options(level="tokens")
        )
        for name in NAMES
    }


@pytest.fixture(scope="module")
def sides(traces: dict[str, Trace]):
    return [[of_trace(trace, row, (0, 1)) for row in range(10)] for trace in traces.values()]


def difference(*arguments: object) -> str:
    return emo_viz("difference", *map(str, arguments))


def read(out: Path) -> pd.DataFrame:
    if out.suffix == ".json":
        return pd.DataFrame(json.loads(out.read_text()))
    return pd.read_parquet(out) if out.suffix == ".parquet" else pd.read_csv(out)


def test_two_models_are_matched_by_use_and_printed_as_csv(traces, sides):
    found = compare_pairs(matched_by_use(matched(*sides)[0]))
    result = CliRunner().invoke(
        main, ["difference", "--a", str(traces[NAMES[0]].path), "--b", str(traces[NAMES[1]].path)]
    )
    table = pd.read_csv(io.StringIO(result.stdout))
    assert table["layer"].tolist() == [0, 1]
    for name in ("same", "shared", "overlap", "weight"):
        means = [getattr(layer, name).mean for layer in found.layers]
        assert table[name].tolist() == pytest.approx(means, rel=1e-4)
    chance = [layer.chance_overlap for layer in found.layers]
    assert table["chance_overlap"].tolist() == pytest.approx(chance, rel=1e-4)
    assert table["parts_first"].tolist() == pytest.approx(found.first_layer[:2], rel=1e-4, abs=1e-9)
    assert "matched by use" in result.stderr and f"On {found.tokens:,} tokens" in result.stderr


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_a_trace_beside_a_checkpoint_token_by_token(
    traces, sides, tiny_assets: Path, tmp_path: Path, ending: str
):
    found, out = compare(*sides), tmp_path / f"table.{ending}"
    checkpoint = tiny_assets / "checkpoints" / NAMES[1]
    said = difference(
        "--a", traces[NAMES[0]].path, "--b", checkpoint, "--experts", "id", "--tokens", "--out", out
    )
    table = read(out)
    assert f"{found.tokens:,} rows" in said and len(table) == found.tokens
    overlap = sum(layer.overlap.mean for layer in found.layers) / 2
    assert table["overlap"].mean() == pytest.approx(overlap)
    assert "".join(table["token"][table["document"] == table["document"].iloc[-1]]) in set(
        traces[NAMES[0]].documents["text"]
    )


def test_one_checkpoint_in_two_precisions_goes_by_id(tiny_assets: Path, tmp_path: Path):
    checkpoint = tiny_assets / "checkpoints" / NAMES[0]
    documents = tiny_assets / "documents" / "documents.parquet"
    both = ("--a", checkpoint, "--b", checkpoint, "--documents", documents, "--limit", 3)
    assert read_out(tmp_path, both)["same"].tolist() == [1, 1]
    other = read_out(tmp_path, (*both, "--dtype-b", "bfloat16"))
    assert 0.5 < other["same"].min() < 1


def read_out(folder: Path, arguments: tuple[object, ...]) -> pd.DataFrame:
    said = difference(*arguments, "--out", folder / "table.csv")
    assert "2 rows" in said and "(by id)" in said
    return pd.read_csv(folder / "table.csv")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "table.txt"), "is no table"),
        ((), "name a file of them with --documents"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(tiny_assets: Path, arguments, said: str):
    checkpoint = str(tiny_assets / "checkpoints" / NAMES[0])
    result = CliRunner().invoke(
        main, ["difference", "--a", checkpoint, "--b", checkpoint, *arguments]
    )
    assert result.exit_code == 2 and said in result.stderr


def test_a_trace_without_tokens_says_so(tiny_assets: Path):
    trace = str(tiny_assets / "traces" / NAMES[0])
    result = CliRunner().invoke(main, ["difference", "--a", trace, "--b", trace])
    assert result.exit_code == 2 and "--level tokens" in result.stderr
