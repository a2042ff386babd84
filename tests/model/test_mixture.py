"""Mixtures: weights hold everywhere, epochs are whole, and a row depends on its number alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.data.mixture import BLOCK, Mixture, in_words, read_mixture
from model.train.batches import PackedRows
from tests.model.test_train import PRESET
from tests.model.test_train_command import corpora, refused, tiny, train  # noqa: F401

WEIGHTS = {"news": 3.0, "recipes": 1.0, "verse": 0.5}
SIZES = {"news": 500, "recipes": 70, "verse": 11}


@pytest.mark.parametrize("first", [0, 17, BLOCK - 40, 3 * BLOCK + 5])
def test_weights_hold_in_every_stretch_of_rows(first):
    mixture = Mixture(WEIGHTS, SIZES, seed=3)
    for length in (9, 64, 900):
        found = [mixture.row(index)[0] for index in range(first, first + length)]
        counts = np.bincount(found, minlength=3)
        expected = length * np.array([3, 1, 0.5]) / 4.5
        assert abs(counts - expected).max() < 3


def test_every_epoch_of_a_domain_takes_each_of_its_rows_once():
    mixture = Mixture(WEIGHTS, SIZES, seed=3)
    taken = [[], [], []]
    for index in range(BLOCK + 2000):  # past the end of a block
        domain, row = mixture.row(index)
        taken[domain].append(row)
    for rows, size in zip(taken, (500, 70, 11), strict=True):
        epochs = [rows[start : start + size] for start in range(0, len(rows) - size, size)]
        assert len(epochs) > 50
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert epochs[0] != epochs[1]
    found = mixture.repeats(BLOCK + 2000)
    assert list(found.values()) == [len(r) / s for r, s in zip(taken, (500, 70, 11), strict=True)]


def test_a_row_depends_on_weights_seed_and_its_number_alone():
    numbers = [5, BLOCK + 3, 0, 2 * BLOCK, 7]
    once = Mixture(WEIGHTS, SIZES, seed=3)
    first = [once.row(number) for number in numbers]
    assert first == [Mixture(WEIGHTS, SIZES, seed=3).row(number) for number in numbers]
    other = Mixture(WEIGHTS, SIZES, seed=4)
    assert [once.row(n) for n in range(50)] != [other.row(n) for n in range(50)]


def test_texts_that_are_repeated_often_are_told():
    mixture = Mixture(WEIGHTS, SIZES, seed=0)
    assert mixture.told(350) == []
    (said,) = mixture.told(500)
    assert said.startswith("The run takes the texts of verse 5.")


def test_a_mixture_is_read_from_words_and_from_files(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 2, "b.c": 0.5}))
    (tmp_path / "a.toml").write_text('a = 2\n"b.c" = 0.5\n')
    for given in ("a=2,b.c=0.5", " b.c = 0.5 , a=2", *map(str, tmp_path.iterdir())):
        assert read_mixture(given) == {"a": 2.0, "b.c": 0.5}
        assert in_words(read_mixture(given)) == "a=0.8,b.c=0.2"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("", "gives no weights; write domain=weight"),
        ("news", "The weight of a domain without a name is 'news'; give a number above 0"),
        ("news=0", "The weight of news is '0'; give a number above 0"),
        ("news=nan", "The weight of news is 'nan'"),
        ("news=1,news=2", "names a domain twice"),
        ("none.json", "none.json cannot be read (No such file"),
    ],
)
def test_what_is_no_mixture_is_one_sentence(given, sentence):
    with pytest.raises(ValueError) as caught:
        read_mixture(given)
    assert sentence in str(caught.value)


DOMAINS = ["even", "odd"] * 30


def documents_of_two():
    """Documents of 20 to 79 tokens; those of "odd" have odd ids alone."""
    rng = np.random.default_rng(0)
    own = [2 + 2 * rng.integers(0, 30, rng.integers(19, 79)) + n % 2 for n in range(60)]
    return np.concatenate([[0, *tokens] for tokens in own]).astype(np.uint16)


@pytest.mark.parametrize("own_rows", [True, False])
def test_rows_are_of_one_domain_in_the_shares_that_are_asked_for(own_rows):
    preset = replace(PRESET, mixture="even=0.25,odd=0.75", own_rows=own_rows)
    batches = PackedRows(documents_of_two(), preset, 0, DOMAINS)
    odd = []
    for step in range(50):
        batch = batches.batch(step)
        for row in batch.input_ids_BT:
            kinds = set((row[row > 0] % 2).tolist())
            assert len(kinds) == 1, "rows of domains are never mixed"
            odd.append(kinds.pop())
    assert np.mean(odd) == pytest.approx(0.75, abs=0.01)
    later = PackedRows(documents_of_two(), preset, 0, DOMAINS).batch(49)
    assert all(torch.equal(x, y) for x, y in zip(later, batch, strict=True))


def test_a_domain_without_documents_or_without_a_row_is_named():
    def rows_of(mixture, tokens):
        return PackedRows(tokens, replace(PRESET, mixture=mixture), 0, DOMAINS)

    with pytest.raises(ValueError, match="no training documents of tea; choose from even, odd"):
        rows_of("even=1,tea=2", documents_of_two())
    short = np.concatenate([[0, 2], *([0, *range(2, 60)] for _ in range(59))]).astype(np.uint16)
    with pytest.raises(ValueError, match="texts of even do not fill one row; give more"):
        PackedRows(short, replace(PRESET, mixture="even=1,odd=1"), 0, ["even", *["odd"] * 59])


def test_training_takes_a_mixture_and_goes_on_with_no_other(corpora, tmp_path):  # noqa: F811
    result = train(corpora.one, tmp_path / "run", "--mixture", "attic=1")
    assert "There are no training documents of attic; choose from one." in refused(result)
    first = train(corpora.one, tmp_path / "run", "--mixture", "one=7", "--steps", "2")
    assert first.exit_code == 0, first.output
    again = train(corpora.one, tmp_path / "run", "--steps", "2")
    assert "trained with other settings (mixture one=1, not )" in refused(again)
