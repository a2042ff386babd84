"""Texts to tokens and back, whole characters, and the routing that the model itself used."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import model.run.inference
from model.emo.modeling import EmoRouter
from model.run.inference import continue_text, encode, record
from model.run.subset import apply_subset, random_subset
from tests.model.helpers import tiny_ids, tiny_model

TEXT = ["the cat sat on the mat", "ﬁne coﬀee", "กำลังทดสอบ", "😀👩‍👩‍👧 é é"] * 3
VOCABULARY = ["the", "cat", "sat", "on", "mats", "coﬀee"]
SPECIALS = ["<|endoftext|>", "<|padding|>", "[UNK]"]


def fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIALS[0], pad_token=SPECIALS[1]
    )


def bytes_bpe(vocab_size=280):
    """As the bundled pair's: a rare character is several tokens of one span."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, initial_alphabet=alphabet
    )
    bpe.train_from_iterator(TEXT, trainer)
    return fast(bpe)


def normalising_wordpiece():
    """Lower case, compatibility forms, no accents; white space belongs to no token."""
    wordpiece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    steps = [normalizers.NFKD(), normalizers.Lowercase(), normalizers.StripAccents()]
    wordpiece.normalizer = normalizers.Sequence(steps)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIALS)
    )
    return fast(wordpiece)


def metaspace_unigram():
    """A space is put before the text, and spans overlap."""
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIALS, unk_token="[UNK]"),
    )
    return fast(unigram)


TOKENIZERS = {
    "bytes": bytes_bpe(),
    "wordpiece": normalising_wordpiece(),
    "unigram": metaspace_unigram(),
}
ODD = st.sampled_from("aé ﬁ\u0301\u200d\u00ad\ufeff\ufffd\u0e33\u0644\u0627😀👩ก\t\n\x00Ⅳ①ß가각")
TEXTS = st.lists(ODD | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=TEXTS, max_tokens=st.integers(2, 30))
def test_the_pieces_join_to_the_text_whatever_the_tokenizer(name, text, max_tokens):
    tokenizer = TOKENIZERS[name]
    try:
        encoded = encode(tokenizer, text, max_tokens)
    except ValueError as error:
        assert "The text is empty" in str(error) or "The text has no tokens" in str(error)
        return
    joined = "".join(encoded.texts)
    assert text == joined if not encoded.dropped else text.startswith(joined)
    assert len(encoded.texts) == len(encoded.token_ids) <= max_tokens
    assert encoded.texts[0] == "" and encoded.token_ids[0] == tokenizer.eos_token_id


class Offsets:
    """Stands for a tokenizer with any offsets: overlapping, falling, with gaps, none at the end."""

    eos_token_id = 0

    def __init__(self, offsets):
        self.offsets = offsets

    def __call__(self, text, **how):
        return {"input_ids": [5] * len(self.offsets), "offset_mapping": self.offsets}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    offsets=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12),
    max_tokens=st.integers(2, 14),
)
def test_the_pieces_join_to_the_text_whatever_the_offsets(offsets, max_tokens):
    encoded = encode(Offsets(offsets), "ninechars", max_tokens)
    joined = "".join(encoded.texts)
    assert joined == "ninechars" if not encoded.dropped else "ninechars".startswith(joined)
    assert len(encoded.texts) == len(encoded.token_ids)


def test_half_a_character_in_a_text_is_one_sentence():
    with pytest.raises(ValueError, match="half a character .* at position 2"):
        encode(TOKENIZERS["bytes"], "a \ud83d", 10)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", ["words", "one word", "characters of many bytes", "spaces first"])
def test_a_long_text_is_read_as_far_as_needed_and_as_before(name, kind, monkeypatch):
    words = " ".join(np.random.default_rng(0).choice(VOCABULARY, 2000))
    text = {
        "words": words,
        "one word": words.replace(" ", ""),
        "characters of many bytes": "กำลังทดสอบ😀 " * 800,
        "spaces first": " " * 3000 + words,
    }[kind]
    whole = encode(TOKENIZERS[name], text, 20)
    tokenised = []
    monkeypatch.setattr(model.run.inference, "LONG_TEXT", 1000)
    tokens = model.run.inference._tokens
    monkeypatch.setattr(
        model.run.inference, "_tokens", lambda t, s: tokenised.append(len(s)) or tokens(t, s)
    )
    start = encode(TOKENIZERS[name], text, 20)
    assert whole.exact and start.token_ids.tolist() == whole.token_ids.tolist()
    assert start.texts == whole.texts
    if kind == "words":
        assert sum(tokenised) < len(text) / 2
        assert not start.exact
        assert start.dropped == pytest.approx(whole.dropped, rel=0.5)


def test_a_long_text_that_fits_is_counted_exactly(monkeypatch):
    monkeypatch.setattr(model.run.inference, "LONG_TEXT", 10)
    encoded = encode(TOKENIZERS["bytes"], "the cat sat on the mat", 200)
    assert (encoded.dropped, encoded.exact) == (0, True)
    assert "".join(encoded.texts) == "the cat sat on the mat"


