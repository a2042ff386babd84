"""The command: every kind of input makes the same kind of corpus, bad ones leave the old intact."""

import errno
import gzip
import hashlib
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from model.data import collect, own
from model.data import rows as model_rows
from model.data.__main__ import main
from model.data.documents import COLUMNS
from model.data.shards import TokenShard, corpus_digest
from model.data.tokenizer import EOS


def body(name):
    return "\n".join(f"Line {n} of {name} tells what {name} saw at hour {n}." for n in range(14))


def rows(count=40, **fields):
    return [
        {"text": body(f"{domain} {n}"), "domain": domain, "parent": f"p{n}", **fields}
        for domain in ("garden", "kitchen", "harbour")
        for n in range(count)
    ]


def write_jsonl(path, items):
    path.write_text("\n".join(json.dumps(item) for item in items))
    return path


@pytest.fixture
def source(tmp_path):
    return write_jsonl(tmp_path / "own.jsonl", rows(licence="CC0-1.0", source="a book"))


def build(documents, out, *options):
    arguments = ["build", "--documents", documents, "--out", out, "--vocab-size", "280", *options]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def built(documents, out, *options):
    result = build(documents, out, *options)
    assert result.exit_code == 0, result.output
    return pd.read_parquet(out / "documents.parquet")


def fingerprints(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest() for path in files
    }


def sentence_of(result):
    """What the command says on stderr after its progress bars."""
    return result.output.rpartition("Error: ")[2].strip()


def test_the_folder_holds_what_its_readers_expect(source, tmp_path):
    documents = built(source, tmp_path / "corpus")
    manifest = json.loads((tmp_path / "corpus/manifest.json").read_text())
    assert list(documents.columns) == COLUMNS
    assert (manifest["format"], manifest["format_version"]) == ("emo-viz-corpus", 1)
    assert manifest["documents"] == len(documents) == 120
    assert set(manifest["domains"]) == {"garden", "kitchen", "harbour"}
    assert manifest["domains"]["garden"] == {
        "documents": 40,
        "bytes": sum(documents[documents["domain"] == "garden"]["text"].map(len)),
        "train": 36,
        "heldout": 4,
    }
    assert manifest["tokenizer"] == {"vocab_size": 280, "eos_token_id": 0, "pad_token_id": 1}
    assert not list(tmp_path.glob("corpus.*"))


def test_the_shards_hold_each_document_after_an_end_of_text(source, tmp_path):
    documents = built(source, tmp_path / "corpus")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "corpus/tokenizer")
    manifest = json.loads((tmp_path / "corpus/manifest.json").read_text())
    for split in ("train", "heldout"):
        rows = documents[documents["split"] == split].reset_index(drop=True)
        shard = TokenShard.open(tmp_path / "corpus", split)
        assert len(shard) == len(rows) == manifest["splits"][split]["documents"]
        assert len(shard.tokens) == manifest["splits"][split]["tokens"]
        assert shard.index[["id", "domain"]].equals(rows[["id", "domain"]])
        for position, text in enumerate(rows["text"]):
            document = shard.document(position)
            assert document[0] == tokenizer.eos_token_id
            assert tokenizer.decode(document[1:]) == text
        assert int((shard.tokens == 0).sum()) == len(shard)
    assert isinstance(shard.tokens, np.memmap)


def test_an_end_of_text_in_a_document_is_text(tmp_path):
    items = [{"text": f"{EOS} {body(n)} {EOS}", "id": str(n)} for n in range(20)]
    built(write_jsonl(tmp_path / "own.jsonl", items), tmp_path / "corpus")
    shard = TokenShard.open(tmp_path / "corpus", "train")
    assert int((shard.tokens == 0).sum()) == len(shard)


def test_building_twice_gives_the_same_bytes(source, tmp_path):
    built(source, tmp_path / "one")
    built(source, tmp_path / "two")
    assert fingerprints(tmp_path / "one") == fingerprints(tmp_path / "two")
    built(source, tmp_path / "three", "--seed", "1")
    assert (
        fingerprints(tmp_path / "one")["train.bin"]
        != (fingerprints(tmp_path / "three")["train.bin"])
    )


def test_every_kind_of_file_gives_the_same_documents(source, tmp_path):
    (tmp_path / "own.jsonl.gz").write_bytes(gzip.compress(source.read_bytes()))
    pd.DataFrame(rows(licence="CC0-1.0", source="a book")).to_parquet(tmp_path / "own.parquet")
    expected = built(source, tmp_path / "corpus")
    for name in ("own.jsonl.gz", "own.parquet"):
        pd.testing.assert_frame_equal(built(tmp_path / name, tmp_path / name[4:]), expected)
    assert set(expected["licence"]) == {"CC0-1.0"}
    assert set(expected["source"]) == {"a book"}
    assert set(expected["rights"]) == {"own"}


