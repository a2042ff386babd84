"""Tuning happens on request alone, keeps what is faster, and refuses what misses a bar."""

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from model.kernels import plans, tune
from model.kernels.plans import Layer
from tests.kernels.test_static import ROOT, command

LAYER = Layer(2048, 1024, 8, 128)
TABLES = json.loads(plans.TABLES.read_text())


def best_is(wanted):
    """A clock that finds a tile the faster the fewer of its values differ from the wanted ones."""

    def seconds(entry, name):
        row = entry.row(plans.tables()["sm_90"]["half"])
        tile = {"BM": row.get("BM"), "tma": False} | row[name]
        return 1 + sum(tile.get(key) != value for key, value in wanted.items() if key in tile)

    return seconds


def all_meet(lists):
    return [True] * len(lists)


def tuned(seconds, meet=all_meet, left=lambda: 1.0, tables=TABLES, layer=LAYER):
    tuner = tune.Tuner(tables, "sm_90", layer, meet, seconds, left)
    whole = tuner.run()
    assert plans.tables() == TABLES and tables != tuner.tables
    return whole, tuner.tables


def without_marks(tables):
    return {name: table for name, table in tables.items() if name != tune.TUNED}


def test_the_fastest_tile_is_kept_and_other_architectures_stay():
    wanted = {"BN": 64, "BK": 32, "warps": 4}
    whole, found = tuned(best_is(wanted))
    half = found["sm_90"]["half"]
    assert whole and half["weight_grad"].items() >= wanted.items()
    assert half["forward"][3]["down"].items() >= wanted.items()
    assert all(found[name] == TABLES[name] for name in TABLES if name != "sm_90")


def test_the_rows_a_tile_are_tried_for_the_tiles_that_share_them():
    def seconds(entry, name):
        height = entry.row(plans.tables()["sm_90"]["half"]).get("BM")
        return {"up": 1.0, "down": 3.0}.get(name, 1.0) / (2 if height == 64 else 1)

    _, found = tuned(seconds)
    half = found["sm_90"]["half"]
    assert [row["BM"] for row in half["forward"]] == [16, 64, 64, 64]
    assert [row["BM"] for row in half["backward"]] == [64, 64]


def test_a_height_that_the_forward_table_lacks_still_gives_a_backward_pass():
    tables = json.loads(json.dumps(TABLES))
    tables["sm_90"]["half"]["backward"][1]["BM"] = 256
    with plans.using(tables):
        plan = plans.backward_plan("sm_90", LAYER, 131_072, False)
    assert plan.BM == plan.recompute.constants["BM"] == plan.act_grad.constants["BM"] == 256


def test_parts_of_an_epilogue_are_tried():
    _, found = tuned(best_is({"parts": 2}))
    half = found["sm_90"]["half"]
    assert half["backward"][1]["act_grad"]["parts"] == 2
    assert half["forward"][3]["up"]["parts"] == 2


def test_descriptors_are_tried_where_they_can_be():
    half = tuned(best_is({"tma": True}))[1]["sm_90"]["half"]
    tiles = [tile for row in half["forward"] + half["backward"] for tile in row.values()]
    assert all(tile["tma"] is True for tile in tiles if isinstance(tile, dict))
    assert "tma" not in half["weight_grad"]
    odd = Layer(2048, 1020, 8, 128)
    assert without_marks(tuned(best_is({"tma": True}), layer=odd)[1]) == TABLES


def test_the_shipped_tile_stays_unless_another_is_faster():
    for seconds in (1.0, float("inf")):
        whole, found = tuned(lambda entry, name, seconds=seconds: seconds)
        assert whole and without_marks(found) == TABLES


def test_a_gain_of_less_than_a_percent_is_noise():
    def seconds(entry, name):
        return 1.0 if plans.tables()["sm_90"] == TABLES["sm_90"] else 0.995

    assert without_marks(tuned(seconds)[1]) == TABLES


def test_a_tile_that_misses_a_bar_is_never_timed():
    timed = []

    def seconds(entry, name):
        timed.append(entry.row(plans.tables()["sm_90"]["half"])[name]["BN"])
        return best_is({"BN": 32})(entry, name)

    tuned(seconds, lambda lists: [all(w.constants["BN"] > 32 for w in each) for each in lists])
    assert 32 not in timed


