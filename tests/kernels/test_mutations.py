"""Faults planted in the kernels on purpose: each must be noticed by the checks the tests run.

A fault is one textual edit of one module. The edited module is loaded under another name and put in
place of the real one; then the check of `checks.py` that the fault names must fail, by an assertion
of its own: a module that does not load or run is no fault noticed.
"""

import importlib.util
import itertools
import sys
from typing import NamedTuple

import pytest

from model.kernels import ops
from tests.kernels import checks, problems


class Fault(NamedTuple):
    module: str
    correct: str
    wrong: str
    by: str = ""


FAULTS = {
    "gate and up swapped": Fault(
        "forward", "gate * tl.sigmoid(gate) * up", "up * tl.sigmoid(up) * gate"
    ),
    "last K block skipped": Fault(
        "forward", "for k0 in range(0, H, BK)", "for k0 in range(0, H - BK, BK)"
    ),
    "K edge not masked": Fault(
        "forward", "K_EDGE: tl.constexpr = H if H % BK else 0", "K_EDGE: tl.constexpr = 0"
    ),
    "results left in expert order": Fault(
        "forward", "slots = tl.load(order_S + first + near)", "slots = first + near"
    ),
    "dropped slots summed": Fault(
        "forward",
        "live = tl.load(bucket_S + slot) >= 0",
        "live = tl.load(bucket_S + slot) >= -9",
        by="dropped_slots",
    ),
    "gate weight of a dropped slot read": Fault(
        "forward",
        "tl.where(live, tl.load(s_S + slot).to(tl.float32), 0.0)",
        "tl.load(s_S + slot).to(tl.float32)",
        by="dropped_slots",
    ),
    "gate weight forgotten": Fault("forward", "if SCALED:", "if False:"),
    "last slot of a token forgotten": Fault(
        "forward", "tl.static_range(K)", "tl.static_range(K - 1)"
    ),
    "token taken for slot": Fault(
        "forward",
        "(slots // K).to(tl.int64)[:, None] * H + k",
        "(slots // (K + 1)).to(tl.int64)[:, None] * H + k",
    ),
    "up half read at the wrong offset": Fault(
        "forward", "w_base + I * H + w_local", "w_base + (I - 1) * H + w_local"
    ),
    "h saved as up over gate": Fault("forward", "h_tile + h_local, gate", "h_tile + h_local, up"),
    "SiLU derivative without its second term": Fault(
        "backward", "(sigmoid + silu * (1.0 - sigmoid))", "sigmoid"
    ),
    "gate gradient of the second part lost": Fault(
        "backward", "ds += act_grad_parts", "ds = act_grad_parts"
    ),
    "weight gradient without the gate weight": Fault(
        "backward", "sa = act * s[:, None]", "sa = act + 0.0 * s[:, None]"
    ),
    "activation gradient without the gate weight": Fault(
        "backward", "scaled = dact * s[:, None]", "scaled = dact + 0.0 * s[:, None]"
    ),
    "detached slots trained": Fault(
        "backward", "!= 0, 0.0, s)", "!= 0, s, s)", by="detached_slots_train_only_their_gate"
    ),
    "rows of the next expert in a weight gradient": Fault(
        "backward", "r_mask = (k < count)[:, None]", "r_mask = (k < BK)[:, None]"
    ),
    "only the first rows of an expert": Fault(
        "backward",
        "for r0 in range(0, total, BK)",
        "for r0 in range(0, tl.minimum(total, BK), BK)",
        by="numbers_of_every_tile",
    ),
    "weight gradients of the neighbour": Fault(
        "backward",
        "expert.to(tl.int64) * (HEIGHT * WIDTH)",
        "(expert * 0).to(tl.int64) * (HEIGHT * WIDTH)",
    ),
    "ragged tiles lost": Fault(
        "sorting", "tiles_P = (counts_P + BM - 1) // BM", "tiles_P = counts_P // BM"
    ),
    "slots of one expert in one row": Fault(
        "sorting", "tl.cumsum(chosen_BP, 0) - 1", "0 * chosen_BP", by="slots_in_order"
    ),
    "earlier runs forgotten": Fault(
        "sorting",
        "starts_P + tl.load(counts_PC + p * C + run, mask=p < P, other=0)",
        "starts_P",
        by="slots_in_order",
    ),
    "all programs write the first rows": Fault(
        "sorting",
        "tl.where(run == 0, P, 0)",
        "tl.where(run >= 0, P, 0)",
        by="no_program_writes_what_another_touches",
    ),
    "sentinel ids taken for experts": Fault(
        "metadata",
        "live_S = (idx_S >= 0) & (idx_S < num_logical)",
        "live_S, idx_S = idx_S >= 0, idx_S.clamp(max=num_logical - 1)",
        by="dropped_slots",
    ),
    "map to the weight buffer ignored": Fault(
        "metadata",
        "idx_S = phys_E[torch.where(live_S, idx_S, 0).long()]",
        "pass",
        by="mask_equals_compaction",
    ),
    "one tile too few": Fault(
        "metadata",
        "return -(-num_slots // BM) + min(num_physical, num_slots)",
        "return -(-num_slots // BM)",
    ),
    "gate gradient of a dropped slot": Fault(
        "flow",
        "torch.where(self.bucket_S >= 0, ds_SB.sum(1), 0.0)",
        "ds_SB.sum(1)",
        by="dropped_slots",
    ),
    "ties to the higher id": Fault(
        "pool",
        "(r[None, :] < r[:, None])",
        "(r[None, :] > r[:, None])",
        by="pool_ties_go_to_the_lower_id",
    ),
    "pools of logits, not of probabilities": Fault(
        "pool", "odds / tl.where(total > 0, total, 1.0)[:, None]", "odds", by="pools_equal_routing"
    ),
    "a pool of one expert too many": Fault(
        "pool", "(rank < tl.load", "(rank <= tl.load", by="pool_ties_go_to_the_lower_id"
    ),
    "recomputed h from the wrong half": Fault(
        "flow",
        "w13_PJH, *rows, h_SJ, h_SJ",
        "w13_PJH.roll(1, 1), *rows, h_SJ, h_SJ",
        by="recomputing_gives_the_same_bits",
    ),
    "second part of h in the place of the first": Fault(
        "forward", "n1 = n0 + B2", "n1 = n0", by="large_tiles"
    ),
    # Sequentially right: block after block adds to one cell and clears its own.
    "column blocks adding into one cell": Fault(
        "backward",
        "tl.store(ds_SB + slots.to(tl.int64) * blocks + pid % blocks, ds, mask=live)",
        "cell = ds_SB + slots.to(tl.int64) * blocks\n"
        "    later = live & (n0 > tl.zeros((BM,), tl.int32))\n"
        "    before = tl.load(cell, mask=later, other=0.0)\n"
        "    tl.store(cell, before + ds, mask=live)\n"
        "    tl.store(cell + pid % blocks, ds * 0.0, mask=later)",
        by="no_program_writes_what_another_touches",
    ),
    "launched on the current device": Fault(
        "flow",
        "with _on(tensors[0].device):",
        "with nullcontext():",
        by="launches_start_on_the_tensors_device",
    ),
    "gradients of the weights in the type of the products": Fault(
        "flow",
        "dw2_PHI, dw13_PJH = torch.empty_like(self.w2_PHI), torch.empty_like(self.w13_PJH)",
        "dw2_PHI, dw13_PJH = (torch.empty_like(w, dtype=dh_SJ.dtype)"
        " for w in (self.w2_PHI, self.w13_PJH))",
        by="float32_masters",
    ),
    "weight gradients only where w13 learns": Fault(
        "ops", "needs[1] or needs[2]", "needs[1]", by="each_weight_learns_alone"
    ),
    "h saved by inference": Fault(
        "ops", 'learning and save == "xh"', 'save == "xh"', by="inference_saves_nothing"
    ),
    "strided operands read as if they lay in order": Fault(
        "ops",
        "(t.contiguous() for t in (x, w13, w2, s))",
        "(x, w13, w2, s)",
        by="operands_that_do_not_lie_in_order",
    ),
    "a strided gradient read as if it lay in order": Fault(
        "ops", "dout_TH.contiguous()", "dout_TH", by="operands_that_do_not_lie_in_order"
    ),
    "autocast ignored": Fault(
        "ops", "x_TH.to(_product_dtype(x_TH))", "x_TH", by="autocast_chooses_the_products"
    ),
}