def test_a_byte_order_mark_is_a_character_as_any_other():
    assert "".join(encode(TOKENIZERS["bytes"], "\ufeffcat", 20).texts) == "\ufeffcat"


def test_tokens_of_another_tokenizer_are_refused():
    with pytest.raises(ValueError, match="no token 60 among the model's 60"):
        record(tiny_model(), np.array([0, 60]))
    with pytest.raises(ValueError, match="no token 99"):
        continue_text(tiny_model(), TOKENIZERS["bytes"], np.array([0, 99]))


class Script:
    """Stands for a model: writes the given tokens, one a call, after any prompt."""

    def __init__(self, tokens, room=100):
        self.tokens = list(tokens)
        self.config = SimpleNamespace(pad_token_id=1, vocab_size=1000)
        self.config.max_position_embeddings = room
        self.device = torch.device("cpu")

    def generate(self, ids, max_new_tokens, **how):
        new, self.tokens = self.tokens[:max_new_tokens], self.tokens[max_new_tokens:]
        return torch.cat([ids, torch.tensor([new], dtype=torch.int64)], 1)


def written(text, count, room=100, tail=()):
    """What continue_text makes of the bytes of `text`, a token each, after `count` of them."""
    return continued(text, count, room, tail).text


def continued(text, count, room=100, tail=()):
    tokenizer = bytes_bpe(vocab_size=259)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) == len(text.encode())
    return continue_text(Script([*tokens, *tail], room), tokenizer, np.array([0]), count)


@pytest.mark.parametrize(
    ("count", "room", "tail", "ended"),
    [(2, 100, (), False), (9, 3, (), False), (9, 100, (0,), True), (3, 100, (0,), True)],
    ids=["as many as asked for", "no more room", "before the last", "with the last"],
)
def test_a_text_that_the_model_ends_is_told_from_one_that_is_cut(count, room, tail, ended):
    assert continued("ab", count, room, tail).ended == ended


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_character_that_the_last_token_begins_is_completed(count):
    found = continued("😀 and more", count)
    assert found.text == "😀" and found.pieces == ("", "", "", "😀")


def test_what_is_written_is_known_by_token():
    found = continued("a😀b", 6, tail=(0,))
    assert found.pieces == ("a", "", "", "", "😀", "b") and len(found.token_ids) == 6
    cut = continued("ab😀", 4, room=6)
    assert cut.pieces == ("a", "b", "", "") and len(cut.token_ids) == 4
    assert continued("a", 9, tail=(0,)).pieces == ("a", ""), "the end of the text"


def test_a_character_that_is_not_completed_is_left_out():
    assert written("ab😀", 4, room=6) == "ab", "the context ends inside the character"
    assert written("ab", 4, tail=[written_byte(0xF0), 0]) == "ab", "the text ends inside it"
    assert written("ab", 3, tail=[written_byte(0xF0), *[written_byte(0x41)] * 3]) == "ab\ufffdA"


def written_byte(value: int) -> int:
    """The token of one byte."""
    tokenizer = bytes_bpe(vocab_size=259)
    two = {0xF0: "😀", 0x41: "A"}[value]
    return tokenizer(two, add_special_tokens=False)["input_ids"][0]


def test_a_replacement_character_that_the_model_writes_stays():
    assert written("ab\ufffd", 5) == "ab\ufffd"


@pytest.mark.parametrize("changes", [{}, {"num_experts_per_layer": [3, 16]}])
def test_recorded_choices_are_the_routers_own(changes):
    own = tiny_model(**changes)
    ids, seen = tiny_ids(1, 20)[0].numpy(), []
    hooks = [
        module.register_forward_hook(lambda m, i, out: seen.append(out))
        for module in own.modules()
        if isinstance(module, EmoRouter)
    ]
    with apply_subset(own, random_subset(own.config, 6, seed=0)):
        recording = record(own, ids)
    for hook in hooks:
        hook.remove()
    for layer, (_, weights, experts) in enumerate(seen):
        slots = experts.shape[1] - 1
        assert slots == min(3, own.config.experts_in_layer(layer) - 1)
        assert (recording.expert_ids[layer, :, :slots] == experts[:, :slots].numpy()).all()
        assert (recording.gate_weights[layer, :, :slots] == weights[:, :slots].numpy()).all()
        assert (recording.expert_ids[layer, :, slots:] == -1).all()
        assert (recording.gate_weights[layer, :, slots:] == 0).all()
    assert recording.router_probs.sum(-1) == pytest.approx(np.ones((2, 20)), abs=1e-5)
    assert (recording.router_probs[0, :, own.config.experts_in_layer(0) - 1 :] == 0).all()
    assert np.isfinite(recording.entropy).all()
