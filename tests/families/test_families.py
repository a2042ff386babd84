"""Every family on a small random model: what is recorded is what was used, what is left out is not
touched. (That leaving experts out equals deleting them: test_cut_families.py.)
"""

import threading

import numpy as np
import pytest
import torch
from slow_rules import expected
from tiny import CAUSAL, EXPERTS, KEPT, SEQ2SEQ, UNKNOWN, run, tiny_model

from model.families import KNOWN, RoutedModel, routed
from model.families.rules import DROPPED, Rule

FAMILIES = [*CAUSAL, *SEQ2SEQ]
CUTTABLE = [family for family in FAMILIES if family != "nllb-moe"]
GONE = [1, 4, 6]


def everything(model: RoutedModel) -> list[range]:
    return [range(layer.num_experts) for layer in model.layers]


def as_dicts(ids_NK: torch.Tensor, weights_NK: torch.Tensor) -> list[dict[int, float]]:
    rows = zip(ids_NK.tolist(), weights_NK.tolist(), strict=True)
    return [{e: w for e, w in zip(*row, strict=True) if e != DROPPED} for row in rows]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("family", list(CAUSAL))
def test_the_tape_equals_an_independent_recomputation(family: str) -> None:
    model = routed(tiny_model(family))
    with model.recorded() as tape:
        run(model.model)
    assert len(tape.expert_ids) == len(model.layers) > 0
    for number, layer in enumerate(model.layers):
        got = as_dicts(tape.expert_ids[number], tape.gate_weights[number])
        for token, logits in enumerate(tape.router_logits[number].tolist()):
            wanted = expected(family, layer.block.router, layer.top_k, dict(enumerate(logits)))
            assert set(got[token]) == set(wanted)
            assert got[token] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("family", [each for each in CAUSAL if each not in ("jetmoe", "dbrx")])
def test_the_recorded_logits_are_the_routers_own(family: str) -> None:
    model = routed(tiny_model(family))
    seen: dict[int, torch.Tensor] = {}

    def hook(number: int):
        return lambda _module, args: seen.update({number: args[0].flatten(0, -2)})

    for number, layer in enumerate(model.layers):
        layer.block.router.register_forward_pre_hook(hook(number))
    with model.recorded() as tape:
        run(model.model)
    for number, layer in enumerate(model.layers):
        router = layer.block.router
        bias = getattr(router, "bias", None)
        logits = seen[number] @ router.weight.T + (0 if bias is None else bias)
        assert torch.allclose(tape.router_logits[number], logits, atol=1e-5)


def test_recording_and_keeping_all_experts_change_nothing(family: str) -> None:
    made = tiny_model(family)
    before = run(made)
    model = routed(made)
    with model.recorded():
        assert torch.equal(run(made), before)
    with model.restricted(everything(model)):
        assert torch.equal(run(made), before)
    assert torch.equal(run(made), before)


@pytest.mark.parametrize("family", CUTTABLE)
def test_experts_that_are_left_out_are_never_used(family: str) -> None:
    model = routed(tiny_model(family))
    whole = run(model.model)
    with model.restricted([KEPT] * len(model.layers)):
        before = run(model.model)
        spoil(model, GONE)
        with model.recorded() as tape:
            after = run(model.model)
    assert after.isfinite().all() and torch.equal(after, before)
    assert not torch.equal(after, whole)
    used = set(torch.cat([ids.flatten() for ids in tape.expert_ids.values()]).tolist())
    assert used - {DROPPED} <= set(KEPT)


@torch.no_grad()
def spoil(model: RoutedModel, experts: list[int]) -> None:
    """NaN in every weight of these experts."""
    for layer in model.layers:
        for name, weight in layer.block.module.named_parameters():
            if "router" in name or "gate." in name or "shared" in name:
                continue
            if weight.ndim == 3 or (weight.ndim == 2 and weight.shape[0] == EXPERTS):
                weight[experts] = float("nan")
            elif any(f"expert_{e}." in name for e in experts):
                weight.fill_(float("nan"))
            elif layer.block.name.startswith("transformer.blocks"):  # dbrx: rows of all experts
                weight.unflatten(0, (EXPERTS, -1))[experts] = float("nan")


