"""Training throughput of the nano preset: python -m benchmarks.training_speed

One optimiser step of our trainer against the same step of transformers' OLMoE of the same sizes,
in turn, in one process, each in fp32 and in bf16 autocast; the ratios are those of the preset's own
precision, the last line that of the faster of each side. Freed memory stays with the process:
without that OLMoE's step takes twice as long.
"""

from collections.abc import Callable
from dataclasses import replace

import click
import numpy as np
import torch

from benchmarks.peers import olmoe_of_the_same_sizes
from benchmarks.timing import interleaved, keep_freed_memory, report
from model.emo.modeling import EmoForCausalLM
from model.train.batches import Batch, PackedRows
from model.train.loop import make_optimizer, train_step
from model.train.presets import NANO

EOS = 0


@click.command()
@click.option("--rounds", default=5)
@click.option("--threads", default=1)
def main(rounds: int, threads: int) -> None:
    """Print medians, ratios and tokens a second."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(2, 4096, 2_000_000).astype(np.uint16)
    tokens[::500] = EOS
    batch = PackedRows(tokens, NANO, EOS).batch(0)
    sides = {f"ours, {dtype}": _ours(batch, dtype == "bf16") for dtype in ("bf16", "fp32")}
    for dtype in ("bf16", "fp32"):
        for implementation in ("grouped_mm", "eager"):
            sides[f"transformers OLMoE, {implementation}, {dtype}"] = _olmoe(
                batch, implementation, dtype == "bf16"
            )
    medians = interleaved(sides, rounds)
    report(
        f"One step of {NANO.tokens_per_step:,} tokens",
        medians,
        "ours, bf16" if NANO.bf16 else "ours, fp32",
    )
    for name, seconds in medians.items():
        print(f"  {name:<44} {NANO.tokens_per_step / seconds:9.0f} tokens/s")
    ours = min(seconds for name, seconds in medians.items() if name.startswith("ours"))
    theirs = min(seconds for name, seconds in medians.items() if not name.startswith("ours"))
    print(f"The faster of ours against the fastest of transformers': {theirs / ours:.2f}x")


def _ours(batch: Batch, bf16: bool) -> Callable[[], object]:
    preset = replace(NANO, bf16=bf16)
    model = EmoForCausalLM(preset.model_config(EOS, 1))
    optimizer = make_optimizer(model, preset)
    return lambda: train_step(model, optimizer, batch, preset, 0)


def _olmoe(batch: Batch, implementation: str, bf16: bool) -> Callable[[], object]:
    model = olmoe_of_the_same_sizes(NANO.model_config(EOS, 1), implementation).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
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
