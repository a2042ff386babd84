"""The tokenizer gives every string back, splits digits, and is found again on disk."""

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from transformers import AutoTokenizer

from model.data.documents import CorpusError
from model.data.places import Where, texts_file
from model.data.tokenizer import EOS, PADDING, load_tokenizer, train_on
from model.data.tokens import plain_tokenizer
from model.data.write import make_tokenizer

ENGLISH = "The lighthouse keeper counted 1234 ships, and the ships weren't counting him. " * 40
CHINESE = "東林百不會，瞎驢隨大隊。鞭打不進前，步步只倒退。" * 60

HEX_TO_LETTERS = str.maketrans("0123456789", "ghijklmnop")


class Rows:
    """What the tokenizer asks of a ledger, and a spool, of (domain, split, text)."""

    def __init__(self, folder, *documents):
        texts_file(folder, 0).write_bytes("".join(text for _, _, text in documents).encode())
        self.documents = dict.fromkeys(domain for domain, _, _ in documents)
        self.rows, start = [], 0
        for domain, split, text in documents:
            self.rows.append((split, domain, Where(0, start, len(text.encode()))))
            start += len(text.encode())

    def span(self, split):
        return split

    def wheres(self, split):
        return [(domain, place) for own, domain, place in self.rows if own == split]


def encoder(tokenizer):
    """Ids of a text as the build makes them."""
    plain = plain_tokenizer(tokenizer.backend_tokenizer.to_str())
    return lambda text: plain.encode_batch_fast([text], add_special_tokens=False)[0].ids


@pytest.fixture(scope="module")
def tokenizer():
    return train_on([ENGLISH, CHINESE], vocab_size=400)


@pytest.fixture(scope="module")
def encode(tokenizer):
    return encoder(tokenizer)


@given(st.text())
@example("👩‍👩‍👧 \u202eabc\u202c עברית\x00\x1b[0m\ufeff")
@example("  \n\n\t 007  don't\r\n")
@example(f"{EOS}{PADDING} in the text itself")
@example("e\u0301 é ﬁ Ⅷ")
@settings(max_examples=300, deadline=None)
def test_decoding_gives_the_text_back(tokenizer, encode, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.decode(encode(text)) == text


def test_special_tokens_have_their_ids_and_none_is_added(tokenizer, encode):
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    assert tokenizer.bos_token is None
    assert tokenizer("ships")["input_ids"] == encode("ships")
    assert 0 not in tokenizer("ships")["input_ids"]


def test_a_special_token_written_in_a_text_stays_text(encode):
    assert 0 not in encode(f"before {EOS} after")


def test_digits_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("1234 ships")[:4] == ["1", "2", "3", "4"]


def test_frequent_words_become_one_token(encode):
    assert len(encode(" lighthouse")) == 1


def test_the_vocabulary_has_the_asked_size():
    text = " ".join(f"{n:x}".translate(HEX_TO_LETTERS) for n in range(5000))
    assert len(train_on([text], vocab_size=400)) == 400


def test_only_the_training_split_is_learned_from(tmp_path):
    documents = ("sea", "train", ENGLISH), ("secret", "heldout", "xylophone " * 500)
    tokens = make_tokenizer(Rows(tmp_path, *documents), tmp_path, 400).tokenize(" xylophone")
    assert len(tokens) > 3


def test_a_large_domain_does_not_starve_a_small_one(tmp_path, monkeypatch):
    monkeypatch.setattr("model.data.write.SAMPLE_CHARS", 2000)
    words = " ".join(f"{n * 7919:x}".translate(HEX_TO_LETTERS) for n in range(300))
    documents = [("sea", "train", words)] * 100 + [("verse", "train", CHINESE)]
    tokenizer = make_tokenizer(Rows(tmp_path, *documents), tmp_path, 400)
    assert len(encoder(tokenizer)(CHINESE)) < len(CHINESE)


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    again = train_on([ENGLISH, CHINESE], vocab_size=400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_saved_tokenizer_is_read_back(tokenizer, encode, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert encoder(loaded)(ENGLISH) == encode(ENGLISH)
        assert loaded.eos_token_id == 0


def test_folders_without_a_usable_tokenizer_are_refused(tokenizer, tmp_path):
    with pytest.raises(CorpusError, match="holds no tokenizer.json"):
        load_tokenizer(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CorpusError, match="has no eos_token"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CorpusError, match="cannot be read"):
        load_tokenizer(tmp_path)
