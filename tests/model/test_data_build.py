"""The command: every kind of input makes the same kind of corpus, bad ones leave the old intact."""

import gzip
import hashlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from model.data import collect, own
from model.data.__main__ import main
from model.data.documents import COLUMNS
from model.data.shards import TokenShard
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
    assert set(expected["rights"]) == {"research"}


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
        "No document is left; a text needs at least 400 characters.",
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


def test_a_build_that_dies_while_writing_keeps_the_old_corpus(source, tmp_path, monkeypatch):
    built(source, tmp_path / "corpus")
    before = fingerprints(tmp_path / "corpus")

    def full_disk(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.data.build._manifest", full_disk)
    result = build(source, tmp_path / "corpus", "--seed", "1")
    assert result.exit_code == 2
    assert sentence_of(result) == f"{tmp_path}/corpus: No space left on device."
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
