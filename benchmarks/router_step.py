"""A router, compiled and on torch: python -m benchmarks.router_step

Product, document pools, choice and losses of one nano layer in a step of 16,384 tokens, forward and
backward, in turn in one process.
"""

from collections.abc import Callable
from unittest.mock import patch

import click
import torch

from benchmarks.timing import interleaved, keep_freed_memory, report
from model.emo.documents import DocumentRouting
from model.emo.router import EmoRouter
from model.native import router as compiled
from model.train.presets import NANO

EOS, OURS = 0, "compiled"


@click.command()
@click.option("--rounds", default=9)
def main(rounds: int) -> None:
    """Print medians and the ratio."""
    torch.set_num_threads(1)
    keep_freed_memory()
    step = _step()

    def on_torch() -> None:
        with patch.object(compiled, "library", lambda: None):
            step()

    medians = interleaved({OURS: step, "torch": on_torch}, rounds)
    report(f"A router, {NANO.tokens_per_step:,} tokens", medians, OURS)


def _step() -> Callable[[], None]:
    """From logits to their gradient; three documents a row, as many pools as in training."""
    torch.manual_seed(0)
    config = NANO.model_config(EOS, 1)
    router, shape = EmoRouter(config, 0), (NANO.rows, NANO.context)
    torch.nn.init.eye_(router.weight)  # logits are what is given
    logits_NE = torch.randn(NANO.tokens_per_step, config.num_experts, requires_grad=True)
    segments_BT = (torch.arange(NANO.context) * 3 // NANO.context).expand(shape)
    sizes_LBD = config.pool_sizes.draw((1, NANO.rows, 3))

    def step() -> None:
        documents = DocumentRouting(segments_BT, sizes_LBD)
        _, weights_NK, _ = router(logits_NE, documents)
        losses = documents.balancing_losses[0] + documents.z_losses[0]
        (weights_NK.square().sum() + losses).backward()

    return step


if __name__ == "__main__":
    main()
