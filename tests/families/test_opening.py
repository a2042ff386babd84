"""Opening checkpoints of any family from a folder; what cannot be opened is one sentence."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CAUSAL, SEQ2SEQ, run, tiny_model

from model.emo import attention
from model.emo.config import EmoConfig
from model.emo.loss import chunk_loss
from model.emo.modeling import EmoForCausalLM
from model.families import sizes
from model.families.layout import built
from model.families.opening import config_of, local_folder, open_model
from model.families.sizes import check_fits, needed_memory
from model.files import num_parameters
from model.native import router, wide
from model.native.compiled import call, library
from model.run.inference import record


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("olmoe")
    tiny_model("olmoe").save_pretrained(folder, max_shard_size="20KB")
    return folder


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_every_family_comes_back_from_disk(family: str, tmp_path: Path) -> None:
    made = tiny_model(family)
    made.save_pretrained(tmp_path)
    opened = open_model(str(tmp_path))
    assert opened.family == family and not opened.guessed and not opened.model.training
    assert torch.allclose(run(opened.model), run(made), atol=1e-5)


def test_size_is_read_from_the_headers_of_all_shards(olmoe: Path) -> None:
    size = num_parameters(olmoe)
    assert len(list(olmoe.glob("*.safetensors"))) > 1
    assert size == sum(p.numel() for p in tiny_model("olmoe").parameters())
    whole, half = (needed_memory(size, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert whole > 1.9 * half > size


def test_what_cannot_fit_is_said_before_anything_is_loaded(
    olmoe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "available_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="needs about 0.0 GB in float32 and cpu has 0.0 GB free"):
        open_model(str(olmoe))


def test_what_fits_is_not_refused(olmoe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = needed_memory(num_parameters(olmoe), torch.float32)
    monkeypatch.setattr(sizes, "available_memory", lambda device: needed)
    check_fits(olmoe, torch.device("cpu"), torch.float32)
    monkeypatch.setattr(sizes, "available_memory", lambda device: None)
    check_fits(olmoe, torch.device("cpu"), torch.float32)


def test_a_14b_checkpoint_needs_what_its_weights_need() -> None:
    assert needed_memory(13_568_600_000, torch.bfloat16) == pytest.approx(31.2e9, rel=0.01)


def test_a_model_in_bfloat16_routes_too(olmoe: Path) -> None:
    opened = open_model(str(olmoe), dtype="bfloat16")
    with opened.recorded() as tape:
        assert run(opened.model).isfinite().all()
    assert tape.gate_weights[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"device": "cuda:7"}, "no device 'cuda:7'"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"dtype": "int3"}, "no type to load in"),
    ],
)
def test_devices_and_types_that_are_not_there(olmoe: Path, arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        open_model(str(olmoe), **arguments)


@pytest.mark.parametrize("source", ["/nowhere", "./nowhere", "nowhere"])
def test_a_place_without_a_checkpoint_is_one_sentence(source: str) -> None:
    with pytest.raises(ValueError, match="no config.json"):
        local_folder(source)


def test_a_hub_name_without_a_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"could not be had .*OfflineModeIsEnabled"):
        local_folder("allenai/Emo_1b14b_1T")


def test_an_index_that_leads_outside_is_refused(olmoe: Path, tmp_path: Path) -> None:
    for file in olmoe.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    outside = os.path.relpath(next(olmoe.glob("*.safetensors")), tmp_path)
    content["weight_map"] |= dict.fromkeys(list(content["weight_map"])[:1], outside)
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="outside of itself"):
        open_model(str(tmp_path))


def test_code_of_a_checkpoint_is_never_run(olmoe: Path, tmp_path: Path) -> None:
    for file in olmoe.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_model(str(tmp_path)).family == "olmoe"


@pytest.mark.parametrize("spoil", ["lost", "nan"])
def test_weights_that_are_lost_or_not_numbers_are_refused(spoil: str, tmp_path: Path) -> None:
    made = tiny_model("olmoe")
    made.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.gate.weight"
    weights[name][0, 0] = torch.nan
    if spoil == "lost":
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.gate\.weight"):
        open_model(str(tmp_path))


def test_a_foreign_type_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(ValueError, match="model_type 'abacus'"):
        open_model(str(tmp_path))


def test_a_dense_model_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("llama").save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ValueError, match="no experts in its config .model_type 'llama'."):
        open_model(str(tmp_path))


def test_two_threads_that_load_leave_torch_as_they_found_it(
    olmoe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second that began while the first loads in bf16 would set back to bf16 when it ends."""
    config, set_dtype = config_of(olmoe), torch.set_default_dtype
    second_began, first_done = threading.Event(), threading.Event()
    second = threading.Thread(target=lambda: built(config))

    def slow(dtype: torch.dtype) -> None:
        set_dtype(dtype)
        if threading.current_thread() is second:
            second_began.set()
            first_done.wait(60)
        elif not second.ident:
            second.start()
            second_began.wait(0.5)  # in vain, if it has to wait for the first

    monkeypatch.setattr(torch, "set_default_dtype", slow)
    try:
        open_model(str(olmoe), dtype="bfloat16")
        first_done.set()
        second.join()
        assert torch.get_default_dtype() == torch.float32
    finally:
        set_dtype(torch.float32)


def test_the_shapes_of_a_config_do_not_depend_on_its_type(olmoe: Path) -> None:
    config = config_of(olmoe)
    config.dtype = torch.bfloat16
    assert next(built(config).model.parameters()).dtype == torch.float32


def results() -> list[torch.Tensor]:
    """Of everything that hands buffers to compiled code, and of a recording."""
    torch.manual_seed(0)
    shapes = ((5, 32), (4, 64, 32), (4, 32, 32), (5, 2))
    x, w13, w2, s = (torch.randn(shape, dtype=torch.float32) for shape in shapes)
    ids = torch.tensor([[0, 1], [2, 3], [1, 4], [3, 0], [2, 1]])
    found = [wide.wide_forward(x, w13, w2, s, ids)] if wide.fits(x, w13, w2, ids) else []
    loss, gradient = chunk_loss(x.clone(), torch.arange(5), 1e-3, 0.5)
    model = small_emo()
    recording = record(model, np.arange(3, 20))
    ids_1T = torch.arange(3, 20)[None]
    mean = model(input_ids=ids_1T, labels=ids_1T, use_cache=False).loss
    mean.backward()
    parts = (recording.router_probs, recording.gate_weights, recording.loss, recording.entropy)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    documents = model.document_routing(ids_1T)
    gradients.append(model.train().next_token_loss(ids_1T, ids_1T, documents, 1e-3))
    return [*found, loss, gradient, mean, *gradients, *map(torch.tensor, parts)]


def small_emo() -> EmoForCausalLM:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    fields = CAUSAL["emo"] | sizes | {"intermediate_size": 32}
    config, before = EmoConfig(**fields), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return EmoForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def test_a_running_model_does_not_see_the_type_that_another_thread_loads_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed: set[torch.dtype] = set()  # a buffer that is too short may go unnoticed

    def spying(name: str, *arguments: object) -> None:
        handed.update(each.dtype for each in arguments if isinstance(each, torch.Tensor))
        call(name, *arguments)

    for module in (attention, router):
        monkeypatch.setattr(module, "call", spying)
    wanted = results()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
    assert handed <= {torch.float32, torch.int32, torch.int64, torch.bool}
    assert handed or library() is None
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
