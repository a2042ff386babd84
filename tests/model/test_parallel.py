"""Two processes train as one: the same balancing loss, gradients, weights and exact resume."""

import json
import multiprocessing
import os
import socket
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

from model.emo.modeling import EmoForCausalLM
from model.emo.router import EmoRouter
from model.run.loading import load_model
from model.train import checkpoint, parallel
from model.train.batches import PackedRows
from model.train.finite import NotFinite
from model.train.loop import make_optimizer, train_step
from model.train.pair import main as pair_command
from model.train.presets import PRESETS
from tests.model.helpers import tiny_ids, tiny_model
from tests.model.test_train import PRESET, metrics_of, new_model, run, stream
from tests.model.test_train_resume import no_file_above

# A guard against a hang and no judgement: processes start slowly on a busy machine.
pytestmark = pytest.mark.timeout(1200)
ROOT = Path(__file__).parents[2]
# fp32 and a clip that bites: what differs between one process and two is rounding alone.
EXACT = replace(PRESET, bf16=False, grad_clip=0.5)


def as_rank(rank, store, work, args):
    """Run `work` in a process group of two; a rank whose partner failed fails with it.

    The time limit is no judgement: on a busy machine a process may take minutes to start.
    """
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(minutes=20), world_size=2, rank=rank
    )
    try:
        return work(*args)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes():
    """Calls work(rank, *args) in two processes at a time; returns what each returned.

    A process keeps its rank for all calls: DTensor caches what it derives from it.
    """
    pools = [ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) for _ in range(2)]

    # They start here, where no test's time is counted, and import what this module needs.
    for future in [pool.submit(free_port) for pool in pools]:
        future.result()

    def call(work, *args):
        futures = [pool.submit(work, rank, *args) for rank, pool in enumerate(pools)]
        errors = [future.exception() for future in futures]
        if any(errors):
            raise cause(errors)
        return [future.result() for future in futures]

    yield call
    for pool in pools:
        pool.shutdown(wait=False)


def cause(errors):
    """What went wrong first: a rank whose partner failed fails too, because it was left alone."""
    first, *others = sorted(filter(None, errors), key=lambda error: "by peer" in str(error))
    for other in others:
        first.add_note(f"and in the other process: {other!r:.300}")
    return first


@pytest.fixture
def on_two_ranks(two_processes, tmp_path_factory):
    """Calls a function in two processes of one group; returns what each returned."""
    folder = tmp_path_factory.mktemp("stores")
    stores = count()
    return lambda work, *args: two_processes(as_rank, folder / str(next(stores)), work, args)


def balancing(scope):
    """The balancing loss and its gradient in every router, on this rank's rows (all if alone)."""
    model = tiny_model(load_balancing_scope=scope).train()
    ids_BT, pool_sizes_LBD = tiny_ids(rows=4), torch.tensor([4, 6, 9, 16]).view(1, 4, 1)
    ids_BT[2:] = ids_BT[2:] % 7 + 2  # The ranks' rows differ in kind, so their balance does too.
    if dist.is_initialized():
        mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
        ids_BT, pool_sizes_LBD = ids_BT[mine], pool_sizes_LBD[:, mine]
    documents = model.document_routing(ids_BT, pool_sizes_LBD.expand(2, -1, -1))
    model.model(input_ids=ids_BT, documents=documents, use_cache=False)
    loss, _ = model.router_losses(documents)
    loss.backward()
    return loss.item(), np.stack([router.weight.grad.numpy() for router in model.routers()])


def test_global_balancing_over_two_ranks_is_that_of_the_joined_batch_and_local_is_not(on_two_ranks):
    joined_loss, joined_gradient = balancing("global")
    losses, gradients = zip(*on_two_ranks(balancing, "global"), strict=True)
    assert np.mean(losses) == pytest.approx(joined_loss, rel=1e-5)
    np.testing.assert_allclose(np.mean(gradients, 0), joined_gradient, rtol=1e-4, atol=1e-6)
    losses, gradients = zip(*on_two_ranks(balancing, "local"), strict=True)
    assert np.mean(losses) > joined_loss * 1.05
    assert np.abs(np.mean(gradients, 0) - joined_gradient).max() > 0.01


def train_and_gather(out, *args):
    """Weights after training: whole in the leading process, None in the other."""
    whole = parallel.whole_model(run(out, *args))
    return whole and {name: weight.numpy() for name, weight in whole.state_dict().items()}


def test_two_ranks_train_to_the_weights_and_metrics_of_one_process(on_two_ranks, tmp_path):
    heldout = [stream(20, seed=1), stream(25, seed=2)]
    arguments = (4, EXACT, 4, heldout)
    one = train_and_gather(tmp_path / "one", *arguments)
    two, nothing = on_two_ranks(train_and_gather, tmp_path / "two", *arguments)
    assert nothing is None
    for name, weight in one.items():
        np.testing.assert_allclose(two[name], weight, rtol=1e-3, atol=1e-5, err_msg=name)
    for of_one, of_two in zip(*(metrics_of(tmp_path / n) for n in ("one", "two")), strict=True):
        assert of_one["grad_norm"] > EXACT.grad_clip
        del of_one["tokens_per_second"], of_two["tokens_per_second"]
        assert of_two == pytest.approx(of_one, rel=1e-4)


