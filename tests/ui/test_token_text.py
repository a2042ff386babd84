"""Tokens in words: those that are a part of a character are told apart by their bytes."""

from pathlib import Path

import pytest

from emo_viz.ui.parts.token_text import looks_like_code, text_labels, vocabulary_label
from model.run.inference import encode
from model.run.loading import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_assets: Path):
    return load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")


def test_every_token_of_the_vocabulary_has_a_name_of_its_own(tokenizer):
    labels = [vocabulary_label(tokenizer, token) for token in range(len(tokenizer))]
    assert "\ufffd" not in "".join(labels)
    assert "⟨E0⟩" in labels and "⟨B8⟩" in labels
    bytes_alone = [label for label in labels if label.startswith("⟨")]
    assert len(set(bytes_alone)) == len(bytes_alone) >= 128


def test_tokens_of_one_character_have_their_bytes(tokenizer):
    encoded = encode(tokenizer, "ก a", 20)
    labels = text_labels(tokenizer, encoded.token_ids.tolist(), encoded.texts)[1:]
    assert labels[:3] == ["⟨E0⟩ of ก", "⟨B8⟩ of ก", "⟨81⟩ of ก"]
    assert labels[-1].endswith("a")


def test_a_token_of_bytes_is_of_the_character_that_it_is_a_part_of():
    labels = text_labels(OfWords(), [1, 0, 0, 3, 1], ["", "", " aก", "", " soil"])
    assert labels == ["∅", "⟨E0⟩", "⟨E0⟩ of ก", "∅", "␣soil"], "and no text is of none"


def test_plain_text_has_plain_labels(tokenizer):
    encoded = encode(tokenizer, "the soil", 20)
    labels = text_labels(tokenizer, encoded.token_ids.tolist(), encoded.texts)[1:]
    assert "".join(labels).replace("␣", " ") == "the soil"


class OfWords:
    """A vocabulary that writes bytes otherwise."""

    words = ("<0xE0>", "▁soil", "[?]", "")

    def decode(self, ids):
        return ("\ufffd", " soil", "\ufffd", "")[ids[0]]

    def convert_ids_to_tokens(self, token):
        return self.words[token]


def test_a_vocabulary_of_another_kind_is_read_too():
    labels = [vocabulary_label(OfWords(), token) for token in range(3)]
    assert labels[:2] == ["⟨E0⟩", "␣soil"]


def test_lines_for_a_preprocessor_are_code_and_headings_are_not():
    assert looks_like_code("#ifdef USE_MAP\n\n    varying vec2 vMapUv\n\n#endif")
    assert not looks_like_code("# If it rains\n\nStay inside.\n\n#defined by weather")
