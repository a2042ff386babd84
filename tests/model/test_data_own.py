"""What a small collection of one's own gets unless it is told: enough held out, a vocabulary of its
size, and the next command."""

import json
import shlex

import pytest
from click.testing import CliRunner

from model.data.__main__ import main
from model.data.own import heldout_fraction, vocabulary_for
from model.data.shards import read_manifest


@pytest.mark.parametrize("sizes", [[1], [12, 12], [60] * 6, [160, 1, 3_000], [2_000] * 24])
def test_enough_is_held_out_of_a_usual_domain_and_never_too_much(sizes):
    fraction = heldout_fraction(sizes)
    usual = sorted(sizes)[len(sizes) // 2]
    assert 0.1 <= fraction <= 0.3
    assert fraction == 0.3 or fraction * usual >= 16


def test_a_vocabulary_grows_with_the_texts_in_whole_rows():
    sizes = [vocabulary_for(size) for size in (0, 150_000, 400_000, 700_000, 10**9)]
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (512, 4096)
    assert not any(size % 32 for size in sizes)


def build(place, *options):
    rows = [
        {"text": f"{word} {number} " * 60, "domain": word}
        for word in ("tea", "sea")
        for number in range(1000, 1020)
    ]
    (place / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ["--documents", place / "own.jsonl", "--out", place / "my own" / "corpus"]
    done = CliRunner().invoke(main, [str(each) for each in ("build", *where, *options)])
    assert done.exit_code == 0, done.output
    return done.output, read_manifest(place / "my own" / "corpus")


def test_a_build_says_what_comes_next_and_keeps_what_it_chose(tmp_path):
    said, manifest = build(tmp_path)
    assert manifest["settings"]["heldout_fraction"] == 0.3
    assert manifest["tokenizer"]["vocab_size"] <= 512
    assert all(domain["heldout"] >= 5 for domain in manifest["domains"].values())
    following = shlex.split(said.partition("Next: ")[2])
    runs = ["--out", str(tmp_path / "my own" / "runs")]
    assert following[:3] == ["python", "-m", "model.train.pair"] and following[-2:] == runs


def test_what_is_asked_for_is_done(tmp_path):
    _, manifest = build(tmp_path, "--heldout-fraction", 0.1, "--vocab-size", 260)
    assert manifest["settings"]["heldout_fraction"] == 0.1
    assert manifest["tokenizer"]["vocab_size"] == 260
