"""Bad input ends in one sentence with exit code 2; the old corpus stays, nothing else is lost."""

import errno
import gzip
import json
import sys
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from model.data import collect, own
from model.data import rows as model_rows
from model.data.__main__ import main
from model.data.spool import Spool
from tests.model.test_data_build import (
    body,
    build,
    built,
    fingerprints,
    rows,
    saved_dataset,
    sentence_of,
    write_jsonl,
)


@pytest.fixture
def source(tmp_path):
    return write_jsonl(tmp_path / "own.jsonl", rows())


@pytest.mark.parametrize("out", ["texts/corpus", ".", "texts"])
def test_a_corpus_is_not_written_into_what_is_read_nor_around_it(out, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(body("a"))
    result = build(tmp_path / "texts", tmp_path / out)
    assert result.exit_code == 2
    assert "lie one inside the other" in sentence_of(result)
    assert [path.name for path in (tmp_path / "texts").iterdir()] == ["a.txt"]


def test_documents_that_lie_in_the_old_corpus_are_not_lost_with_it(source, tmp_path):
    built(source, tmp_path / "corpus")
    inner = write_jsonl(tmp_path / "corpus/mine.jsonl", rows())
    before = fingerprints(tmp_path / "corpus")
    assert "lie one inside the other" in sentence_of(build(inner, tmp_path / "corpus"))
    assert "mine.jsonl beside its corpus" in sentence_of(build(source, tmp_path / "corpus"))
    assert fingerprints(tmp_path / "corpus") == before


def test_an_output_that_cannot_be_written_is_said_before_anything_is_read(source, tmp_path):
    (tmp_path / "file").write_text("")
    result = build(source, tmp_path / "file" / "corpus")
    assert result.exit_code == 2
    assert "cannot be written (" in sentence_of(result) and "texts/s" not in result.output


def corrupt_parquet(path):
    """Its footer is whole, so that it opens; the page that holds the texts is not."""
    pd.DataFrame(rows()).to_parquet(path, compression="snappy")
    data = bytearray(path.read_bytes())
    data[40:400] = b"\xff" * 360
    path.write_bytes(data)


def parquet_of_bytes(path):
    texts = pa.array([body("a").encode(), b"\xff\xfe"], pa.binary())
    unchecked = pa.Array.from_buffers(pa.string(), 2, texts.buffers())
    pq.write_table(pa.table({"text": unchecked}), path)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:300])


def bad_gzip(path):
    path.write_bytes(gzip.compress(json.dumps({"text": body("a")}).encode())[:-20])