def test_sub_folders_are_domains(tmp_path):
    for row in rows():
        path = tmp_path / "texts" / row["domain"] / f"{row['parent']}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"])
    (tmp_path / "texts/.hidden").write_bytes(b"\xff")
    documents = built(tmp_path / "texts", tmp_path / "corpus")
    assert documents["domain"].value_counts().to_dict() == dict.fromkeys(
        ("garden", "kitchen", "harbour"), 40
    )
    assert "garden/p3.txt" in set(documents["parent"])


def test_optional_fields_may_be_absent_or_empty(tmp_path):
    items = [{"text": body(n), "domain": None, "licence": None, "id": n} for n in range(20)]
    documents = built(write_jsonl(tmp_path / "notes.jsonl", items), tmp_path / "corpus")
    assert set(documents["domain"]) == {"notes"}
    assert set(documents["id"]) == {str(n) for n in range(20)}
    assert set(documents["source"]) == {"notes.jsonl"}


def test_parents_of_own_data_stay_on_one_side(tmp_path):
    items = [{"text": body(f"{n}"), "parent": f"p{n % 30}"} for n in range(300)]
    documents = built(write_jsonl(tmp_path / "own.jsonl", items), tmp_path / "corpus")
    assert set(documents.groupby("parent")["split"].nunique()) == {1}
    assert set(documents["split"]) == {"train", "heldout"}


def test_asked_domains_are_the_only_ones(source, tmp_path):
    documents = built(source, tmp_path / "corpus", "--domains", "garden, harbour")
    assert set(documents["domain"]) == {"garden", "harbour"}


def test_an_existing_tokenizer_is_used_as_it_is(source, tmp_path):
    built(source, tmp_path / "one")
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": body(f"x{n}")} for n in range(30)])
    built(other, tmp_path / "two", "--tokenizer", tmp_path / "one/tokenizer")
    one, two = (
        json.loads((tmp_path / name / "tokenizer/tokenizer.json").read_text())
        for name in ("one", "two")
    )
    assert one == two


def test_a_dataset_is_streamed_by_name(monkeypatch, tmp_path):
    asked = []

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        return iter(rows())

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert len(built("hf:someone/poems:validation", tmp_path / "corpus")) == 120
    built("hf:poems", tmp_path / "other")
    assert asked == [("someone/poems", "validation", True), ("poems", "train", True)]


def saved_dataset(folder, items, index=None):
    """A folder as a Hugging Face dataset's `save_to_disk` writes it, in two shards."""
    folder.mkdir(parents=True)
    names = [f"data-0000{n}-of-00002.arrow" for n in range(2)]
    for name, part in zip(names, (items[::2], items[1::2]), strict=True):
        table = pa.Table.from_pylist(part)
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as s,
        ):
            s.write_table(table)
    (folder / "dataset_info.json").write_text("{}")
    listed = [{"filename": name} for name in names] if index is None else index
    (folder / "state.json").write_text(json.dumps({"_data_files": listed}))
    return folder