# Noticed by the comparison with pointers, which no other check makes.
DESCRIPTOR_FAULTS = {
    "weights of another expert": Fault(
        "forward", "w_P.load([expert, row, col])", "w_P.load([expert * 0, row, col])"
    ),
    "columns of the first block": Fault(
        "forward", "w_P.load([expert, row, col])", "w_P.load([expert, row, col * 0])"
    ),
    "gate and up blocks swapped": Fault(
        "forward",
        "w_gate = expert_block(w13_PJH, expert, n0, k0, BN, BK).T\n"
        "            w_up = expert_block(w13_PJH, expert, I + n0, k0, BN, BK).T",
        "w_up = expert_block(w13_PJH, expert, n0, k0, BN, BK).T\n"
        "            w_gate = expert_block(w13_PJH, expert, I + n0, k0, BN, BK).T",
    ),
    "up block of a neighbour": Fault("forward", "I + n0, k0, BN, BK", "I - 1 + n0, k0, BN, BK"),
    "rows of the first tile": Fault(
        "forward", "rows_SD.load([first, k0])", "rows_SD.load([0, k0])"
    ),
    "input gradient from the first step": Fault(
        "forward", "expert_block(w_P, expert, k0, n0,", "expert_block(w_P, expert, 0, n0,"
    ),
    "down block of the first columns": Fault(
        "forward", "expert_block(w_P, expert, n0, k0,", "expert_block(w_P, expert, 0, k0,"
    ),
    "activation gradient of the first columns": Fault(
        "backward", "expert_block(w2_PHI, expert, k0, n0,", "expert_block(w2_PHI, expert, k0, 0,"
    ),
    "a block of the wrong shape": Fault("forward", "BN, BK).T", "BK, BN)"),
    "a start that no descriptor takes": Fault(
        "flow",
        "% plans.DESCRIPTOR_ALIGNMENT",
        "% plans.DESCRIPTOR_ALIGNMENT // 16",
        by="unaligned-start",
    ),
}


