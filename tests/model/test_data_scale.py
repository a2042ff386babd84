"""A corpus is the same whatever the number of processes, and wherever its build was killed."""

import json
import signal
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from model.data import alike, collect, known, ledger, spool, tokens
from model.data import build as model_build
from model.data.alike import Alike, signature
from model.data.repetition import repeats
from model.data.shards import TokenShard, read_manifest
from model.data.work import work_folder
from tests.model.test_data_build import build, built, fingerprints, rows, write_jsonl

SMALL = {"model.data.spool.PART_BYTES": 9000, "model.data.tokens.PART_BYTES": 9000}


@pytest.fixture
def small_parts(monkeypatch):
    for name, size in SMALL.items():
        monkeypatch.setattr(name, size)


@pytest.fixture
def source(tmp_path):
    return write_jsonl(tmp_path / "own.jsonl", [*rows(), {"text": "short"}, *rows(count=3)])


def left_out(result):
    """The line that says what a build left out."""
    (line,) = (line for line in result.output.splitlines() if line.startswith("Left out: "))
    return line


def test_any_number_of_workers_gives_the_same_bytes(source, tmp_path, small_parts, monkeypatch):
    counted = []
    make = tokens.make_parts
    monkeypatch.setattr(
        "model.data.write.make_parts",
        lambda jobs, *rest: (counted.append(len(jobs)), make(jobs, *rest)),
    )
    options = ["--no-repetition"]
    for workers in (1, 2):
        built(source, tmp_path / f"corpus{workers}", "--workers", workers, *options)
    assert counted[0] > 4
    one, two = (fingerprints(tmp_path / f"corpus{workers}") for workers in (1, 2))
    assert one == two
    monkeypatch.undo()
    built(source, tmp_path / "whole", *options)
    assert fingerprints(tmp_path / "whole") == one, "nor does it depend on the size of the parts"


KILLED = """
import os, signal, sys
from model.data import spool, tokens
spool.PART_BYTES = tokens.PART_BYTES = 9000
left = int(sys.argv[1])
def dying(new_file):
    from contextlib import contextmanager
    @contextmanager
    def wrapped(path):
        global left
        left -= 1
        with new_file(path) as temporary:
            if left < 0:
                temporary.write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            yield temporary
    return wrapped
spool.new_file, tokens.new_file = dying(spool.new_file), dying(tokens.new_file)
from model.data.__main__ import main
main(sys.argv[2:])
"""


