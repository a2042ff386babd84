"""The command: every kind of input makes the same kind of corpus."""

import gzip
import hashlib
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

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
    arguments = ["build", "--documents", documents, "--out", out, "--vocab-size", "280"]
    arguments += ["--heldout-fraction", "0.1", *options]
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
    assert (
        "Left out: 2 shorter than 400 characters, 1 with characters that could not be decoded, "
        "1 the same as another, 1 mostly the lines of others.\n"
    ) in result.output
    manifest = json.loads((tmp_path / "corpus/manifest.json").read_text())
    assert {why: count for why, count in manifest["left_out"].items() if count} == {
        "short": 2,
        "undecodable": 1,
        "duplicate": 1,
        "near_duplicate": 1,
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