NAMED = sorted({fault.by or "small_numbers" for fault in FAULTS.values()})
numbers = itertools.count()


def plant(fault, folder, monkeypatch):
    """Put the edited module in place of the real one, wherever the call path looks for it."""
    flow = importlib.import_module("model.kernels.flow")
    real = {"flow": flow, "ops": ops}.get(fault.module) or getattr(flow, fault.module)
    with open(real.__file__) as file:
        source = file.read()
    assert source.count(fault.correct) >= 1, "the kernels changed: this fault plants nothing"
    path = folder / f"{fault.module}_faulty.py"
    edited = source.replace(fault.correct, fault.wrong)
    # An operator's name can be given once.
    path.write_text(edited.replace("emo_kernels::", f"emo_kernels_{next(numbers)}::"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    faulty = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faulty)
    if fault.module == "ops":
        for module in (problems, checks):
            monkeypatch.setattr(module, "ops", faulty)
    elif fault.module == "flow":
        monkeypatch.setitem(sys.modules, "model.kernels.flow", faulty)
    else:
        monkeypatch.setattr(flow, fault.module, faulty)
        if fault.module == "metadata":
            monkeypatch.setattr(ops, "metadata", faulty)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_is_noticed(fault, tmp_path, monkeypatch):
    plant(fault, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        checks.PROPERTIES[fault.by or "small_numbers"]()


@pytest.mark.parametrize("fault", DESCRIPTOR_FAULTS.values(), ids=DESCRIPTOR_FAULTS.keys())
def test_a_fault_of_the_descriptor_path_is_noticed(fault, tmp_path, monkeypatch):
    plant(fault, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        checks.descriptors_change_nothing(**checks.DESCRIPTOR_CASES[fault.by or "several-tiles"])


@pytest.mark.parametrize("name", NAMED)
def test_without_a_fault_the_check_passes(name, tmp_path, monkeypatch):
    """The same machinery with nothing edited: what the faults trip over is the fault alone."""
    for module in ("flow", "forward", "backward", "metadata", "pool", "ops"):
        plant(Fault(module, "import", "import"), tmp_path, monkeypatch)
    checks.PROPERTIES[name]()


def test_a_module_that_does_not_run_is_no_fault_noticed(tmp_path, monkeypatch):
    plant(Fault("forward", "acc = tl.dot(", "acc = tl.no_such_function("), tmp_path, monkeypatch)
    with pytest.raises(Exception, match="no_such_function") as raised:
        checks.small_numbers()
    assert not isinstance(raised.value, AssertionError)


def test_there_are_enough_faults():
    assert len(FAULTS) >= 12
    modules = {fault.module for fault in FAULTS.values()}
    assert modules == {"forward", "backward", "metadata", "flow", "pool", "sorting", "ops"}