def test_a_build_that_is_killed_goes_on_to_the_same_bytes(source, tmp_path, small_parts):
    built(source, tmp_path / "expected")
    out = tmp_path / "corpus"
    arguments = ["build", "--documents", source, "--out", out, "--vocab-size", "280"]
    arguments += ["--heldout-fraction", "0.1"]
    for files in (5, 14):  # a part of the texts, then one of the tokens
        command = [sys.executable, "-c", KILLED, files, *arguments]
        killed = subprocess.run([str(part) for part in command], capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not out.exists()
        assert len(list(tmp_path.glob(".corpus.partial/*.*"))) >= files
    half = tmp_path / ".corpus.a1b2c3d4.tmp"  # killed while it wrote the corpus itself
    half.mkdir()
    (half / "train.bin").write_bytes(b"half")
    result = build(source, out)
    assert "it goes on from there" in result.output
    assert fingerprints(out) == fingerprints(tmp_path / "expected")
    assert not list(tmp_path.glob(".*"))


def test_what_was_read_is_not_taken_again(source, tmp_path, small_parts, monkeypatch):
    """Stopped at every text in turn: documents, counts and places are those of one go."""
    items = [json.loads(line) for line in source.read_text().splitlines()[:24]]
    write_jsonl(source, items)
    lines = source.read_bytes().splitlines()
    source.write_bytes(b"\n".join([b'{"text": "\xff"}', *lines[:12], b"\xff\xfe", *lines[12:]]))
    expected = left_out(build(source, tmp_path / "expected"))
    assert "2 that are not UTF-8 (own.jsonl, line 1; own.jsonl, line 14)" in expected
    taken = []
    add, read = collect.Collector.add, collect.read_texts

    def counting(self, text):
        taken.append(text.place)
        add(self, text)

    monkeypatch.setattr(collect.Collector, "add", counting)
    monkeypatch.setattr(spool, "PART_BYTES", 1)
    for stop in (0, 1, 13, 20):

        def stopped(*arguments, stop=stop):
            for number, text in enumerate(read(*arguments)):
                if number == stop:
                    raise KeyboardInterrupt
                yield text

        monkeypatch.setattr(collect, "read_texts", stopped)
        assert build(source, tmp_path / "corpus").exit_code == 130
    monkeypatch.setattr(collect, "read_texts", read)
    assert left_out(build(source, tmp_path / "corpus")) == expected
    assert fingerprints(tmp_path / "corpus") == fingerprints(tmp_path / "expected")
    assert sorted(taken) == sorted(set(taken))


def test_what_cannot_be_had_for_now_costs_nothing_that_was_read(tmp_path, small_parts, monkeypatch):
    items, breaks = [dict(row, id=f"t{n}") for n, row in enumerate(rows())], [100, 60]

    def load_dataset(_name, **_options):
        stop = breaks.pop() if breaks else len(items)
        yield from items[:stop]
        if stop < len(items):
            raise ConnectionError("the server is gone")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    taken, add = [], collect.Collector.add
    monkeypatch.setattr(
        collect.Collector, "add", lambda self, text: (taken.append(text.id), add(self, text))
    )
    result = build("hf:poems", tmp_path / "corpus")
    assert result.exit_code == 2 and "Row 61 of the dataset poems cannot be read" in result.output
    kept = len(list((tmp_path / ".corpus.partial").glob("rows-*")))
    assert kept > 1
    result = build("hf:poems", tmp_path / "corpus")
    assert result.exit_code == 2 and "it goes on from there" in result.output
    assert len(list((tmp_path / ".corpus.partial").glob("rows-*"))) > kept
    built("hf:poems", tmp_path / "corpus")
    assert 120 <= len(taken) < 120 + 60 + 100 - 60, "what was whole is not taken again"
    assert len(set(taken)) == 120 and not list(tmp_path.glob(".*"))


def test_a_build_of_other_documents_begins_anew(source, tmp_path, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(model_build, "write_corpus", interrupted)
    result = build(source, tmp_path / "corpus")
    assert result.exit_code == 130 and "the same command goes on" in result.output
    monkeypatch.undo()
    other = write_jsonl(source, rows(count=30))
    assert "it begins anew" in build(other, tmp_path / "corpus").output
    assert len(pd.read_parquet(tmp_path / "corpus/documents.parquet")) == 90


def test_two_builds_of_one_corpus_are_refused_and_so_is_a_foreign_folder(source, tmp_path):
    with work_folder(tmp_path / "corpus", {}, print):
        result = build(source, tmp_path / "corpus")
        assert result.exit_code == 2 and "Another process is building" in result.output
    (tmp_path / ".corpus.partial").mkdir()
    (tmp_path / ".corpus.partial/mine.txt").write_text("mine")
    result = build(source, tmp_path / "corpus")
    assert result.exit_code == 2 and "is not an unfinished corpus" in result.output
    assert (tmp_path / ".corpus.partial/mine.txt").read_text() == "mine"


def test_ids_above_65536_take_four_bytes(source, tmp_path, small_parts):
    """A saved tokenizer of as many: the words of the texts have the last ids."""
    built(source, tmp_path / "small")
    file = tmp_path / "small/tokenizer/tokenizer.json"
    large = json.loads(file.read_text())
    vocabulary = large["model"]["vocab"]
    moved = {word: at + 70_000 if at >= 258 else at for word, at in vocabulary.items()}
    filling = {f"<{at}>": at for at in range(258, 70_258)}
    large["model"]["vocab"] = moved | filling
    file.write_text(json.dumps(large))
    built(source, tmp_path / "large", "--tokenizer", tmp_path / "small/tokenizer")
    assert read_manifest(tmp_path / "large")["format_version"] == 2
    assert read_manifest(tmp_path / "small")["format_version"] == 1
    for split in ("train", "heldout"):
        small, wide = (TokenShard.open(tmp_path / name, split) for name in ("small", "large"))
        assert (small.tokens.dtype, wide.tokens.dtype) == (np.uint16, np.uint32)
        same = np.where(small.tokens >= 258, small.tokens.astype(np.uint32) + 70_000, small.tokens)
        assert same.max() > 65_536 and (wide.tokens == same).all()


def slow_repeats(row, max_period, max_count):
    """Every start, period and count, one by one."""
    return any(
        row[start : start + period] * (max_count + 1)
        == row[start : start + period * (max_count + 1)]
        for period in range(1, max_period + 1)
        for start in range(len(row) - period * (max_count + 1) + 1)
    )


def test_repetition_is_what_a_slow_search_finds():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        row = rng.integers(0, 3, rng.integers(0, 40)).tolist()
        unit = rng.integers(0, 3, rng.integers(1, 5)).tolist()
        row += unit * int(rng.integers(2, 6)) + row[:3]
        expected = slow_repeats(row, 3, 3)
        assert repeats(np.array(row, np.uint16), 3, 3) == expected
        found.append(expected)
    assert 50 < sum(found) < 250


def test_documents_that_repeat_themselves_leave_training_alone(source, tmp_path):
    items = [*rows(), *({"text": f"{n} " + "-=" * 400, "parent": f"r{n}"} for n in range(30))]
    built(write_jsonl(source, items), tmp_path / "all")
    kept = built(
        source, tmp_path / "corpus", "--no-repetition", "--tokenizer", tmp_path / "all/tokenizer"
    )
    repeating = kept["text"].str.contains("-=-=")
    assert set(kept[repeating]["split"]) == {"heldout"}
    left = read_manifest(tmp_path / "corpus")["left_out"]["repetitive"]
    assert left == 30 - repeating.sum() > 20
    assert len(TokenShard.open(tmp_path / "corpus", "train")) == (kept["split"] == "train").sum()


def jaccard(one, other):
    sets = [
        {tuple(words[n : n + 5]) for n in range(len(words) - 4)}
        for words in (one.tolist(), other.tolist())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_of_what_is_as_alike_as_asked_hardly_any_is_missed():
    """Against the estimate of every pair."""
    rng = np.random.default_rng(0)
    for threshold in (0.6, 0.7, 0.8):
        held = [rng.integers(0, 4096, 300) for _ in range(150)]
        copies = [row.copy() for row in held]
        for row in copies:  # a changed token is in five sequences
            row[: int(rng.uniform(0, 1.2) * (1 - threshold) / (1 + threshold) * 300)] += 4096
        first, other = ([signature(row) for row in rows] for rows in (held, copies))
        index = Alike(threshold)
        index.add(first)
        wanted = [np.mean(one == two) >= threshold for one, two in zip(first, other, strict=True)]
        found = [index.found(each) for each in other]
        assert not any(f and not w for f, w in zip(found, wanted, strict=True))
        assert 20 < sum(wanted) < 150 and sum(found) >= 0.95 * sum(wanted), threshold


def test_a_build_lets_go_of_its_databases(source, tmp_path, monkeypatch):
    opened, original = [], known.new_database

    def noted(*arguments):
        opened.append(original(*arguments))
        return opened[-1]

    for module in (known, ledger, alike):
        monkeypatch.setattr(module, "new_database", noted)
    result = build(source, tmp_path / "corpus", "--apart", "0.7")
    assert "Every training document is left out" in result.output and len(opened) == 3
    for base in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            base.execute("SELECT 1")


def test_near_duplicates_of_held_out_documents_leave_training(tmp_path):
    """In another domain, where lines are not compared, and with every seventh line another."""
    rng = np.random.default_rng(0)
    words = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "en", "or", "ists")]
    items = []
    for n in range(40):
        lines = [" ".join(rng.choice(words, 12)) for _ in range(21)]
        items.append({"text": "\n".join(lines), "domain": "garden", "parent": f"p{n}"})
        lines[::7] = [" ".join(rng.choice(words, 12)) for _ in lines[::7]]
        items.append({"text": "\n".join(lines), "domain": "attic", "parent": f"copy{n}"})
    source = write_jsonl(tmp_path / "own.jsonl", items)
    built(source, tmp_path / "all")
    kept = built(
        source, tmp_path / "corpus", "--apart", "0.6", "--tokenizer", tmp_path / "all/tokenizer"
    )
    left = read_manifest(tmp_path / "corpus")["left_out"]["near_heldout"]
    train, heldout = (TokenShard.open(tmp_path / "all", split) for split in ("train", "heldout"))
    shares = pd.Series(
        {
            train.index["id"][n]: max(
                jaccard(train.document(n)[1:], heldout.document(m)[1:]) for m in range(len(heldout))
            )
            for n in range(len(train))
        }
    )
    gone = ~shares.index.isin(kept["id"])
    assert 0 < gone.sum() == left < len(train)
    assert shares[gone].min() > 0.5 and shares[~gone].max() < 0.7, "the estimate is 0.04 off"


def test_what_is_held_out_says_how_much_of_it_is_seen(source, tmp_path):
    documents = built(source, tmp_path / "corpus")
    train, heldout = (TokenShard.open(tmp_path / "corpus", split) for split in ("train", "heldout"))
    own = [train.document(n)[1:].tolist() for n in range(len(train))]
    known = {tuple(row[n : n + 20]) for row in own for n in range(len(row) - 19)}
    held = documents[documents["split"] == "heldout"]
    for number, seen in enumerate(held["seen"]):
        row = heldout.document(number)[1:].tolist()
        slow = [tuple(row[n : n + 20]) in known for n in range(len(row) - 19)]
        assert seen == pytest.approx(np.mean(slow))
    assert held["seen"].max() > 0
    assert documents[documents["split"] == "train"]["seen"].isna().all()


def test_a_tokenizer_that_does_not_know_the_texts_is_refused(source, tmp_path):
    built(source, tmp_path / "corpus")
    file = tmp_path / "corpus/tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] = {
        "type": "WordLevel",
        "vocab": {"<|endoftext|>": 0, "<|padding|>": 1, "?": 2},
    }
    content["model"]["unk_token"] = "?"
    file.write_text(json.dumps(content))
    config = tmp_path / "corpus/tokenizer/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"unk_token": "?"}))
    before = fingerprints(tmp_path / "corpus")
    result = build(source, tmp_path / "new", "--tokenizer", tmp_path / "corpus/tokenizer")
    assert result.exit_code == 2
    assert "The tokenizer does not know these texts: " in result.output
    assert fingerprints(tmp_path / "corpus") == before and not (tmp_path / "new").exists()


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("model.data.rows.MAX_BYTES", 3000)
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("x" * 3001)
    result = build(folder, tmp_path / "corpus")
    assert result.exit_code == 2
    assert "a.txt is longer than 3,000 bytes; cut the text into several" in result.output
    pd.DataFrame({"text": ["x" * 3001], "image": ["y"]}).to_parquet(tmp_path / "a.parquet")
    result = build(tmp_path / "a.parquet", tmp_path / "corpus")
    assert result.exit_code == 2 and "is longer than 3,000 bytes" in result.output
