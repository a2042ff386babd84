"""What a run takes by formula, against a real model and what the paper says of its own."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from model.emo.modeling import EmoForCausalLM
from model.train.plan import Plan, activation_bytes, flops_per_token, main, sizes
from model.train.presets import NANO, PAPER_1B14B


def parameters(preset):
    with torch.device("meta"):
        model = EmoForCausalLM(preset.model_config(0, 1))
    return sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize(
    "preset", [NANO, replace(NANO, merged_experts=4), replace(NANO, vocab_size=2048), PAPER_1B14B]
)
def test_the_formula_counts_what_a_real_model_has(preset):
    assert sizes(preset).total == parameters(preset)


def test_the_papers_own_numbers():
    own = sizes(PAPER_1B14B)
    assert (round(own.total / 1e9, 4), round(own.active / 1e9, 3)) == (13.5686, 1.489)
    tokens = PAPER_1B14B.steps * PAPER_1B14B.tokens_per_step
    assert round(tokens / 1e9) == 130
    # A model of 8 experts uses all of them for each token.
    assert sizes(replace(PAPER_1B14B, num_experts=8)).total == pytest.approx(own.active, rel=3e-3)


def test_flops_are_six_a_parameter_and_attention_comes_on_top():
    d, layers = NANO.hidden_size, NANO.num_layers
    short, long = replace(NANO, context=1), replace(NANO, context=1001)
    assert flops_per_token(long) - flops_per_token(short) == 6 * layers * d * 1000
    active = sizes(NANO).active - NANO.vocab_size * d
    assert flops_per_token(short) == pytest.approx(6 * active, rel=1e-3)


def test_what_is_computed_again_is_not_kept():
    kept = [activation_bytes(PAPER_1B14B, 1, how) for how in ("none", "experts", "layers")]
    assert kept == sorted(kept, reverse=True) and kept[0] > 2 * kept[2]
    assert activation_bytes(PAPER_1B14B, 4) == 4 * kept[0]


def test_more_gpus_hold_less_each_and_take_the_same_hours_in_all():
    few, many = Plan(PAPER_1B14B, 8), Plan(PAPER_1B14B, 128)
    assert few.state_bytes == 16 * many.state_bytes
    assert (few.accumulation, many.accumulation) == (128, 8)
    assert few.seconds * 8 == pytest.approx(many.seconds * 128)


def test_the_command_prints_it_and_refuses_what_does_not_divide():
    said = CliRunner().invoke(main, ["--gpus", "8"])
    assert said.exit_code == 0 and "13,568,641,024 parameters" in said.output
    refused = CliRunner().invoke(main, ["--gpus", "7"])
    assert refused.exit_code == 2 and "do not divide among 7 GPUs" in refused.output