def in_parts(out, accumulation):
    run(out, 10, replace(EXACT, rows=8), accumulation=accumulation)


def test_two_ranks_of_two_parts_have_the_losses_of_one_of_four(on_two_ranks, tmp_path):
    in_parts(tmp_path / "one", 4)
    on_two_ranks(in_parts, tmp_path / "two", 2)
    ones, twos = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert len(ones) == len(twos) == 10
    for one, two in zip(ones, twos, strict=True):
        for name in ("loss", "load_balancing_loss", "router_z_loss"):
            assert two[name] == pytest.approx(one[name], abs=1e-5), (one["step"], name)
    load = [(tmp_path / name / "load.jsonl").read_text() for name in ("one", "two")]
    assert load[0] == load[1]


def some_ignored(out):
    """The loss that two ranks, or one process, report of rows of which some have no labels."""
    batch = PackedRows(stream(), EXACT, 0).batch(0)
    batch.labels_BT[0] = -100  # of the first rank alone
    model = new_model(EXACT)
    parallel.shard(model, EXACT)
    optimizer = make_optimizer(model, EXACT)
    return train_step(model, optimizer, parallel.share(batch), EXACT, 0)["loss"]


def test_tokens_without_a_loss_weigh_nothing_whichever_rank_has_them(on_two_ranks, tmp_path):
    one, other = on_two_ranks(some_ignored, tmp_path)
    assert one == other == pytest.approx(some_ignored(tmp_path), rel=1e-6)


def test_two_stopped_ranks_continue_bit_for_bit_from_the_newest_checkpoint_that_is_whole(
    on_two_ranks, tmp_path
):
    whole, _ = on_two_ranks(train_and_gather, tmp_path / "whole")
    on_two_ranks(train_and_gather, tmp_path / "parts", 5)
    on_two_ranks(train_and_gather, tmp_path / "parts", 8)
    shard = tmp_path / "parts" / "step-8" / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:100])
    parts, _ = on_two_ranks(train_and_gather, tmp_path / "parts")
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert [m["step"] for m in metrics_of(tmp_path / "parts")] == list(range(PRESET.steps))
    folders = sorted(path.name for path in (tmp_path / "parts").glob("*-*"))
    assert folders == ["damaged-step-8", "step-12", "step-8"], "nothing half-written"


def on_a_full_disk(out):
    """The sentence in which training ends when no file may grow above 100 kB."""
    with no_file_above(100_000):
        try:
            run(out)
        except ValueError as error:
            return str(error)


def test_two_ranks_that_cannot_write_leave_the_last_checkpoint(on_two_ranks, tmp_path):
    on_two_ranks(run_quietly, tmp_path, 4)
    told = on_two_ranks(on_a_full_disk, tmp_path)
    assert all("step-8 cannot be written by all processes; make room" in each for each in told)
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert left == ["step-4", "tensorboard"]
    on_two_ranks(run_quietly, tmp_path, 5)
    assert checkpoint.latest(tmp_path).name == "step-5"


def run_quietly(*args):
    run(*args)


def poisoned(out):
    """Train with NaN in one router from the start; the sentence in which that ends."""
    make = EmoForCausalLM.__init__

    def with_nan(self, config):
        make(self, config)
        torch.nn.init.constant_(self.model.layers[1].mlp.gate.weight, float("nan"))

    with patch.object(EmoForCausalLM, "__init__", with_nan):
        try:
            run(out)
        except NotFinite as error:
            return str(error)


def test_both_ranks_name_the_same_part_that_is_not_finite(on_two_ranks, tmp_path):
    one, other = on_two_ranks(poisoned, tmp_path)
    assert one == other and "At step 0 " in one and "the output of layer 1, router" in one


def gathered_in_bf16(out, preset):
    """In which numbers the parts of a layer computed in a run."""
    seen, forward, made = {}, EmoRouter.forward, []

    def router(self, hidden_NH, documents=None):
        seen["router"] = str(self.weight.dtype)
        return forward(self, hidden_NH, documents)

    def optimizer(*given):
        made.append(make_optimizer(*given))
        return made[0]

    making = patch("model.train.loop.make_optimizer", optimizer)
    with patch.object(EmoRouter, "forward", router), making:
        model = run(out, 6, preset, gather="bf16")
    layer = model.model.layers[0]
    layer.unshard()
    seen["experts"] = str(layer.mlp.experts.down_proj.dtype)
    layer.reshard()
    moments = [value for state in made[0].state.values() for value in state.values()]
    seen["shards"] = {str(p.dtype) for p in model.parameters()}
    seen["moments"] = {str(value.dtype) for value in moments}
    return seen


