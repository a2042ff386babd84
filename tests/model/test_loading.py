"""Opening checkpoints: what is written is what is read, and each defect has its own sentence."""

import errno
import json

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model.emo.modeling import EmoForCausalLM
from model.evaluate.subject import open_subject
from model.families.opening import open_model
from model.run.inference import continue_text, encode
from model.run.live import open_live
from model.run.loading import export_model, load_model, load_tokenizer
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


def test_the_folder_of_a_training_says_where_its_model_is(tmp_path):
    (tmp_path / "run" / "export").mkdir(parents=True)
    (tmp_path / "run" / "export" / "config.json").write_text("{}")
    for opened in (load_model, open_model):
        with pytest.raises(ValueError, match=f"; this run's model is {tmp_path}/run/export."):
            opened(str(tmp_path / "run"))


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
        (broken_weights, "no weights in model.safetensors.*only .safetensors files are read"),
        (broken_nan, "model.norm.weight holds NaN"),
        (broken_lacking, "lacks weights .*gate.weight"),
    ],
)
def test_each_defect_of_a_checkpoint_has_its_own_sentence(checkpoint, damage, message):
    with pytest.raises(ValueError, match=message) as error:
        load_model(damage(checkpoint))
    assert "\n" not in str(error.value)


def edit_config(**changes):
    def damage(path):
        fields = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(fields | changes))
        return path

    return damage


def edit_weights(change):
    def damage(path):
        weights = load_file(path / "model.safetensors")
        change(weights)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return damage


def add(name, shape=(16, 32), dtype=torch.bfloat16):
    return edit_weights(lambda weights: weights.update({name: torch.zeros(shape, dtype=dtype)}))


def retyped(dtype):
    def change(weights):
        for name in weights:
            weights[name] = weights[name].to(dtype)

    return edit_weights(change)


def write(name, content):
    def damage(path):
        (path / name).write_bytes(content)
        return path

    return damage


def only_pickles(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    return path


def linked(name):
    def damage(path):
        (path / name).touch()
        (path / name).rename(path.parent / "elsewhere")
        (path / name).symlink_to(path.parent / "elsewhere")
        return path

    return damage


def marked(name):
    def damage(path):
        (path / name).write_bytes(b"\xef\xbb\xbf" + (path / name).read_bytes())
        return path

    return damage


def without_metadata(path):
    (path / "model.safetensors").unlink()
    tiny_model(vocab_size=300).save_pretrained(path, max_shard_size="20KB")
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
    return path


def indexed(file):
    def damage(path):
        names = load_file(path / "model.safetensors").keys()
        (path / "model.safetensors").rename(path.parent / "away.safetensors")
        index = {"weight_map": dict.fromkeys(names, file)}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        return path

    return damage


EXPERT = "model.layers.{}.mlp.experts.{}.up_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (write("config.json", b"[]"), "config.json is not a JSON object"),
        (write("config.json", b"\xff\xfe"), "config.json is not UTF-8"),
        (edit_config(num_experts="16"), "describes no model: num_experts cannot be"),
        (edit_config(num_attention_heads=0), "describes no model"),
        (edit_config(hidden_size=-3), "describes no model"),
        (edit_config(num_hidden_layers=1), "holds 2 layers and its config.json asks for 1"),
        (edit_config(num_hidden_layers=9999), "holds 2 layers and its config.json asks for 9999"),
        (edit_config(num_hidden_layers=10**9), "describes no model .num_hidden_layers=1000"),
        (edit_config(num_experts=8), "16 experts in layer 0 and its config.json asks for 8"),
        (edit_config(num_experts=10**9), "16 experts in layer 0 and its config.json asks for 1000"),
        (edit_config(num_experts_per_layer=[16, 8]), "16 experts in layer 1 .* asks for 8"),
        (edit_config(num_experts_per_layer=[16]), "1 (layers of 2|entries)"),
        (edit_config(vocab_size=200), r"of shape \[300, 32\], not \[200, 32\]"),
        (edit_config(quantization_config={"quant_method": "fp8"}), "holds quantised weights"),
        (add(EXPERT.format(2, 0)), "holds 3 layers"),
        (add(EXPERT.format(0, 16)), "holds 17 experts in layer 0"),
        (add("model.layers.0.self_attn.q_proj.bias", (32,)), "no place for .*q_proj.bias"),
        (add("model.norm.bias", (32,)), "no place for .*model.norm.bias"),
        (retyped(torch.float8_e4m3fn), "as F8_E4M3, quantised weights"),
        (retyped(torch.int8), "as I8, quantised weights"),
        (only_pickles, "only .safetensors files are read"),
        (linked("model.safetensors"), "outside of itself .'model.safetensors'"),
        (linked("config.json"), "outside of itself .'config.json'"),
        (linked("generation_config.json"), "outside of itself .'generation_config.json'"),
        (indexed("../away.safetensors"), "outside of itself .'../away.safetensors'"),
        (indexed("nowhere.safetensors"), "no weights in nowhere.safetensors"),
        (indexed(3), "weights without a file"),
        (without_metadata, "index.json has no metadata"),
        (write("generation_config.json", b"{"), "generation_config.json is not valid JSON"),
        (marked("generation_config.json"), "generation_config.json begins with a byte order mark"),
    ],
)
def test_a_checkpoint_that_is_not_what_its_config_says_is_refused(checkpoint, damage, message):
    with pytest.raises(ValueError, match=message) as error:
        load_model(damage(checkpoint))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_plain_floating_point_is_read(checkpoint, dtype):
    expected = load_model(checkpoint).model.norm.weight
    assert torch.equal(load_model(retyped(dtype)(checkpoint)).model.norm.weight, expected)


