"""python -m emo_viz record: one trace, or one sentence and exit code 2."""

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import model.inference
from emo_viz.__main__ import main
from emo_viz.trace import Trace


@pytest.fixture
def run(checkpoint, documents_file, tmp_path):
    def invoke(*extra: str, **changes: object) -> Result:
        options = {"model": checkpoint, "documents": documents_file, "out": tmp_path / "trace"}
        named = [f"--{name}={value}" for name, value in (options | changes).items()]
        return CliRunner().invoke(main, ["record", *named, *extra])

    return invoke


def test_records_a_checkpoint(run, tmp_path):
    result = run("--max-tokens=32", "--level=tokens")
    assert result.exit_code == 0, result.output
    trace = Trace.open(tmp_path / "trace")
    assert trace.has_tokens
    assert trace.manifest.model.name == "tiny"
    assert len(trace.manifest.model.checkpoint_sha256) == 64
    assert trace.documents["n_tokens"].max() == 31
    assert f"9 documents, {trace.manifest.tokens} tokens." in result.output


def test_limit_takes_the_first_documents(run, tmp_path):
    assert run("--limit=2").exit_code == 0
    trace = Trace.open(tmp_path / "trace")
    assert trace.documents["id"].tolist() == ["doc-0", "doc-1"]
    assert trace.manifest.level == "documents"


def write_table(path, table: pd.DataFrame):
    table.to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda d, p: {"model": p / "none"}, "There is no checkpoint at"),
        (lambda d, p: {"documents": p / "none"}, "There is no file"),
        (lambda d, p: {"documents": __file__}, "is not a Parquet file"),
        (lambda d, p: {"documents": write_table(p / "d", d[["id"]])}, "domain and the column text"),
        (lambda d, p: {"documents": write_table(p / "d", d.head(0))}, "There are no documents"),
        (lambda d, p: {"documents": write_table(p / "d", d.assign(text=" "))}, "have no text"),
        (lambda d, p: {"max-tokens": 1000}, "within 2 and 300"),
        # Said before a model is loaded, which can take minutes.
        (lambda d, p: {"out": p, "model": p / "none"}, "exists and is not a trace"),
        (
            lambda d, p: {"documents": write_table(p / "d", d.head(0)), "model": p / "none"},
            "There are no documents",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, documents, tmp_path, make, sentence):
    result = run(**make(documents, tmp_path))
    assert result.exit_code == 2
    assert sentence in result.output
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert result.stderr.count("Error") == 1
    assert not (tmp_path / "trace").exists()


def test_ctrl_c_leaves_nothing_half_made(run, tmp_path, monkeypatch):
    record, calls = model.inference.record, []

    def third_is_interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return record(*arguments)

    monkeypatch.setattr(model.inference, "record", third_is_interrupted)
    result = run()
    assert result.exit_code == 1
    assert "Aborted" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["documents.parquet"]


def test_the_group_lists_its_commands():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert {"record", "documents"} <= set(result.output.split())
    assert CliRunner().invoke(main, ["no-such-command"]).exit_code == 2
