"""Faults planted in the kernels on purpose: each must be noticed by the checks the tests run.

A fault is one textual edit of one module. The edited module is loaded under another name and put in
place of the real one; then the checks of `checks.py` run until one fails.
"""

import importlib.util
import sys
from typing import NamedTuple

import pytest

from model.kernels import ops
from tests.kernels import checks


class Fault(NamedTuple):
    module: str
    correct: str
    wrong: str


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
        "forward", "live = tl.load(bucket_S + slot) >= 0", "live = tl.load(bucket_S + slot) >= -9"
    ),
    "gate weight of a dropped slot read": Fault(
        "forward",
        "tl.where(live, tl.load(s_S + slot).to(tl.float32), 0.0)",
        "tl.load(s_S + slot).to(tl.float32)",
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
    "detached slots trained": Fault("backward", "!= 0, 0.0, s)", "!= 0, s, s)"),
    "rows of the next expert in a weight gradient": Fault(
        "backward", "r_mask = (k < count)[:, None]", "r_mask = (k < BK)[:, None]"
    ),
    "only the first rows of an expert": Fault(
        "backward", "for r0 in range(0, total, BK)", "for r0 in range(0, tl.minimum(total, BK), BK)"
    ),
    "weight gradients of the neighbour": Fault(
        "backward",
        "expert.to(tl.int64) * (HEIGHT * WIDTH)",
        "(expert * 0).to(tl.int64) * (HEIGHT * WIDTH)",
    ),
    "ragged tiles lost": Fault(
        "metadata", "((counts_P + BM - 1) // BM).cumsum", "(counts_P // BM).cumsum"
    ),
    "sentinel ids taken for experts": Fault(
        "metadata", "live_S = (idx_S >= 0) & (idx_S < num_logical)", "live_S = idx_S >= 0"
    ),
    "map to the weight buffer ignored": Fault(
        "metadata", "idx_S = phys_E[torch.where(live_S, idx_S, 0).long()]", "pass"
    ),
    "one tile too few": Fault(
        "metadata",
        "return -(-num_slots // BM) + min(num_physical, num_slots)",
        "return -(-num_slots // BM)",
    ),
    "gate gradient of a dropped slot": Fault(
        "flow", "torch.where(self.bucket_S >= 0, ds_SB.sum(1), 0.0)", "ds_SB.sum(1)"
    ),
    "ties to the higher id": Fault(
        "pool", "(r[None, :] < r[:, None])", "(r[None, :] > r[:, None])"
    ),
    "pools of logits, not of probabilities": Fault(
        "pool", "odds / tl.where(total > 0, total, 1.0)[:, None]", "odds"
    ),
    "a pool of one expert too many": Fault("pool", "(rank < tl.load", "(rank <= tl.load"),
    "recomputed h from the wrong half": Fault(
        "flow", "self.w13_PJH, *rows, h_SJ, h_SJ", "self.w13_PJH.roll(1, 1), *rows, h_SJ, h_SJ"
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
        "flow", "% plans.DESCRIPTOR_ALIGNMENT", "% plans.DESCRIPTOR_ALIGNMENT // 16"
    ),
    "descriptors given where pointers are meant": Fault(
        "flow", "return launch.on_pointers(), ", "return launch, "
    ),
}


def suite():
    """The checks in the order in which they are likely to notice something."""
    yield checks.numerics
    yield from checks.PROPERTIES.values()


def plant(fault, folder, monkeypatch):
    """Put the edited module in place of the real one, wherever the call path looks for it."""
    flow = importlib.import_module("model.kernels.flow")
    with open((flow if fault.module == "flow" else getattr(flow, fault.module)).__file__) as file:
        source = file.read()
    assert source.count(fault.correct) >= 1, "the kernels changed: this fault plants nothing"
    path = folder / f"{fault.module}_faulty.py"
    path.write_text(source.replace(fault.correct, fault.wrong))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    faulty = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faulty)
    if fault.module == "flow":
        monkeypatch.setitem(sys.modules, "model.kernels.flow", faulty)
        return
    monkeypatch.setattr(flow, fault.module, faulty)
    if fault.module == "metadata":
        monkeypatch.setattr(ops, "metadata", faulty)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_is_noticed(fault, tmp_path, monkeypatch):
    plant(fault, tmp_path, monkeypatch)
    for check in suite():
        try:
            check()
        except Exception:
            return
    pytest.fail("no check noticed")


@pytest.mark.parametrize("fault", DESCRIPTOR_FAULTS.values(), ids=DESCRIPTOR_FAULTS.keys())
def test_a_fault_of_the_descriptor_path_is_noticed(fault, tmp_path, monkeypatch):
    plant(fault, tmp_path, monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011
        for case in checks.DESCRIPTOR_CASES.values():
            checks.descriptors_change_nothing(**case)


def test_without_a_fault_every_check_passes(tmp_path, monkeypatch):
    """The same machinery with nothing edited: what the faults trip over is the fault alone."""
    for module in ("flow", "forward", "backward", "metadata", "pool"):
        plant(Fault(module, "import", "import"), tmp_path, monkeypatch)
    for check in suite():
        check()


def test_there_are_enough_faults():
    assert len(FAULTS) >= 12
    modules = {fault.module for fault in FAULTS.values()}
    assert modules == {"forward", "backward", "metadata", "flow", "pool"}
