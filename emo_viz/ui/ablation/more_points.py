"""Subset ablation page: measuring the curves again, or one domain's at more keep-ks."""

import streamlit as st

from emo_viz.analysis import ablation
from emo_viz.analysis.curves import RANDOM
from emo_viz.server import measurements
from emo_viz.server.library import LoadedModel
from emo_viz.server.measurements import documents_key
from emo_viz.ui.ablation import live, page
from emo_viz.ui.ablation.page import Choice, Study
from emo_viz.ui.parts import measuring, progress

FINE_KEEP = (8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 112)


def offer(study: Study, choice: Choice) -> None:
    """Measure the curve again, or one domain at more keep-ks, on request."""
    if study.curves is None:
        measuring.all_curves(study.models, "Measure all curves")
        return
    if choice.domain is None or choice.method in page.BY_WORTH:
        measuring.all_curves(study.models, "Measure all domains again")
        return
    if choice.only_new:  # they would be of all documents
        return
    job = page.fine_job(study, choice)
    if job is not None and job.running:
        progress.watch(job, "Measuring more points")
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        done = job is not None and job.result is not None
        if st.button(
            "Measure more points",
            icon=":material/add_chart:",
            disabled=done,
            help=_help(study, done),
        ):
            _start(study, choice.domain, choice.method)
            st.rerun()
        if not done:
            measuring.how_long(study.models, _passes(study, choice.domain, choice.method))
        if job is not None and job.cancelled:
            st.caption("The measurement was stopped; the curve shows the stored points.")
        progress.failure(job, "The measurement")


def _help(study: Study, done: bool) -> str:
    if done:
        return "This curve has been measured at all these points."
    return (
        f"Every model on every held-out document of the domain, at keep-k "
        f"{', '.join(map(str, fine_keep(study, study.runs.first.id)))}. Runs in the "
        "background; you can go on."
    )


def _passes(study: Study, domain: str, method: str) -> dict[str, int]:
    """How often each run reads a document of the domain."""
    documents = int((study.documents["domain"] == domain).sum())
    draws = ablation.RANDOM_SEEDS + (method != RANDOM)
    return {
        one.run: documents * (1 + draws * len(fine_keep(study, one.run))) for one in study.models
    }


def fine_keep(study: Study, run: str) -> list[int]:
    """The keep-ks of more points that a run can have, each once."""
    least, most = int(study.config(run).num_experts_per_tok), max(study.experts[run])
    asked = [study.keep_of(run, k) for k in FINE_KEEP if k <= study.num_experts]
    return sorted({k for k in asked if least <= k < most})


def _task(study: Study, loaded: LoadedModel, domain: str, method: str) -> ablation.Task:
    calibration = live.calibration(loaded, loaded.key, documents_key())
    rows = study.documents[study.documents["domain"] == domain]
    held_out = ablation.tokenise(rows, live.encode(loaded))[domain]
    keep, methods = fine_keep(study, loaded.run), list(dict.fromkeys([method, RANDOM]))
    cuts = ablation.plan_cuts(loaded.live.geometry, keep, methods, ablation.RANDOM_SEEDS)
    other = study.other(domain)
    return ablation.Task(calibration[domain], held_out, calibration[other] if other else None, cuts)


def _start(study: Study, domain: str, method: str) -> None:
    """In the background; one model after the other."""
    measurements.start_points(
        study.models,
        domain,
        method,
        lambda: {one.run: _task(study, one, domain, method) for one in study.models},
    )