def test_weights_gathered_in_bf16_train_alike_and_are_kept_in_float32(
    on_two_ranks, tmp_path, capfd
):
    preset = replace(PRESET, bf16=True)
    seen, _ = on_two_ranks(gathered_in_bf16, tmp_path / "two", preset)
    run(tmp_path / "one", 6, preset)
    ones, twos = ([m["loss"] for m in metrics_of(tmp_path / name)] for name in ("one", "two"))
    assert len(twos) == 6 and twos == pytest.approx(ones, abs=0.02)
    run(tmp_path / "two", 7, preset)
    words = (
        "by 2 processes x 1 part with weights gathered in bf16 and goes on by 1 process x 1 part"
    )
    assert words in capfd.readouterr().err
    assert seen["router"] == "torch.float32" and seen["experts"] == "torch.bfloat16"
    assert seen["shards"] == seen["moments"] == {"torch.float32"}
    with pytest.raises(ValueError, match="gathered in bf16 need --bf16"):
        parallel.shard(new_model(), EXACT, "bf16")


def test_rows_that_two_ranks_cannot_share_evenly_are_refused(on_two_ranks, tmp_path):
    with pytest.raises(ValueError, match="3 rows of a step cannot be shared evenly by 2 processes"):
        on_two_ranks(run, tmp_path, None, replace(PRESET, rows=3))


def test_one_process_goes_on_from_two_and_two_from_one(on_two_ranks, tmp_path, capfd):
    def losses(name):
        return [line["loss"] for line in metrics_of(tmp_path / name)]

    run(tmp_path / "whole", preset=EXACT)
    run(tmp_path / "one first", 5, EXACT)
    on_two_ranks(train_and_gather, tmp_path / "one first", None, EXACT)
    on_two_ranks(train_and_gather, tmp_path / "two first", 5, EXACT)
    run(tmp_path / "two first", preset=EXACT)
    for name in ("one first", "two first"):
        assert losses(name) == pytest.approx(losses("whole"), abs=1e-5)
        index = checkpoint.latest(tmp_path / name) / ".metadata"
        assert index.exists() == (name == "one first"), "written by those who went on"
    said = capfd.readouterr().err
    words = "was written by 2 processes x 1 part and goes on by 1 process x 1 part"
    assert f"{tmp_path}/two first/step-5 {words}: the same run, but for rounding." in said


def write_corpus(folder):
    """A corpus as model.data writes one, of 20 documents, with the bundled tokenizer."""
    (folder / "tokenizer").symlink_to(ROOT / "assets/checkpoints/emo-nano")
    manifest = {"format": "emo-viz-corpus", "format_version": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for split in ("train", "heldout"):
        stream(3000).astype("<u2").tofile(folder / f"{split}.bin")
        np.save(folder / f"{split}.offsets.npy", np.arange(21) * 150)
        index = pd.DataFrame({"id": [f"{n}" for n in range(20)], "domain": "x"})
        index.to_parquet(folder / f"{split}.index.parquet")


def as_torchrun(rank, port, arguments):
    """Run the pair with what torchrun puts into the environment; how often it joined a group."""
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank}
    nano = replace(PRESET, name="nano", steps=1, warmup_steps=0)
    joining = patch.object(dist, "init_process_group", wraps=dist.init_process_group)
    environment = patch.dict(os.environ, {name: str(value) for name, value in given.items()})
    with environment, patch.dict(PRESETS, nano=nano), joining as joined:
        pair_command(arguments, standalone_mode=False)
    return joined.call_count


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_pair_is_trained_and_exported_by_one_group_as_torchrun_starts_it(two_processes, tmp_path):
    """torchrun's store outlives a group: a second one could find the addresses of the first."""
    write_corpus(tmp_path)
    settings = ["--steps=1", "--rows=2", "--threads=1", f"--corpus={tmp_path}", f"--out={tmp_path}"]
    assert two_processes(as_torchrun, free_port(), settings) == [1, 1]
    for out in (tmp_path / "emo", tmp_path / "standard"):
        assert len(metrics_of(out)) == 1
        assert (checkpoint.latest(out) / ".metadata").exists(), "written by both"
        assert load_model(out / "export").config.num_experts == PRESET.num_experts


def test_a_gpu_without_a_number_is_the_current_one(monkeypatch):
    def as_torch_does(device: torch.device) -> None:
        if device.index is None:
            raise ValueError("Expected a torch.device with a specified index or an integer")
        chosen.append(device.index)

    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", as_torch_does)
    for name in ("cuda", "cuda:1", "cpu"):
        with parallel.process_group(torch.device(name)):
            pass
    assert chosen == [1]
