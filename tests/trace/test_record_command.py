"""python -m emo_viz record: one trace, or one sentence and exit code 2."""

import errno
import json

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from emo_viz.__main__ import main
from emo_viz.trace import Trace
from model.run.recording import Recorder


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
    cut = int((trace.facts["dropped_tokens"] > 0).sum())
    assert result.output.endswith(
        f"9 documents, {trace.manifest.tokens} tokens. Of {cut} longer texts only the first 31 "
        "tokens were recorded (--max-tokens).\n"
    )


def test_limit_takes_the_first_documents(run, tmp_path):
    assert "/trace: 1 document, " in run("--limit=1").output
    result = run("--limit=2")
    assert result.exit_code == 0 and "longer" not in result.output
    trace = Trace.open(tmp_path / "trace")
    assert trace.documents["id"].tolist() == ["doc-0", "doc-1"]
    assert trace.manifest.level == "documents"


def write_table(path, table: pd.DataFrame):
    table.to_parquet(path)
    return path


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda d, p: {"model": p / "none"}, "There is no checkpoint at"),
        (lambda d, p: {"documents": p / "none"}, "There is no file"),
        (lambda d, p: {"documents": __file__}, "is not a Parquet file"),
        (lambda d, p: {"documents": write_table(p / "d", d[["id"]])}, "lack the column text"),
        (lambda d, p: {"documents": write_table(p / "d", d.head(0))}, "There are no documents"),
        (lambda d, p: {"documents": write_table(p / "d", d.assign(text=" "))}, "have no text"),
        (lambda d, p: {"max-tokens": 1000}, "within 2 and 300"),
        # Said before a model is loaded, which can take minutes.
        (lambda d, p: {"out": p, "model": p / "none"}, "exists and is not a trace"),
        (lambda d, p: {"out": "/dev/null/t", "documents": p / "none"}, "cannot be written"),
        (
            lambda d, p: {"documents": write_table(p / "d", d.assign(part="one"))},
            "The part of document doc-0 is 'one', not a whole number",
        ),
        (lambda d, p: {"documents": corrupt(write_table(p / "d", d))}, "/d is not a Parquet file"),
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


def test_ids_and_domains_that_are_numbers_are_text_in_the_trace(run, documents, tmp_path):
    numbers = documents.assign(id=range(9), domain=[1, 2, 3] * 3)
    assert run(documents=write_table(tmp_path / "d", numbers)).exit_code == 0
    trace = Trace.open(tmp_path / "trace")
    assert trace.documents["id"].tolist() == [str(number) for number in range(9)]
    assert trace.query("select distinct domain from documents order by 1")["domain"].tolist() == [
        "1",
        "2",
        "3",
    ]


def test_names_that_are_not_utf_8(run, documents, tmp_path):
    place = tmp_path / "d\udcff.parquet"
    with place.open("wb") as file:
        documents.to_parquet(file)
    result = run(documents=place, out=tmp_path / "t\udcff", model=tmp_path / "m\udcff")
    assert result.exit_code == 2 and "There is no checkpoint at" in result.output
    result = run(documents=place, out=tmp_path / "t\udcff")
    assert result.exit_code == 0, result.output
    assert len(Trace.open(tmp_path / "t\udcff").documents) == 9


def test_an_index_that_leads_outside_is_never_followed(run, model, tokenizer, tmp_path):
    folder = tmp_path / "sharded"
    model.save_pretrained(folder, max_shard_size="20KB")
    tokenizer.save_pretrained(folder)
    assert run(model=folder, out=tmp_path / "first").exit_code == 0
    index = folder / "model.safetensors.index.json"
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.rename(tmp_path / shard.name)
    index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    result = run(model=folder)
    assert result.exit_code == 2
    assert "names a file outside of itself" in result.output
    assert not (tmp_path / "trace").exists()


def test_a_full_disk_is_one_sentence_and_loses_nothing(run, tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("emo_viz.trace.writer._GrowingArray.append", full)
    result = run()
    assert result.exit_code == 2
    assert "trace cannot be written (No space left on device)" in result.output
    kept = {".trace.partial", "documents.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    monkeypatch.undo()
    result = run()
    assert "goes on after 9 documents" in result.stderr and result.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"trace", "documents.parquet"}


def test_ctrl_c_leaves_nothing_half_made(run, tmp_path, monkeypatch):
    batch, calls = Recorder._run, []

    def third_is_interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batch(*arguments)

    monkeypatch.setattr(Recorder, "_run", third_is_interrupted)
    result = run()
    assert result.exit_code == 1
    assert "Aborted" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["documents.parquet"]


def test_documents_need_only_a_text(run, documents, tmp_path):
    texts = tmp_path / "notes.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents["text"]))
    result = run("--batch-tokens=200", documents=texts)
    assert result.exit_code == 0, result.output
    trace = Trace.open(tmp_path / "trace")
    assert trace.documents["id"].tolist() == [str(n) for n in range(1, 10)]
    assert set(trace.documents["domain"]) == {"notes"}


def test_the_group_lists_its_commands():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert {"record", "documents"} <= set(result.output.split())
    assert CliRunner().invoke(main, ["no-such-command"]).exit_code == 2
