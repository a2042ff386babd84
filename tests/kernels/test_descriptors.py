"""The second path, tensor descriptors: off unless a table asks, and the same bits as pointers."""

import json

import pytest

from model.kernels import flow, plans
from model.kernels.plans import Layer
from tests.kernels import checks

LAYER = Layer(2048, 1024, 8, 128)
SLOTS = 131_072


def described(arch, layer):
    """The kernels that load through descriptors once every tile asks for them."""
    with plans.using(plans.on_descriptors(plans.tables())):
        forward = plans.forward_plan(arch, layer, SLOTS, True)
        backward = plans.backward_plan(arch, layer, SLOTS, False)
    launches = vars(forward) | vars(backward)
    del launches["BM"]
    return {launch.kernel for launch in launches.values() if launch.described()}


@pytest.fixture
def made(monkeypatch):
    """Shapes of the tensors that became descriptors."""
    shapes, make = [], flow.TensorDescriptor.from_tensor

    def spy(tensor, block):
        shapes.append(tuple(tensor.shape))
        return make(tensor, block)

    monkeypatch.setattr(flow.TensorDescriptor, "from_tensor", spy)
    return shapes


@pytest.mark.parametrize("case", checks.DESCRIPTOR_CASES.values(), ids=checks.DESCRIPTOR_CASES)
def test_descriptors_give_the_bits_of_pointers(case):
    checks.descriptors_change_nothing(**case)


def test_weights_and_rows_in_expert_order_are_described(made):
    checks.descriptors_change_nothing(T=9, E=2, K=1, H=16, I=8)
    w13, w2, a, dh = (2, 16, 16), (2, 16, 8), (9, 8), (9, 16)
    assert made == [w13, a, w2, w2, dh, w13]


@pytest.mark.parametrize("name", ["rows-of-33", "rows-of-20", "unaligned-start", "fp32"])
def test_what_no_descriptor_takes_stays_on_pointers(name, made):
    checks.descriptors_change_nothing(**checks.DESCRIPTOR_CASES[name])
    assert not made


def test_no_shipped_tile_asks_for_descriptors():
    assert "tma" not in plans.TABLES.read_text()
    for arch in plans.ARCHITECTURES:
        assert not plans.forward_plan(arch, LAYER, SLOTS, True).up.described()


def test_descriptors_need_the_hardware_and_the_rows():
    products = {"up_kernel", "rows_to_slots_kernel", "act_grad_kernel"}
    assert described("sm_90", LAYER) == described("sm_100", LAYER) == products
    assert described("sm_80", LAYER) == set()
    assert described("sm_90", Layer(2048, 1020, 8, 128)) == set()
    assert described("sm_90", Layer(2048, 1024, 8, 128, half=False)) == set()


def test_a_file_of_ones_own_asks_for_one_tile(tmp_path, monkeypatch):
    tables = json.loads(plans.TABLES.read_text())
    tables["sm_90"]["half"]["forward"][3]["down"]["tma"] = True
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(tables))
    monkeypatch.setenv("EMO_KERNEL_CONFIGS", str(path))
    plans._read.cache_clear()
    plan = plans.forward_plan("sm_90", LAYER, SLOTS, True)
    plans._read.cache_clear()
    assert plan.down.described() == {"rows_SD": [128, 64], "w_P": [1, 256, 64]}
    assert not plan.up.described()


def test_tables_in_use_are_not_changed():
    before = json.dumps(plans.tables())
    asking = plans.on_descriptors(plans.tables())
    assert json.dumps(plans.tables()) == before
    assert asking["sm_90"]["half"]["forward"][0]["up"]["tma"] is True
    assert "tma" not in asking["sm_90"]["half"]["weight_grad"]
