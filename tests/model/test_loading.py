"""Opening checkpoints: what is written is what is read, and each defect has its own sentence."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model.inference import continue_text, encode
from model.loading import export_model, load_model, load_tokenizer
from tests.model.helpers import tiny_ids, tiny_model


@pytest.fixture(scope="module")
def tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|padding|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet
    )
    bpe.train_from_iterator(["the cat sat on the mat"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|padding|>"
    )


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    export_model(tiny_model(vocab_size=300), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_an_exported_model_reads_back_as_its_bf16_rounding(checkpoint):
    model, again = tiny_model(vocab_size=300), load_model(checkpoint)
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a.bfloat16().float(), b), name
    assert not again.training and again.config.objective == "emo"
    dtypes = {w.dtype for w in load_file(checkpoint / "model.safetensors").values()}
    assert dtypes == {torch.bfloat16}


def test_exporting_again_replaces_the_folder_whole(checkpoint, tokenizer):
    (checkpoint / "stale").touch()
    export_model(tiny_model(seed=1, vocab_size=300), tokenizer, checkpoint)
    assert not (checkpoint / "stale").exists()
    assert load_tokenizer(checkpoint).eos_token_id == 0


def broken_missing(path):
    return path / "nowhere"


def broken_truncated(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return path


def broken_type(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    return path


def broken_config(path):
    (path / "config.json").write_text("{")
    return path


def broken_weights(path):
    (path / "model.safetensors").unlink()
    return path


def broken_nan(path):
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def broken_lacking(path):
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.0.mlp.gate.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_missing, "There is no checkpoint at"),
        (broken_truncated, "cannot be read"),
        (broken_type, "type 'llama'; this loader reads type 'emo'"),
        (broken_config, "not valid JSON"),
        (broken_weights, "no .safetensors weights"),
        (broken_nan, "model.norm.weight holds NaN"),
        (broken_lacking, "lacks weights .*gate.weight"),
    ],
)
def test_each_defect_of_a_checkpoint_has_its_own_sentence(checkpoint, damage, message):
    with pytest.raises(ValueError, match=message) as error:
        load_model(damage(checkpoint))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)


def test_encode_puts_eos_first_and_says_what_was_cut(tokenizer):
    encoded = encode(tokenizer, "the cat sat on the mat", max_tokens=4)
    assert encoded.token_ids[0] == 0 and len(encoded.token_ids) == 4
    assert encoded.dropped == len(tokenizer("the cat sat on the mat")["input_ids"]) - 3
    assert "the cat sat on the mat".startswith("".join(encoded.texts))


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_a_text_of_white_space_is_refused(tokenizer, text):
    with pytest.raises(ValueError, match="text is empty"):
        encode(tokenizer, text, 10)


@pytest.mark.parametrize(
    "text", ["a\x00b\x07", "שלום עולם", "😀👩‍👩‍👧", "<script>alert(1)</script>", "<|endoftext|>x"]
)
def test_any_text_is_read_as_plain_text(tokenizer, text):
    encoded = encode(tokenizer, text, 200)
    assert tokenizer.decode(encoded.token_ids[1:]) == text == "".join(encoded.texts)
    assert len(encoded.texts) == len(encoded.token_ids)
    assert (encoded.token_ids[1:] > 1).all(), "no special token comes out of a text"


def test_a_continuation_repeats_itself_for_a_seed_and_leaves_the_random_state(tokenizer):
    model, prompt = tiny_model(vocab_size=300), tiny_ids(1, 6)[0].numpy()
    state = torch.random.get_rng_state()
    texts = [
        continue_text(model, tokenizer, prompt, 12, temperature=1.0, seed=s) for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(state, torch.random.get_rng_state())
    assert isinstance(continue_text(model, tokenizer, np.array([0]), 3), str)


def test_loading_prints_nothing(checkpoint, capfd):
    load_model(checkpoint)
    assert capfd.readouterr() == ("", "")