@pytest.mark.parametrize("family", CUTTABLE)
def test_fewer_experts_than_top_k_leave_slots_empty(family: str) -> None:
    model = routed(tiny_model(family))
    with model.restricted([[2, 7]] * len(model.layers)), model.recorded() as tape:
        logits = run(model.model)
    assert logits.isfinite().all()
    for number, layer in enumerate(model.layers):
        empty = tape.expert_ids[number] == DROPPED
        assert (tape.gate_weights[number][empty] == 0).all()
        assert set(tape.expert_ids[number].flatten().tolist()) <= {2, 7, DROPPED}
        assert empty.any() or layer.top_k <= 2


def test_two_threads_never_see_each_others_experts() -> None:
    model = routed(tiny_model("olmoe"))
    ways = ([0, 1, 2, 3], [4, 5, 6, 7])
    alone = []
    for kept in ways:
        with model.restricted([kept] * 3):
            alone.append(run(model.model))
    barrier, together = threading.Barrier(2, timeout=60), [torch.empty(0)] * 2

    def work(mine: int) -> None:
        with model.restricted([ways[mine]] * 3):
            barrier.wait()
            together[mine] = run(model.model)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_switch_drops_what_is_beyond_an_experts_capacity() -> None:
    model = routed(tiny_model("switch_transformers"))
    with model.recorded() as tape:
        run(model.model)
    for ids_N1 in tape.expert_ids.values():
        ids_BT = ids_N1.view(2, -1)
        assert (ids_BT == DROPPED).any()
        for row in ids_BT.tolist():
            counts = np.bincount([e for e in row if e != DROPPED], minlength=EXPERTS)
            assert counts.max() <= 2  # expert_capacity


def test_nllb_is_recorded_as_it_runs_and_refuses_a_cut() -> None:
    """transformers 5.23 sends first choices to expert 1 and second ones to expert 0."""
    model = routed(tiny_model("nllb-moe"))
    before = run(model.model)
    spoil(model, [2, 3, 4, 5, 6, 7])
    with model.recorded() as tape:
        after = run(model.model)
    assert torch.equal(before, after)
    assert set(tape.expert_ids[0].flatten().tolist()) <= {0, 1, DROPPED}
    with (
        pytest.raises(ValueError, match="cannot be cut"),
        model.restricted([KEPT] * len(model.layers)),
    ):
        pass


@pytest.mark.parametrize("family", UNKNOWN)
def test_an_unknown_family_is_found_by_shape_and_says_that_it_guessed(family: str) -> None:
    made = tiny_model(family)
    before = run(made)
    model = routed(made)
    assert family not in KNOWN and model.guessed
    assert all(layer.rule is not None for layer in model.layers)
    with model.restricted([KEPT] * len(model.layers)):
        spoil(model, GONE)
        assert run(made).isfinite().all() and not torch.equal(run(made), before)


def test_a_rule_that_is_not_recognised_can_be_recorded_and_not_cut() -> None:
    made = tiny_model("hunyuan_v1_moe")
    for block in made.modules():
        if type(block).__name__ == "HunYuanMoEV1Experts":
            block.register_forward_pre_hook(lambda _, args: (args[0], args[1], args[2].square()))
    model = routed(made)
    with model.recorded() as tape:
        run(made)
    assert tape.expert_ids
    with (
        pytest.raises(ValueError, match="was not recognised"),
        model.restricted([KEPT] * len(model.layers)),
    ):
        pass


def test_a_model_without_routers_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    dense = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=1, **small))
    with pytest.raises(ValueError, match="No layer with a router"):
        routed(dense)


@pytest.mark.parametrize(
    ("experts", "sentence"),
    [
        ([[0, 1]], "1 layers, the model 3"),
        ([[]] * 3, "at least one id"),
        ([[0, 8]] * 3, "0 to 7"),
        ([[-1, 2]] * 3, "0 to 7"),
    ],
)
def test_a_subset_that_does_not_fit_is_one_sentence(experts: list, sentence: str) -> None:
    model = routed(tiny_model("olmoe"))
    with pytest.raises(ValueError, match=sentence), model.restricted(experts):
        pass


def test_a_group_is_as_good_as_its_best_two() -> None:
    """Group 0 has the best expert of all, group 1 the best two together."""
    logits_1E = torch.tensor([[3.0, -3.0, 2.0, 2.0]])
    rule = Rule("sigmoid", groups=2, groups_kept=1)
    chosen = rule.choose(logits_1E, top_k=2)
    assert set(chosen.expert_ids_NK[0].tolist()) == {2, 3}
    # One expert left in the better group: it counts by that one, and the other group wins.
    fewer = rule.choose(logits_1E, 2, torch.tensor([True, True, True, False]))
    assert set(fewer.expert_ids_NK[0].tolist()) == {0, 1}
