"""How fast one 256-token text is routed: python -m benchmarks.routing_speed

fp32, one thread, the bundled EMO checkpoint (or --model). Prints the expert layer and the whole
model against a plain loop over experts and against transformers' OLMoE of the same sizes with
grouped_mm, and the time to record both models of the pair.
"""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.peers import olmoe_of_the_same_sizes
from benchmarks.timing import interleaved, report
from model.emo.modeling import EmoForCausalLM
from model.run.inference import record
from model.run.loading import load_model

TOKENS = 256


@click.command()
@click.option("--checkpoints", type=click.Path(path_type=Path), default=Path("assets/checkpoints"))
@click.option("--rounds", default=30)
@click.option("--threads", default=1)
def main(checkpoints: Path, rounds: int, threads: int) -> None:
    """Print medians and ratios."""
    torch.set_num_threads(threads)
    emo, standard = (load_model(checkpoints / name) for name in ("emo-nano", "std-nano"))
    ids_1T = torch.from_numpy(np.random.default_rng(0).integers(2, 4096, (1, TOKENS)))
    with torch.inference_mode():
        report("One expert layer", interleaved(_layer_sides(emo, ids_1T), rounds), "ours")
        report("Whole model, one forward", interleaved(_model_sides(emo, ids_1T), rounds), "ours")
    token_ids = ids_1T[0].numpy()
    both = {"ours": lambda: [record(model, token_ids) for model in (emo, standard)]}
    report("Recording both models", interleaved(both, rounds), "ours")


def _layer_sides(model: EmoForCausalLM, ids_1T: torch.Tensor) -> dict[str, Callable[[], object]]:
    mlp = model.model.layers[1].mlp
    hidden_NH = model.model(input_ids=ids_1T, output_hidden_states=True).hidden_states[1][0]
    hidden_NH = model.model.layers[1].pre_feedforward_layernorm(hidden_NH)
    _, weights, ids = mlp.gate(hidden_NH)
    return {
        name: _with(model, kind, lambda: mlp.experts(hidden_NH, ids, weights))
        for name, kind in (
            ("ours", "emo_moe"),
            ("loop over experts", "expert_loop"),
            ("transformers grouped_mm", "grouped_mm"),
        )
    }


def _model_sides(model: EmoForCausalLM, ids_1T: torch.Tensor) -> dict[str, Callable[[], object]]:
    olmoe = olmoe_of_the_same_sizes(model.config, "grouped_mm").eval()

    def forward() -> object:
        return model(input_ids=ids_1T, use_cache=False)

    return {
        "ours": _with(model, "emo_moe", forward),
        "ours with the loop over experts": _with(model, "expert_loop", forward),
        "transformers OLMoE, grouped_mm": lambda: olmoe(input_ids=ids_1T, use_cache=False),
    }


def _with(model: EmoForCausalLM, kind: str, run: Callable[[], object]) -> Callable[[], object]:
    def timed() -> object:
        model.config._experts_implementation = kind
        return run()

    return timed


if __name__ == "__main__":
    main()
