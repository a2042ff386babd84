"""Measuring curves, whoever asks: every cut counted, stopped at a step, gone on from its parts."""

from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from emo_viz.analysis.checkpoints import open_runs
from emo_viz.analysis.curves import METHODS, OTHER_DOMAIN, read_curves
from emo_viz.runs.curves import Loaded, Plan, Workers, measure, plan_files
from emo_viz.runs.curves import plan as make_plan
from model.run.live import open_live


class Stopped(Exception):
    pass


@pytest.fixture
def plan(tiny_assets: Path, tmp_path: Path) -> Plan:
    models = tuple(tiny_assets / "checkpoints" / name for name in ("emo-nano", "std-nano"))
    documents = tiny_assets / "documents"
    tables = documents / "documents.parquet", documents / "calibration.parquet"
    return plan_files(models, *tables, tmp_path / "c.parquet", [4], ["random"], 2)


def test_a_report_that_raises_stops_and_finished_parts_stay(plan: Plan):
    cuts = len(plan.jobs[0].task.cuts)
    seen = []

    def stop_in_the_third_part(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2 * cuts + 1:
            raise Stopped

    with pytest.raises(Stopped):
        measure(plan, Workers(1), stop_in_the_third_part)
    total = cuts * len(plan.jobs)
    assert seen == [(done, total) for done in range(2 * cuts + 2)]
    assert len(plan.missing()) == len(plan.jobs) - 2
    assert not plan.out.exists()
    goes_on(plan, cuts, total)


def goes_on(plan: Plan, cuts: int, total: int) -> None:
    """Another way of measuring goes on from the same parts, and counts them at once."""
    models = {job.checkpoint.run: job.checkpoint.folder for job in plan.jobs}
    loaded = Loaded({run: (open_live(path), nullcontext) for run, path in models.items()})
    seen = []
    curves = measure(plan, loaded, lambda done, total: seen.append((done, total)))
    assert seen[:2] == [(0, total), (2 * cuts, total)]
    assert seen[-1] == (total, total)
    assert len(read_curves(plan.out).rows) == len(curves.rows)
    assert not plan.out.with_suffix(".parts").exists()


def test_any_number_of_workers_gives_the_same_curves(plan: Plan):
    files = (plan.out, plan.out.with_suffix(".json"))
    made, seen = [], []
    for workers in (1, 2):
        seen.append([])
        measure(plan, Workers(workers), lambda *done: seen[-1].append(done))
        made.append([file.read_bytes() for file in files])
        plan.out.unlink()
    assert made[0] == made[1]
    assert seen[1][0] == seen[0][0] and seen[1][-1] == seen[0][-1]


def test_documents_of_one_domain_have_no_other_domain_s_experts(plan: Plan, tiny_assets: Path):
    checkpoints = [plan.jobs[0].checkpoint, plan.jobs[-1].checkpoint]
    opened = open_runs([each.folder for each in checkpoints])
    folder = tiny_assets / "documents"
    documents, calibration = (
        pd.read_parquet(folder / name).query("domain == 'garden'")
        for name in ("documents.parquet", "calibration.parquet")
    )
    found = make_plan(opened, documents, calibration, plan.out)
    assert {job.task.held_out.domain for job in found.jobs} == {"garden"}
    assert set(found.about["settings"]["methods"]) == set(METHODS) - {OTHER_DOMAIN}