def test_a_tile_that_fails_on_the_device_counts_as_slow():
    def seconds(entry, name):
        if plans.tables()["sm_90"] != TABLES["sm_90"]:
            raise RuntimeError("out of resources: shared memory")
        return 1.0

    assert without_marks(tuned(seconds)[1]) == TABLES


def test_a_broken_gpu_ends_the_search():
    def seconds(entry, name):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        tuned(seconds)


def test_it_stops_when_the_time_is_up_and_goes_on_where_it_stopped():
    """Each timing takes a second of a clock that the test turns."""
    wanted, timed = {"BN": 64, "BK": 32}, []

    def seconds(entry, name):
        timed.append(entry.label)
        return best_is(wanted)(entry, name)

    whole, once = tuned(seconds, left=lambda: 200 - len(timed))
    assert not whole and len(timed) <= 201
    done = once[tune.TUNED]["sm_90"]
    assert done and done[0] == timed[0]
    first, timed[:] = set(done), []
    whole, twice = tuned(seconds, tables=once)
    assert whole and not first & set(timed)
    assert without_marks(twice) == without_marks(tuned(best_is(wanted))[1])


def test_the_training_rows_come_first():
    order = [entry.tokens for entry in tune.entries(TABLES["sm_90"]["half"], LAYER)]
    assert order == sorted(order, reverse=True)
    assert order.count(tune.TRAINING_TOKENS) == 3


def test_every_row_is_timed_at_tokens_that_lead_to_it():
    for entry in tune.entries(TABLES["sm_90"]["half"], LAYER):
        for name in entry.names:
            tile = entry.row(TABLES["sm_90"]["half"])[name]
            for launch in tune.launches(entry, name, "sm_90", LAYER):
                assert (launch.warps, launch.stages) == (tile["warps"], tile["stages"]), entry


def test_variants_are_few_and_the_nearest_come_first():
    table = TABLES["sm_90"]["half"]
    for entry in tune.entries(table, LAYER):
        for name in entry.names:
            tile, height = entry.row(table)[name], entry.row(table).get("BM", 0)
            tried = tune.variants(name, tile, height, True)
            distances = [tune._distance(tile, other) for other in tried]
            assert 10 < len(tried) <= tune.MOST_VARIANTS and tile not in tried
            assert distances == sorted(distances) and distances[0] == 1


def test_the_kernels_of_a_tile_are_timed():
    layer = Layer(32, 16, 2, 4)
    seconds = tune.kernel_seconds(layer, "cpu")
    tiles = {"forward": ("up", "down"), "backward": ("act_grad", "input_grad")}
    for part, names in tiles.items():
        for name in names:
            assert seconds(tune.Entry(part, 0, 5, names), name) > 0
    assert seconds(tune.Entry("weight_grad", 0, 5, ("weight_grad",)), "weight_grad") > 0


COMPILED = """
from model.kernels import plans, tune
from model.kernels.check import prepare
from model.kernels.plans import Layer

class Here(prepare.Processes):
    def run(self, work, arguments):
        return [(n, (work(*each), "")) for n, each in enumerate(arguments)]

layer = Layer(2048, 1024, 8, 128)
meet = tune.meeting("sm_90", 90, layer, Here(1))
good = plans.forward_plan("sm_90", layer, 8, True).down
wide = plans.forward_plan("sm_90", layer, 131_072, True).down
bad = wide.__class__(wide.kernel, wide.constants, 4, 3, wide.blocks)
print(meet([[good], [bad]]))
"""


def test_variants_are_compiled_and_held_to_the_bars():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILED]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "[True, False]\n", run.stderr[-2000:]


def run(*arguments):
    return CliRunner().invoke(tune.main, [str(a) for a in arguments])


def test_bad_input_is_one_sentence(tmp_path):
    mine, other = tmp_path / "mine.json", tmp_path / "other.json"
    mine.write_text(plans.TABLES.read_text())
    other.write_text("{}")
    for arguments, word in (
        (["--out", tmp_path / "new.json", "--minutes", "-1"], "--minutes"),
        (["--out", tmp_path], "is a directory"),
        (["--out", mine / "below.json"], "cannot be written"),
        (["--out", mine], "was not written by this command"),
        (["--out", other], "holds no kernel tables"),
        (["--out", tmp_path / "new.json", "--experts", 4], "--top-k 8 is more"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and word in result.output, result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "new.json").exists()


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
    assert result.returncode == 2 and not (ROOT / "never-written.json").exists()
    assert "No CUDA device" in result.stderr
