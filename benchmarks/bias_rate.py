"""How evenly a bias on the choice loads 127 experts, by its rate and by how tokens differ.

python -m benchmarks.bias_rate

Router logits are made up: of each expert one number that all tokens share (how far a router has
fallen apart) and one of each token's own. The choice and the step of the bias are the model's code.
"""

import click
import torch

from model.emo.objectives import corrected_bias
from model.emo.routing import expert_counts, route

EXPERTS, TOP_K, LAST = 128, 8, 50


def loads(shared: float, own: float, rate: float, tokens: int, steps: int) -> torch.Tensor:
    """Slots of each routed expert in the last steps: [LAST, 127]."""
    draw = torch.Generator().manual_seed(0)
    common_E = shared * torch.randn(EXPERTS, generator=draw)
    bias_R, kept = torch.zeros(EXPERTS - 1), []
    for _ in range(steps):
        logits_NE = common_E + own * torch.randn(tokens, EXPERTS, generator=draw)
        routed = route(logits_NE, 1, TOP_K, bias_R=bias_R)
        counts_R = expert_counts(routed.expert_ids_NK[:, : TOP_K - 1], EXPERTS - 1)
        bias_R = corrected_bias(bias_R, counts_R, rate)
        kept.append(counts_R)
    return torch.stack(kept[-LAST:])


@click.command()
@click.option("--tokens", type=int, default=512, show_default=True)
@click.option("--steps", type=int, default=400, show_default=True)
def main(tokens: int, steps: int) -> None:
    """Print dead experts and the largest load for several rates."""
    click.echo("logits: shared, own; rate: dead of 127 in a step, largest over mean, never chosen")
    for shared, own in ((1.5, 0.2), (1.5, 1.0), (0.5, 1.0)):
        for rate in (1e-2, 1e-3, 1e-4, 1e-5):
            found = loads(shared, own, rate, tokens, steps)
            dead = (found == 0).sum(1).float().mean()
            largest = (found.amax(1) / found.mean(1)).mean()
            never = int((found.sum(0) == 0).sum())
            click.echo(f"{shared}, {own}; {rate:.0e}: {dead:.1f}, {largest:.1f}, {never}")


if __name__ == "__main__":
    main()
