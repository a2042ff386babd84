"""Training throughput: python -m benchmarks.training_speed --device cuda --preset 1b14b --layers 1

One optimiser step of our trainer against the same step of transformers' OLMoE of the same sizes,
each in fp32 and in bf16 autocast; the ratios are those of the preset's own precision, the last
lines that of the faster of each side and that of an EMO step to a standard one. `--avx2 --only
fp32` is quick where bf16 would be emulated. On a CPU the sides take turns in one process, and freed
memory stays with it: without that OLMoE's step takes twice as long. On a GPU, where nothing else
runs, each side is made, timed and freed.
"""

from collections.abc import Callable
from dataclasses import replace

import click
import numpy as np
import torch

from benchmarks.peers import olmoe_of_the_same_sizes
from benchmarks.timing import interleaved, on_gpu, prepare, report
from model.emo.modeling import EmoForCausalLM
from model.train.batches import Batch, PackedRows
from model.train.graph import GraphedBackward
from model.train.loop import make_optimizer, train_step
from model.train.presets import PRESETS, Preset
from model.train.step import keep_for_backward

EOS = 0
Step = Callable[[], object]
Made = Callable[[], Step]
OURS = "ours"


@click.command()
@click.option("--rounds", default=5)
@click.option("--threads", default=1)
@click.option("--device", default="cpu")
@click.option("--preset", "name", default="nano", type=click.Choice(sorted(PRESETS)))
@click.option("--layers", type=int, help="Instead of the preset's.")
@click.option("--rows", type=int, help="Rows of a step instead of the preset's.")
@click.option("--context", type=int, help="Tokens a row instead of the preset's.")
@click.option("--only", default="", help="Sides whose name holds this: bf16, fp32.")
@click.option("--avx2", is_flag=True, help="All sides without AVX-512, as on a smaller processor.")
def main(
    rounds: int,
    threads: int,
    device: str,
    name: str,
    layers: int | None,
    rows: int | None,
    context: int | None,
    only: str,
    avx2: bool,
) -> None:
    """Print medians, ratios and tokens a second."""
    prepare(threads, avx2)
    changes = {"num_layers": layers, "rows": rows, "context": context}
    preset = replace(PRESETS[name], **{key: value for key, value in changes.items() if value})
    made = sides(preset, torch.device(device))
    made = {side: make for side, make in made.items() if only in side}
    if device == "cpu":
        medians = interleaved({side: make() for side, make in made.items()}, rounds)
    else:
        medians = on_gpu(made, rounds)
    _print(preset, medians)


def _print(preset: Preset, medians: dict[str, float]) -> None:
    bf16 = f"{OURS}, bf16"
    ours = bf16 if bf16 in medians and preset.bf16 else f"{OURS}, fp32"
    report(f"One step of {preset.tokens_per_step:,} tokens", medians, ours)
    for side, seconds in medians.items():
        print(f"  {side:<44} {preset.tokens_per_step / seconds:9.0f} tokens/s")
    mine = [s for side, s in medians.items() if side.startswith(OURS) and "standard" not in side]
    theirs = [seconds for side, seconds in medians.items() if not side.startswith(OURS)]
    print(
        f"The faster of ours against the fastest of transformers': {min(theirs) / min(mine):.2f}x"
    )
    if standard := medians.get(f"{bf16}, standard objective"):
        print(f"An EMO step against a standard one: {medians[bf16] / standard:.2f}x")


def sides(preset: Preset, device: torch.device) -> dict[str, Made]:
    """By name, what makes a step."""
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(2, 4096, 2_000_000).astype(np.uint16)
    tokens[::500] = EOS
    batch = PackedRows(tokens, preset, EOS).batch(0).to(device)
    made: dict[str, Made] = {}
    for dtype in ("bf16", "fp32"):
        kept = replace(preset, bf16=dtype == "bf16")
        made[f"{OURS}, {dtype}"] = lambda p=kept: _ours(batch, p, device)
        for implementation in ("grouped_mm", "eager"):
            arguments = (batch, kept, implementation, device)
            made[f"transformers OLMoE, {implementation}, {dtype}"] = lambda a=arguments: _olmoe(*a)
    half = replace(preset, bf16=True)
    standard, less = replace(half, objective="standard"), replace(half, save="x")
    made[f"{OURS}, bf16, standard objective"] = lambda: _ours(batch, standard, device)
    if device.type == "cuda":
        made[f'{OURS}, bf16, save="x"'] = lambda: _ours(batch, less, device)
        made[f"{OURS}, bf16, standard objective, graph"] = lambda: _graphed(batch, standard, device)
        made[f"{OURS}, bf16, graph"] = lambda: _graphed(batch, half, device)
    return made


def _ours(batch: Batch, preset: Preset, device: torch.device) -> Step:
    with device:
        model = EmoForCausalLM(preset.model_config(EOS, 1))
    keep_for_backward(model, preset)
    optimizer = make_optimizer(model, preset)
    return lambda: train_step(model, optimizer, batch, preset, 0)


def _graphed(batch: Batch, preset: Preset, device: torch.device) -> Step:
    model = EmoForCausalLM(preset.model_config(EOS, 1)).to(device)
    optimizer, passes = make_optimizer(model, preset), GraphedBackward()
    return lambda: train_step(model, optimizer, batch, preset, 0, passes)


def _olmoe(batch: Batch, preset: Preset, implementation: str, device: torch.device) -> Step:
    with device:
        model = olmoe_of_the_same_sizes(preset.model_config(EOS, 1), implementation).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=preset.bf16):
            out = model(
                input_ids=batch.input_ids_BT,
                labels=batch.input_ids_BT,
                use_cache=False,
                output_router_logits=True,
            )
        optimizer.zero_grad(set_to_none=True)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