BAD_FILES = {
    "the field is missing": (
        "own.jsonl",
        lambda path: write_jsonl(path, [*rows(2), {"title": "none"}]),
        "own.jsonl, line 7: the field text is missing.",
    ),
    "the text is a number": (
        "own.jsonl",
        lambda path: write_jsonl(path, [{"text": 3}]),
        "own.jsonl, line 1: the field text is not a string.",
    ),
    "the domain is a list": (
        "own.jsonl",
        lambda path: write_jsonl(path, [{"text": body("a"), "domain": ["a"]}]),
        "own.jsonl, line 1: the field domain is not a string.",
    ),
    "half a surrogate pair": (
        "own.jsonl",
        lambda path: path.write_text('{"text": "\\ud800"}'),
        "own.jsonl, line 1: the field text is not valid Unicode.",
    ),
    "no JSON": (
        "own.jsonl",
        lambda path: path.write_text('\n{"text": '),
        "own.jsonl, line 2 is not JSON.",
    ),
    "no object": (
        "own.jsonl",
        lambda path: path.write_text("[1]"),
        "own.jsonl, line 1 is not a JSON object.",
    ),
    "no UTF-8": (
        "own.jsonl",
        lambda path: path.write_bytes(b'{"text": "\xff"}'),
        "No document is left: 1 that are not UTF-8 (own.jsonl, line 1).",
    ),
    "broken gzip": ("own.jsonl.gz", bad_gzip, "own.jsonl.gz is not a complete gzip file."),
    "no gzip": (
        "own.jsonl.gz",
        lambda path: path.write_text("plain"),
        "own.jsonl.gz is not a complete gzip file.",
    ),
    "half a character in a field": (
        "own.jsonl",
        lambda path: path.write_text('{"text": "a", "domain": "\\ud83d"}'),
        "own.jsonl, line 1: the field domain is not valid Unicode.",
    ),
    "half a character in an id": (
        "own.jsonl",
        lambda path: path.write_text('{"text": "a", "id": "\\ud83d"}'),
        "own.jsonl, line 1: the field id is not valid Unicode.",
    ),
    "a number of 5,000 digits": (
        "own.jsonl",
        lambda path: path.write_text('\n{"text": "a", "n": %s}' % ("9" * 5000)),
        "own.jsonl, line 2 holds a number with too many digits.",
    ),
    "too deep": (
        "own.jsonl",
        lambda path: path.write_text("[" * 100_000),
        "own.jsonl, line 1 is nested too deeply.",
    ),
    "a text that is NaN": (
        "own.jsonl",
        lambda path: path.write_text('{"text": NaN}'),
        "own.jsonl, line 1: the field text is missing.",
    ),
    "an id that is true": (
        "own.jsonl",
        lambda path: path.write_text('{"text": "a", "id": true}'),
        "own.jsonl, line 1: the field id is not a string.",
    ),
    "an id twice": (
        "own.jsonl",
        lambda path: write_jsonl(path, [{"text": body(n), "id": n % 2} for n in range(3)]),
        "The id 0 stands twice (own.jsonl, line 1 and own.jsonl, line 3); ids must be unique.",
    ),
    "a damaged page of Parquet": (
        "own.parquet",
        corrupt_parquet,
        "own.parquet is not a Parquet file that can be read.",
    ),
    "Parquet with a text that is not UTF-8": (
        "own.parquet",
        parquet_of_bytes,
        "The documents are too few, or of too few parents, to hold some out (left out: 1 that are "
        "not UTF-8 (own.parquet, row 2)); give more of them or a larger --heldout-fraction.",
    ),
    "a dataset whose index leads outside": (
        "own",
        lambda path: saved_dataset(path, rows(2), [{"filename": "../own.arrow"}]),
        "own names a file outside of itself ('../own.arrow'); get it from a source you trust.",
    ),
    "a dataset without a shard": (
        "own",
        lambda path: (saved_dataset(path, rows(2)) / "data-00001-of-00002.arrow").unlink(),
        "own/data-00001-of-00002.arrow is missing; save the dataset again.",
    ),
    "a dataset with half a shard": (
        "own",
        lambda path: cut_short(saved_dataset(path, rows(2)) / "data-00000-of-00002.arrow"),
        "own/data-00000-of-00002.arrow is damaged; save the dataset again.",
    ),
    "a dataset without an index": (
        "own",
        lambda path: (saved_dataset(path, rows(2)) / "state.json").unlink(),
        "own/state.json cannot be read (No such file or directory); check the path.",
    ),
    "a dataset that lists nothing": (
        "own",
        lambda path: saved_dataset(path, rows(2), []),
        "own/state.json lists no _data_files; save the dataset again.",
    ),
    "a bad line in a folder": (
        "own",
        lambda path: (path.mkdir(), (path / "a.jsonl").write_text("{")),
        "own/a.jsonl, line 1 is not JSON.",
    ),
    "a bad line in a folder of a folder": (
        "own",
        lambda path: ((path / "b").mkdir(parents=True), (path / "b/a.jsonl").write_text("{")),
        "own/b/a.jsonl, line 1 is not JSON.",
    ),
    "a gzip text that is cut short": (
        "own",
        lambda path: (path.mkdir(), (path / "a.txt.gz").write_bytes(gzip.compress(b"a")[:-4])),
        "own/a.txt.gz is not a complete gzip file.",
    ),
    "empty": ("own.jsonl", lambda path: path.write_text("\n"), "own.jsonl holds no documents."),
    "empty folder": ("own", lambda path: path.mkdir(), "own holds no documents."),
    "a folder with a picture": (
        "own",
        lambda path: (path.mkdir(), (path / "a.png").write_bytes(b"\x89PNG\xff")),
        "No document is left: 1 that are not UTF-8 (a.png).",
    ),
    "unknown extension": (
        "own.csv",
        lambda path: path.write_text("text\n"),
        "own.csv has an unknown extension; give .jsonl, .jsonl.gz or .parquet, a folder or "
        "hf:NAME.",
    ),
    "no Parquet": (
        "own.parquet",
        lambda path: path.write_text("PAR1"),
        "own.parquet is not a Parquet file that can be read.",
    ),
    "no text column": (
        "own.parquet",
        lambda path: pd.DataFrame({"content": ["a"]}).to_parquet(path),
        "own.parquet: the column text is missing.",
    ),
    "an empty cell": (
        "own.parquet",
        lambda path: pd.DataFrame({"text": [body("a"), None]}).to_parquet(path),
        "own.parquet, row 2: the field text is missing.",
    ),
    "absent": ("own.jsonl", lambda path: None, "own.jsonl does not exist."),
    "short texts": (
        "own.jsonl",
        lambda path: write_jsonl(path, [{"text": "short"}]),
        "No document is left: 1 shorter than 400 characters.",
    ),
    "one parent": (
        "own.jsonl",
        lambda path: write_jsonl(path, [{"text": body(n), "parent": "a"} for n in range(9)]),
        "The documents are too few, or of too few parents, to hold some out; "
        "give more of them or a larger --heldout-fraction.",
    ),
}


