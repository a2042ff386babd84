"""What a training run's lines become: metrics, loads, smoothed curves, alarms."""

import json
import math

import numpy as np
import pytest

from emo_viz.analysis.training import (
    MOST_LOADS,
    LoadLog,
    Metrics,
    MetricsLog,
    Plan,
    above_median,
    read_plan,
    seconds_left,
    skipped,
    smooth,
    thin,
)
from emo_viz.analysis.training_alarms import alarms

LONG = Plan(steps=10**6)


def lines(*rows: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def gathered(content: bytes, piece: int | None = None) -> Metrics:
    log = MetricsLog()
    for start in range(0, len(content), piece or len(content)):
        log.feed(content[start : start + (piece or len(content))])
    return log.metrics()


def run_of(**columns: list[float]) -> Metrics:
    length = len(next(iter(columns.values())))
    rows = [
        {"step": i} | {name: column[i] for name, column in columns.items()} for i in range(length)
    ]
    return gathered(lines(*rows))


def ringing(metrics: Metrics, plan: Plan | None = None, silent: float = 0.0) -> dict[str, str]:
    return {
        alarm.name: alarm.said for alarm in alarms(metrics, plan or LONG, silent) if alarm.rings
    }


@pytest.mark.parametrize("piece", [1, 7, 100, None])
def test_a_file_that_grows_by_pieces_reads_as_the_whole_file(piece):
    content = lines(*({"step": s, "loss": 1 / (s + 1), "lr": 0.5} for s in range(9)))
    content += lines({"step": 9, "heldout_loss": 2.0}) + b'{"step": 10, "lo'
    found = gathered(content, piece)
    assert found.steps.tolist() == list(range(10))
    assert found.values["loss"][:9].tolist() == [1 / (s + 1) for s in range(9)]
    assert math.isnan(found.values["loss"][9]) and found.last("heldout_loss") == 2.0
    assert found.broken == 0  # the last line is not whole yet, not broken


def test_lines_that_are_none_of_ours_are_counted_and_left_out():
    junk = b'not json\n[1, 2]\n{"loss": 1}\n{"step": "3"}\n{"step": true}\n{"step": -1}\n\n'
    found = gathered(
        junk + lines({"step": 1, "loss": 2.0, "note": "text", "flag": True}) + b"\xff\n"
    )
    assert found.steps.tolist() == [1] and list(found.values) == ["loss"]
    assert found.broken == 7


def test_of_a_step_that_stands_there_twice_the_last_counts():
    rows = [{"step": s, "loss": 1.0} for s in (0, 1, 2)] + [
        {"step": s, "loss": 2.0} for s in (1, 2)
    ]
    assert gathered(lines(*rows)).values["loss"].tolist() == [1.0, 2.0, 2.0]


def test_smoothing_is_the_weighted_mean_of_all_that_came_before():
    values = np.random.default_rng(0).random(30)
    weights = [[0.8 ** (p - q) if q <= p else 0.0 for q in range(30)] for p in range(30)]
    expected = [np.average(values, weights=row) for row in weights]
    assert np.allclose(smooth(values, 0.8), expected)
    assert smooth(values, 0) is values


def test_thinning_keeps_the_ends_and_every_spike():
    y = np.random.default_rng(1).random(5000)
    y[[1234, 4321]] = 9.0, -9.0
    x, kept = thin(np.arange(5000), y, 200)
    assert len(x) <= 210 and {0, 1234, 4321, 4999} <= set(x.tolist())
    assert (y[x] == kept).all()


def test_the_median_before_a_value_is_of_the_window_without_it():
    values = np.random.default_rng(2).random(60)
    found = above_median(values, 7)
    assert np.isnan(found[:7]).all()
    assert found[7:].tolist() == [np.median(values[p - 7 : p]) for p in range(7, 60)]


def test_a_quiet_run_rings_no_alarm_and_each_fault_rings_its_own():
    calm = {
        "loss": [3.0] * 100,
        "grad_norm": [0.4] * 100,
        "dead_experts": [0] * 100,
        "load_max_over_mean": [1.8] * 100,
    }
    assert ringing(run_of(**calm)) == {}

    def changed(name: str, place: int, value: float) -> dict[str, str]:
        column = list(calm[name])
        column[place] = value
        return ringing(run_of(**(calm | {name: column})))

    assert "step 70" in changed("loss", 70, 3.6)["Loss spike"]
    assert changed("loss", 70, 3.4) == {}  # below the threshold
    assert "5.0 times" in changed("grad_norm", 80, 2.0)["Gradient norm"]
    assert list(changed("dead_experts", 99, 20)) == ["Dead experts"]
    assert changed("dead_experts", 70, 20) == {}  # it has recovered
    assert list(changed("load_max_over_mean", 99, 60)) == ["Load imbalance"]
    assert "loss at step 99" in changed("loss", 99, math.nan)["Not finite"]


@pytest.mark.parametrize(("lines", "meant"), [(1, 1), (9, 1), (12, 2), (100, 20), (500, 20)])
def test_now_is_the_mean_of_at_most_a_fifth_of_the_run(lines: int, meant: int):
    losses = [float(line) for line in range(lines)]
    run = run_of(loss=losses, dead_experts=[0] * lines)
    assert run.recent_lines("loss") == meant and run.recent("loss") == np.mean(losses[-meant:])
    (limit,) = [alarm.limit for alarm in alarms(run, Plan(), 0) if alarm.name == "Dead experts"]
    assert limit.endswith(f"mean of the last {meant} lines" if meant > 1 else "in the last line")
    assert run.recent("grad_norm") is None and run.recent_lines("grad_norm") == 1


def test_silence_is_an_alarm_only_before_the_last_step_and_by_the_pace_of_the_run():
    metrics = run_of(loss=[1.0] * 20)
    assert list(ringing(metrics, Plan(steps=50), 601)) == ["Stalled"]
    assert ringing(metrics, Plan(steps=50), 599) == {}
    assert ringing(metrics, Plan(steps=20), 10**6) == {}
    slow = run_of(loss=[1.0] * 20, tokens_per_second=[10.0] * 20)
    assert ringing(slow, Plan(50, tokens_per_step=1000), 601) == {}  # a step takes 100 s
    unknown = {alarm.name for alarm in alarms(metrics, Plan(), 10**6) if not alarm.known}
    assert "Stalled" in unknown


def test_skipped_steps_are_read_as_a_count_or_as_marks():
    assert skipped(run_of(skipped_steps=[0, 0, 1, 1, 2])) == 2
    assert skipped(run_of(skipped=[0, 1, 0, 1, 0])) == 2
    assert skipped(run_of(loss=[1.0])) == 0


def test_the_time_left_is_by_the_median_pace():
    metrics = run_of(tokens_per_second=[1.0, 100.0, 100.0, 100.0])
    assert seconds_left(metrics, Plan(steps=10, tokens_per_step=500)) == 6 * 500 / 100
    assert seconds_left(metrics, Plan(steps=10)) is None


def test_the_plan_is_read_from_the_newest_checkpoint_or_the_export(tmp_path):
    assert read_plan(tmp_path) == Plan()
    for step, steps in ((50, 7), (100, 9)):
        (tmp_path / f"step-{step}").mkdir()
        preset = {"steps": steps, "rows": 2, "context": 8, "objective": "emo"}
        (tmp_path / f"step-{step}" / "run.json").write_text(json.dumps({"preset": preset}))
    assert read_plan(tmp_path) == Plan(9, 16, "emo")
    (tmp_path / "training.json").write_text('{"steps": "many", "rows": 3, "context": 4}')
    assert read_plan(tmp_path) == Plan(None, 12, "")


def test_loads_become_shares_and_stay_bounded():
    log = LoadLog()
    count = 5 * MOST_LOADS
    log.feed(lines(*({"step": s, "load": [[s + 1.0, 1.0], [2.0]]} for s in range(count))))
    found = log.loads()
    assert found is not None and len(found.steps) <= 2 * MOST_LOADS
    assert np.allclose(np.nansum(found.shares, axis=2), 1)
    assert np.isnan(found.shares[:, 1, 1]).all()
    # A kept column is the mean of the lines it stands for.
    each = found.steps[1] - found.steps[0]
    first = np.mean([(s + 1) / (s + 2) for s in range(each)])
    assert found.shares[0, 0, 0] == pytest.approx(first, rel=1e-5)


def test_loads_that_are_none_are_left_out():
    log = LoadLog()
    bad = [None, [], [1, 2], [["x"]], [[-1.0, 2.0]], [[]], [[math.inf, 1.0]]]
    log.feed(lines(*({"step": s, "load": load} for s, load in enumerate(bad))))
    assert log.loads() is None
    log.feed(lines({"step": 9, "load": [[1, 3]]}, {"step": 10, "load": [[1, 3], [1, 1]]}))
    found = log.loads()
    assert found is not None and found.steps.tolist() == [9]
    assert found.shares.tolist() == [[[0.25, 0.75]]]
