"""Tuning happens on request alone, keeps what is faster, and refuses what misses a bar."""

import json

import pytest
import torch

from model.kernels import plans, tune
from model.kernels.plans import Layer
from tests.kernels.test_static import command

LAYER = Layer(2048, 1024, 8, 128)
TABLES = json.loads(plans.TABLES.read_text())


def best_is(wanted):
    """A clock that finds a tile the faster the fewer of its values differ from the wanted ones."""

    def seconds(entry):
        tile = plans.tables()["sm_90"]["half"]
        for key in entry.keys:
            tile = tile[key]
        return 1 + sum(tile.get(name) != value for name, value in wanted.items())

    return seconds


def tuned(seconds, meets_bars=lambda launch: True):
    return tune.tune(TABLES, "sm_90", LAYER, meets_bars, seconds)


def test_the_fastest_tile_is_kept_and_other_architectures_stay():
    wanted = {"BN": 64, "BK": 32, "warps": 4, "stages": 5}
    found = tuned(best_is(wanted))
    half = found["sm_90"]["half"]
    assert half["weight_grad"] == TABLES["sm_90"]["half"]["weight_grad"] | wanted
    assert half["backward"][1]["act_grad"].items() >= wanted.items()
    assert all(found[name] == TABLES[name] for name in TABLES if name != "sm_90")
    assert plans.tables() == TABLES


def test_descriptors_are_tried_where_they_can_be():
    found = tuned(best_is({"BN": 64, "tma": True}))["sm_90"]["half"]
    tiles = [tile for row in found["forward"] + found["backward"] for tile in row.values()]
    assert all(tile["tma"] is True for tile in tiles if isinstance(tile, dict))
    assert "tma" not in found["weight_grad"]
    tile = TABLES["sm_90"]["half"]["forward"][0]["up"]
    both = list(tune.variants(tile, True))
    assert tile | {"tma": True} in both
    assert tile in tune.variants(tile | {"tma": True}, True)
    assert len(both) == 1 + 2 * len(list(tune.variants(tile, False)))


def test_descriptors_are_not_tried_where_rows_do_not_allow_them():
    odd = Layer(2048, 1020, 8, 128)
    found = tune.tune(TABLES, "sm_90", odd, lambda launch: True, best_is({"tma": True}))
    assert found == TABLES


def test_the_shipped_tile_stays_unless_another_is_faster():
    assert tuned(lambda entry: 1.0) == TABLES


def test_a_tile_that_misses_a_bar_is_never_timed():
    found = tuned(best_is({"BN": 64}), lambda launch: launch.constants["BN"] > 64)
    assert found["sm_90"]["half"]["forward"][3] == TABLES["sm_90"]["half"]["forward"][3]


def test_a_tile_that_fails_on_the_device_counts_as_slow():
    def seconds(entry):
        if plans.tables() != TABLES:
            raise RuntimeError("out of resources: shared memory")
        return 1.0

    assert tuned(seconds) == TABLES


def test_every_tile_is_timed_at_tokens_that_lead_to_it():
    for entry in tune.entries(TABLES["sm_90"]["half"], LAYER):
        tile = TABLES["sm_90"]["half"]
        for key in entry.keys:
            tile = tile[key]
        for launch in tune.launches(entry, "sm_90", LAYER):
            assert (launch.warps, launch.stages) == (tile["warps"], tile["stages"]), entry


def test_both_passes_of_the_real_layer_are_timed(monkeypatch):
    from model.kernels import check

    monkeypatch.setattr(check, "DEVICE", "cpu")
    runs = []
    seconds = tune.pass_seconds(Layer(32, 16, 2, 4), lambda run: runs.append(run()) or 3.0)
    for part in ("forward", "backward"):
        assert seconds(tune.Entry((part, 0, "up"), 5)) == 3e-3
    assert runs[0].shape == (5, 32) and len(runs[1]) == 5


@pytest.fixture
def fresh_tables():
    plans._read.cache_clear()
    yield
    plans._read.cache_clear()


def test_a_file_of_ones_own_replaces_the_shipped_tables(tmp_path, monkeypatch, fresh_tables):
    mine = json.loads(json.dumps(TABLES))
    mine["sm_90"]["half"]["forward"][3]["down"]["BN"] = 64
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(mine))
    monkeypatch.setenv("EMO_KERNEL_CONFIGS", str(path))
    assert plans.forward_plan("sm_90", LAYER, 131_072, True).down.constants["BN"] == 64


@pytest.mark.parametrize("content", [None, "{", "{}", "3"])
def test_what_is_no_table_is_refused_in_one_sentence(content, tmp_path, monkeypatch, fresh_tables):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("EMO_KERNEL_CONFIGS", str(path))
    with pytest.raises(ValueError, match="holds no kernel tables .* unset EMO_KERNEL_CONFIGS"):
        plans.tables()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the command itself")
def test_without_a_gpu_it_says_so():
    result = command("model.kernels.tune", "--out", "never-written.json")
    assert result.returncode == 2
    assert "No CUDA device" in result.stdout