def test_a_saved_dataset_is_read_without_the_datasets_package(tmp_path):
    documents = built(saved_dataset(tmp_path / "one", rows()), tmp_path / "corpus")
    assert len(documents) == 120 and set(documents["source"]) == {"one"}
    saved_dataset(tmp_path / "many" / "train", rows())
    (tmp_path / "many" / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    assert len(built(tmp_path / "many", tmp_path / "other")) == 120


def test_files_of_rows_in_a_folder_give_a_text_a_row(tmp_path):
    folder = tmp_path / "shards"
    (folder / "letters").mkdir(parents=True)
    write_jsonl(folder / "letters" / "a.jsonl", [{"text": body(f"a{n}")} for n in range(20)])
    plain = [{"text": body(f"b{n}")} for n in range(20)]
    pd.DataFrame(plain).to_parquet(folder / "letters" / "b.parquet")
    (folder / "letters" / "c.txt.gz").write_bytes(gzip.compress(body("c").encode()))
    documents = built(folder, tmp_path / "corpus")
    assert set(documents["domain"]) == {"letters"}
    assert documents["parent"].nunique() == len(documents) == 41


def test_a_byte_order_mark_is_no_text(source, tmp_path):
    expected = built(source, tmp_path / "plain")
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    pd.testing.assert_frame_equal(built(source, tmp_path / "marked"), expected)


def test_a_file_name_that_is_not_utf8_is_escaped(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(20):
        name = os.fsencode(folder) + f"/{n}".encode() + b"\xff.txt"
        with open(name, "w") as file:
            file.write(body(n))
    assert "3\\udcff.txt" in set(built(folder, tmp_path / "corpus")["parent"])


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    def refuse(*_args):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "texts/locked"))

    (tmp_path / "texts").mkdir()
    monkeypatch.setattr(own.os, "scandir", refuse)
    result = build(tmp_path / "texts", tmp_path / "corpus")
    assert result.exit_code == 2
    assert "texts/locked: Permission denied" in sentence_of(result)


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    items = rows()
    items += [{"text": "short", "domain": "garden"}, {"text": "", "domain": "garden"}]
    items += [{"text": body("x") + "\ufffd"}, {"text": body("garden 1").upper()}]
    lines = body("garden 1").split("\n") + body("new").split("\n")[:3]
    items += [{"text": "\n".join(lines), "domain": "garden"}]
    limit = ["--max-bytes-per-domain", "25000"]
    result = build(write_jsonl(tmp_path / "own.jsonl", items[:120]), tmp_path / "all", *limit)
    assert "Left out" in result.output and "over --max-bytes-per-domain" in result.output
    result = build(write_jsonl(tmp_path / "own.jsonl", items), tmp_path / "corpus")
    assert result.output.rstrip().endswith(
        "Left out: 2 shorter than 400 characters, 1 with characters that could not be decoded, "
        "1 the same as another, 1 mostly the lines of others."
    )
    manifest = json.loads((tmp_path / "corpus/manifest.json").read_text())
    assert manifest["left_out"] == {
        "short": 2,
        "undecodable": 1,
        "duplicate": 1,
        "near_duplicate": 1,
        "over_limit": 0,
    }


def test_rights_that_are_given_are_kept(tmp_path):
    items = [{"text": body(n), "rights": "open" if n % 2 else None} for n in range(20)]
    documents = built(write_jsonl(tmp_path / "own.jsonl", items), tmp_path / "corpus")
    assert documents["rights"].value_counts().to_dict() == {"own": 10, "open": 10}


def test_a_digest_tells_corpora_apart_and_is_the_same_for_the_same(source, tmp_path):
    for name, options in {"a": [], "b": [], "c": ["--seed", "1"]}.items():
        built(source, tmp_path / name, *options)
    digests = {name: corpus_digest(tmp_path / name) for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]
    manifest = json.loads((tmp_path / "a/manifest.json").read_text())
    assert manifest.pop("digest") == digests["a"]
    (tmp_path / "a/manifest.json").write_text(json.dumps(manifest))
    assert corpus_digest(tmp_path / "a") == digests["b"], "computed for a corpus without one"
    (tmp_path / "a/tokenizer/tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer.json cannot be read; run python -m model.data"):
        corpus_digest(tmp_path / "a")


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
        "own.jsonl, line 1 is not UTF-8.",
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
        "own.parquet, row 2 is not UTF-8.",
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
    "a gzip text that is cut short": (
        "own",
        lambda path: (path.mkdir(), (path / "a.txt.gz").write_bytes(gzip.compress(b"a")[:-4])),
        "a.txt.gz is not a complete gzip file.",
    ),
    "empty": ("own.jsonl", lambda path: path.write_text("\n"), "own.jsonl holds no documents."),
    "empty folder": ("own", lambda path: path.mkdir(), "own holds no documents."),
    "a folder with a picture": (
        "own",
        lambda path: (path.mkdir(), (path / "a.png").write_bytes(b"\x89PNG\xff")),
        "a.png is not UTF-8.",
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
    assert sentence_of(result).removeprefix(f"{folder}/") == message
    assert fingerprints(tmp_path / "corpus") == before


def test_a_line_that_would_fill_the_memory_is_refused(monkeypatch, source, tmp_path):
    monkeypatch.setattr(model_rows, "MAX_LINE_BYTES", 2000)
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:3], lines[0] + " " * 2000]))
    result = build(source, tmp_path / "corpus")
    assert result.exit_code == 2
    assert sentence_of(result) == (
        "own.jsonl, line 4 is longer than 2,000 bytes; put one text on a line."
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

    monkeypatch.setattr("model.data.build._manifest", full_disk)
    result = build(source, tmp_path / "corpus", "--seed", "1")
    assert result.exit_code == 2
    assert sentence_of(result) == (
        f"{tmp_path}/corpus cannot be written (No space left on device); make room or name "
        "another place."
    )
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "own.jsonl"}
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
        collect.collect_sources(["chess"], tmp_path / "downloads", 1000)
    assert list((tmp_path / "downloads").iterdir()) == []