@pytest.mark.parametrize(("name", "write", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_data_ends_in_one_sentence_and_keeps_the_old_corpus(
    name, write, message, source, tmp_path
):
    built(source, tmp_path / "corpus")
    before = fingerprints(tmp_path / "corpus")
    folder = tmp_path / "bad"
    folder.mkdir()
    write(folder / name)
    result = build(folder / name, tmp_path / "corpus")
    assert result.exit_code == 2
    assert sentence_of(result) == (f"{folder}/{message}" if message[:3] == "own" else message)
    assert fingerprints(tmp_path / "corpus") == before


def test_a_line_that_would_fill_the_memory_is_refused(monkeypatch, source, tmp_path):
    monkeypatch.setattr(model_rows, "MAX_BYTES", 2000)
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:3], lines[0] + " " * 2000]))
    result = build(source, tmp_path / "corpus")
    assert result.exit_code == 2
    assert sentence_of(result) == (
        f"{source}, line 4 is longer than 2,000 bytes; cut the text into several, with one parent."
    )


def test_an_unknown_domain_is_answered_with_those_that_exist(source, tmp_path):
    result = build(source, tmp_path / "corpus", "--domains", "garden,attic")
    assert result.exit_code == 2
    assert sentence_of(result) == (
        "There are no documents of attic; choose from garden, harbour, kitchen."
    )


def test_an_unknown_domain_of_the_sources_is_refused_before_any_download(tmp_path):
    arguments = ["build", "--domains", "attic", "--downloads", str(tmp_path / "downloads")]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "corpus")])
    assert result.exit_code == 2
    assert "choose from chemistry, chess," in sentence_of(result)
    assert not (tmp_path / "downloads").exists()


def test_without_the_datasets_package_its_name_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    result = build("hf:poems", tmp_path / "corpus")
    assert result.exit_code == 2
    assert sentence_of(result) == "hf:poems needs the package datasets: pip install datasets."


def test_a_dataset_that_cannot_be_loaded_says_why(monkeypatch, tmp_path):
    def load_dataset(*_args, **_options):
        raise RuntimeError("there is no poems\nand a long trace")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    result = build("hf:poems", tmp_path / "corpus")
    assert result.exit_code == 2
    assert sentence_of(result) == "The dataset poems cannot be loaded: there is no poems"


def test_a_dataset_that_breaks_off_names_the_row(monkeypatch, tmp_path):
    def rows_then_nothing(*_args, **_options):
        yield from rows(1)
        raise ConnectionError("the server is gone")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=rows_then_nothing))
    result = build("hf:poems", tmp_path / "corpus")
    assert result.exit_code == 2
    expected = "Row 4 of the dataset poems cannot be read: the server is gone"
    assert sentence_of(result) == expected


def test_a_build_that_dies_while_writing_keeps_the_old_corpus(source, tmp_path, monkeypatch):
    built(source, tmp_path / "corpus")
    before = fingerprints(tmp_path / "corpus")

    def full_disk(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.data.write._manifest", full_disk)
    result = build(source, tmp_path / "corpus", "--seed", "1")
    assert result.exit_code == 2
    assert sentence_of(result) == (
        f"{tmp_path}/corpus cannot be written (No space left on device); make room or name "
        "another place."
    )
    kept = {"corpus", "own.jsonl", ".corpus.partial"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert fingerprints(tmp_path / "corpus") == before
    monkeypatch.undo()
    built(source, tmp_path / "corpus", "--seed", "1")
    assert fingerprints(tmp_path / "corpus") != before


@pytest.mark.parametrize("manifest", [None, "{}", "[]", "no json", '{"format": "other"}'])
def test_a_folder_that_is_no_corpus_is_never_replaced(manifest, source, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_bytes(b"png")
    if manifest is not None:
        (tmp_path / "photos/manifest.json").write_text(manifest)
    before = fingerprints(tmp_path / "photos")
    result = build(source, tmp_path / "photos")
    assert result.exit_code == 2
    assert "holds something that is no corpus" in sentence_of(result)
    assert fingerprints(tmp_path / "photos") == before


def test_an_output_path_that_is_a_file_is_refused(source, tmp_path):
    result = build(source, source)
    assert result.exit_code == 2
    assert "is a file" in sentence_of(result)


@pytest.mark.parametrize(
    "option",
    [["--vocab-size", "200"], ["--heldout-fraction", "1"], ["--max-bytes-per-domain", "0"]],
    ids=lambda option: option[0],
)
def test_options_out_of_range_are_refused(option, source, tmp_path):
    result = build(source, tmp_path / "corpus", *option)
    assert result.exit_code == 2
    assert option[0] in result.output
    assert not (tmp_path / "corpus").exists()


def test_sources_that_give_nothing_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(collect, "domain_texts", lambda *_: iter(()))
    with pytest.raises(own.CorpusError, match="The packages of chess gave no documents"):
        collector = collect.Collector(1000, Spool(tmp_path))
        collect.collect_sources(["chess"], tmp_path / "downloads", collector)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    def refuse(*_args):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "texts/locked"))

    (tmp_path / "texts").mkdir()
    monkeypatch.setattr(own.os, "scandir", refuse)
    result = build(tmp_path / "texts", tmp_path / "corpus")
    assert result.exit_code == 2
    assert "texts/locked: Permission denied" in sentence_of(result)
