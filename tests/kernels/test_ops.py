"""The call itself: saved memory, torch.compile, checkpointing, transformers, and clear refusals."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from transformers import OlmoeConfig, OlmoeForCausalLM
from transformers.integrations.moe import ExpertsInterface

from model.emo.experts import is_plain_swiglu
from model.kernels import costs, plans
from model.kernels.ops import backward_op, default_backend, document_pools, forward_op, moe
from tests.kernels.problems import assert_same_bits, make, run
from tests.model.helpers import tiny_ids, tiny_model

SMALL = {"T": 9, "E": 4, "K": 2, "H": 16, "I": 16}


def saved_bytes(T, layer, save):
    """Bytes autograd keeps besides the weights, for real sizes without real memory."""
    H, I, P, K = layer.H, layer.I, layer.P, layer.K  # noqa: E741
    kept = {}

    def pack(tensor):
        kept[id(tensor)] = tensor
        return tensor

    with FakeTensorMode():
        x = torch.empty(T, H, dtype=torch.bfloat16, requires_grad=True)
        w13 = torch.empty(P, 2 * I, H, dtype=torch.bfloat16, requires_grad=True)
        w2 = torch.empty(P, H, I, dtype=torch.bfloat16, requires_grad=True)
        s = torch.empty(T, K, requires_grad=True)
        idx = torch.zeros(T, K, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = moe(x, w13, w2, s, idx, save=save, backend="triton")
        assert out.requires_grad
    shapes = [t for t in kept.values() if t.shape not in (w13.shape, w2.shape)]
    return sum(t.numel() * t.element_size() for t in shapes)


@pytest.mark.parametrize("save", ["xh", "x"])
def test_saved_bytes_a_token(save):
    layer, T = plans.Layer(2048, 1024, 8, 128), 16_384
    saved = (saved_bytes(T, layer, save) - 4 * (layer.P + 1)) / T
    assert saved == costs.saved_bytes_per_token(layer, save)
    assert saved <= {"xh": 36_864, "x": 4_096}[save] + 128


def test_the_op_keeps_torch_librarys_promises():
    problem = make(**SMALL)
    bucket = problem.idx.reshape(-1).int()
    torch.library.opcheck(forward_op, (*problem.tensors, bucket, None, True, 3))
    tensors = [t.detach() for t in problem.tensors]
    _, *saved = forward_op(*tensors, bucket, None, True, None)
    rest = (*tensors, bucket, None, *saved, True, True, None)
    torch.library.opcheck(backward_op, (problem.upstream, *rest))
    documents = (torch.zeros(1, 8, dtype=torch.long), torch.full((1, 8), 3))
    torch.library.opcheck(document_pools, (torch.randn(1, 8, 5), *documents, 4))


def test_torch_compile_keeps_one_graph():
    problem = make(**SMALL)
    compiled = torch.compile(moe, fullgraph=True, backend="aot_eager")
    out = compiled(*problem.tensors, problem.idx, backend="triton")
    gradients = torch.autograd.grad(out, problem.tensors, problem.upstream)
    assert_same_bits([out.detach(), *gradients], run(problem))


def test_activation_checkpointing_gives_the_same_bits():
    problem = make(**SMALL)
    out = checkpoint(
        lambda *t: moe(*t, problem.idx, backend="triton"), *problem.tensors, use_reentrant=False
    )
    gradients = torch.autograd.grad(out, problem.tensors, problem.upstream)
    assert_same_bits([out.detach(), *gradients], run(problem))


def test_frozen_weights_cost_no_gradient(monkeypatch):
    from model.kernels import flow

    problem = make(**SMALL)
    want = run(problem)
    monkeypatch.setattr(flow._Backward, "weight_grads", lambda *_: pytest.fail("computed dW"))
    x, w13, w2, s = (t.detach() for t in problem.tensors)
    x.requires_grad_()
    out = moe(x, w13, w2, s, problem.idx, backend="triton")
    assert torch.equal(torch.autograd.grad(out, x, problem.upstream)[0], want[1])


def olmoe(implementation):
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_experts=8,
        num_experts_per_tok=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = OlmoeForCausalLM(config)
    model.set_experts_implementation(implementation)
    return model


def triton_experts(self, hidden_states, top_k_index, top_k_weights):
    weights = (self.gate_up_proj, self.down_proj)
    return moe(hidden_states, *weights, top_k_weights, top_k_index, backend="triton")


@pytest.mark.parametrize("implementation", ["emo_moe", "triton_experts"])
def test_transformers_olmoe_gives_the_same_logits_and_gradients(implementation):
    ExpertsInterface.register("triton_experts", triton_experts)
    ids = torch.randint(2, 40, (1, 12), generator=torch.Generator().manual_seed(0))
    results = []
    for name in ("eager", implementation):
        model = olmoe(name)
        logits = model(ids).logits
        logits.square().mean().backward()
        results.append([logits, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_experts_that_are_not_plain_swiglu_are_recognised():
    experts = olmoe("emo_moe").model.layers[0].mlp.experts
    assert is_plain_swiglu(experts)
    experts.has_bias = True
    assert not is_plain_swiglu(experts)
    experts.has_bias, experts.act_fn = False, torch.nn.GELU()
    assert not is_plain_swiglu(experts)


def test_cuda_gets_the_kernels_by_default():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert default_backend(torch.device("cuda"), dtype) == "triton"
        assert default_backend(torch.device("cpu"), dtype) == "grouped_mm"
    assert default_backend(torch.device("cuda"), torch.float64) == "reference"


def test_float64_is_computed_where_no_backend_is_named():
    problem = make(**SMALL)
    exact = [t.detach().double().requires_grad_() for t in problem.tensors]
    assert moe(*exact, problem.idx).dtype == torch.float64


def test_wrong_operands_are_refused_in_one_sentence():
    x, w13, w2, s = (t.detach() for t in make(**SMALL).tensors)
    idx = make(**SMALL).idx
    with pytest.raises(ValueError, match="do not fit"):
        moe(x[:, :8], w13, w2, s, idx)
    with pytest.raises(ValueError, match="must both be"):
        moe(x, w13, w2, s[:, :1], idx)
    with pytest.raises(ValueError, match="must agree"):
        moe(x.bfloat16(), w13.half(), w2.half(), s, idx)
    with pytest.raises(ValueError, match="must agree"):
        moe(x, w13.bfloat16(), w2, s, idx)
    with pytest.raises(ValueError, match="save option"):
        moe(x, w13, w2, s, idx, save="h")
    with pytest.raises(ValueError, match="Unknown backend"):
        moe(x, w13, w2, s, idx, backend="cublas")
    with pytest.raises(ValueError, match="no kernels for torch.float64"):
        moe(x.double(), w13.double(), w2.double(), s, idx, backend="triton")


def test_few_live_experts_get_the_tiles_of_their_rows():
    """256 tokens over 16 of 128 experts: 128 rows each, not the 16 that all would have."""
    layer, slots = plans.Layer(2048, 1024, 8, 128), 256 * 8
    for arch in plans.ARCHITECTURES:
        assert plans.forward_plan(arch, layer, slots, False).BM == 16
        assert plans.forward_plan(arch, layer, slots, False, live=16).BM == 64
        assert plans.forward_plan(arch, layer, slots, False, live=1000).BM == 16
        assert plans.backward_plan(arch, layer, 4096 * 8, False, live=16).BM == 128


@pytest.mark.parametrize("live", [1, 3, 1000])
def test_how_many_experts_are_said_to_be_live_changes_no_result(live):
    problem = make(**SMALL)
    assert_same_bits(run(problem, live=live), run(problem))


def test_an_active_subset_tells_the_kernels_how_many_experts_it_keeps(monkeypatch):
    from model.emo import experts
    from model.kernels import ops
    from model.run import subset

    model, seen = tiny_model(num_hidden_layers=1), []
    monkeypatch.setattr(ops, "moe", lambda x, *_, live, save: seen.append(live) or x)
    x, ids = torch.zeros(2, 4), torch.zeros(2, 1, dtype=torch.long)
    experts._cuda_experts(x, x, x, x, ids)
    keep_k = model.config.num_experts_per_tok + 1
    with subset.apply_subset(model, subset.random_subset(model.config, keep_k, 0)):
        experts._cuda_experts(x, x, x, x, ids)
    experts._cuda_experts(x, x, x, x, ids)
    assert seen == [None, keep_k, None]


def losses_of_training(implementation, steps=3):
    ExpertsInterface.register("triton_experts", triton_experts)
    model = tiny_model(num_hidden_layers=1).train()
    model.set_experts_implementation(implementation)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = tiny_ids(rows=1, tokens=16)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)  # the same pool sizes are drawn
        loss = model(ids, labels=ids).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def test_a_tiny_emo_trains_to_the_same_losses_with_either_backend():
    fast, slow = (losses_of_training(name) for name in ("triton_experts", "emo_moe"))
    assert fast == pytest.approx(slow, rel=1e-5)
    assert slow[-1] < slow[0]