def test_a_byte_order_mark_is_no_part_of_a_config(checkpoint):
    assert load_model(marked("config.json")(checkpoint)).config.num_experts == 16


def test_shards_and_tied_embeddings_are_read(tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "tied", max_shard_size="20KB")
    again = load_model(tmp_path / "tied")
    assert len(list((tmp_path / "tied").glob("*.safetensors"))) > 3
    assert torch.equal(again.lm_head.weight, model.model.embed_tokens.weight)


def test_a_checkpoint_of_fused_experts_is_read(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "fused")
    save_file(model.state_dict(), tmp_path / "fused" / "model.safetensors", {"format": "pt"})
    again = load_model(tmp_path / "fused")
    assert torch.equal(again.model.layers[1].mlp.experts.down_proj, layer_down(model))


def layer_down(model):
    return model.model.layers[1].mlp.experts.down_proj


@pytest.mark.parametrize(
    "opened", [load_model, open_live, lambda folder: open_subject(folder, torch.device("cpu"))]
)
def test_a_checkpoint_larger_than_the_memory_is_refused(checkpoint, monkeypatch, opened):
    monkeypatch.setattr("model.families.sizes.available_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="needs about .* GB in float32 and cpu has .* free"):
        opened(checkpoint)


def test_a_checkpoint_is_read_onto_the_device_that_is_asked_for(checkpoint):
    model = load_model(checkpoint, device="meta")
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_a_dense_checkpoint_is_read(tmp_path):
    tiny_model(objective="dense").save_pretrained(tmp_path / "dense")
    assert load_model(tmp_path / "dense").routers() == []


@pytest.mark.parametrize("existing", ["file", "folder"])
def test_an_export_never_replaces_what_is_no_checkpoint(tmp_path, tokenizer, existing):
    place = tmp_path / "mine"
    precious = place if existing == "file" else place / "thesis.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(ValueError, match="exists and is not a checkpoint"):
        export_model(tiny_model(vocab_size=300), tokenizer, place)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), SafetensorError("I/O error: full (os error 28)")]
)
def test_an_export_on_a_full_disk_leaves_the_old_checkpoint(
    checkpoint, tokenizer, monkeypatch, error
):
    def full(*arguments, **named):
        raise error

    before = (checkpoint / "model.safetensors").read_bytes()
    monkeypatch.setattr(EmoForCausalLM, "save_pretrained", full)
    with pytest.raises(ValueError, match="cannot be written"):
        export_model(tiny_model(vocab_size=300), tokenizer, checkpoint)
    assert (checkpoint / "model.safetensors").read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (write("tokenizer.json", b"{"), "tokenizer.json is not valid JSON"),
        (write("tokenizer.json", b"{}"), "tokenizer in .* cannot be read"),
        (write("tokenizer_config.json", b"[]"), "tokenizer_config.json is not a JSON object"),
        (
            write("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": ["my.Own", null]}}'),
            "asks for code of its own",
        ),
        (write("tokenizer_config.json", b"{}"), "names no end-of-text token"),
        (write("special_tokens_map.json", b"{"), "special_tokens_map.json is not valid JSON"),
        (marked("tokenizer.json"), "tokenizer.json begins with a byte order mark"),
        (linked("tokenizer.json"), "outside of itself .'tokenizer.json'"),
        (linked("chat_template.jinja"), "outside of itself .'chat_template.jinja'"),
        (linked("additional_chat_templates"), "outside of itself .'additional_chat_templates'"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(checkpoint, damage, message):
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(damage(checkpoint))
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
    assert isinstance(continue_text(model, tokenizer, np.array([0]), 3).text, str)


def test_loading_prints_nothing(checkpoint, capfd):
    load_model(checkpoint)
    assert capfd.readouterr() == ("", "")
