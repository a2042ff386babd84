"""Training page: the runs that are shown, chosen by the visitor, and how each looks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import streamlit as st

from emo_viz.analysis.runs import label_of
from emo_viz.analysis.training_alarms import is_finished, stall_minutes
from emo_viz.figures.training import RunLook, looks
from emo_viz.server import library, training
from emo_viz.server.training import MOST_FOLDERS, Reading, TrainingRun, silent_seconds
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.address import checked, several_of
from emo_viz.ui.shell.words import escape_markdown

MOST = 6  # runs beside each other
LONGEST_PATH = 1000
WATCHED_SECONDS = 3600.0  # a run that has been silent for longer is not looked at again and again
HOW = (
    "No checkpoint of the Library has the metrics of its training, and there is no training run in "
    "runs/ of where the app was started. This trains one, and its curves appear here as it goes; "
    "with `--keep-at 50,100,400` checkpoints stay whose history "
    "`python -m emo_viz training-history` measures. Or name another folder that holds a "
    "metrics.jsonl."
)
TRAIN = "python -m model.train --preset nano --objective emo"


@dataclass(frozen=True)
class Chosen:
    """Some runs, in order, and the look of each."""

    runs: tuple[TrainingRun, ...]
    looks: tuple[RunLook, ...]


def choose() -> Chosen | None:
    """The row of controls that says which runs are shown; None, with a sentence, for none."""
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    picked = row.container(width="stretch")
    given = _folder(row)
    found = _found(given)
    if not found:
        missing.empty_state(HOW, TRAIN, "No training run yet")
        return None
    by_id = {one.id: one for one in found}
    usual = _usual(found)
    # What is usual changes while runs go on; a link shows the same all the same.
    going = any(not by_id[each].run for each in usual)
    kind = replace(several_of("training run", list(by_id), MOST), always=going)
    links.enter(routes.TRAINING_RUNS, kind, usual)
    chosen = picked.multiselect(
        "Runs",
        list(by_id),
        format_func=lambda each: by_id[each].label,
        max_selections=MOST,
        key=routes.TRAINING_RUNS,
        placeholder=f"None chosen: {' and '.join(by_id[each].label for each in usual)}",
    )
    # An address without runs opens the usual ones, so they are shown where none is chosen.
    ids = links.leave(routes.TRAINING_RUNS, kind, list(chosen), usual) or usual
    if list(ids) == usual and not going:
        _say_others(found)
    runs = tuple(by_id[each] for each in ids)
    return Chosen(runs, tuple(looks([one.label for one in runs], _slots(runs))))


def _folder(place: st.delta_generator.DeltaGenerator) -> str:
    kind = checked("The link names the folder {asked}, which is no path; it is left out.", _path)
    with place.popover("Another folder", icon=":material/folder_open:"):
        links.enter(routes.TRAINING_FOLDER, kind, "")
        typed: str = st.text_input(
            "Path on this machine",
            key=routes.TRAINING_FOLDER,
            placeholder="a run's folder, or one that holds several",
            max_chars=LONGEST_PATH,
        )
        st.caption(
            "Runs are folders with a metrics.jsonl: those of the library, of runs/ where the app "
            "was started, of training/ in the user's folder, and of this one: in itself or up to "
            f"two folders below, of which {MOST_FOLDERS:,} are looked at."
        )
    return links.leave(routes.TRAINING_FOLDER, kind, typed, "")


def _path(text: str) -> str:
    if not text.strip() or len(text) > LONGEST_PATH or "\0" in text:
        raise ValueError
    return text


def _found(given: str) -> list[TrainingRun]:
    try:
        return training.runs(given)
    except ValueError as error:
        st.warning(escape_markdown(str(error)), icon=":material/folder_off:")
        return training.runs()


def _usual(found: Sequence[TrainingRun]) -> list[str]:
    """What is shown at first: runs in progress, else the pair in the slots, else the first ones."""
    # Only what was written lately is read: there may be hundreds of runs that have ended.
    lately = (one for one in found if not one.run and silent_seconds(one) < WATCHED_SECONDS)
    going = list(islice((one.id for one in lately if in_progress(training.read(one))), MOST))
    if going:
        return going
    own = [one.id for run in _compared() for one in found if one.run == run]
    return own or [one.id for one in found[:2]]


def _compared() -> dict[str, int]:
    """The runs in the slots: their place by id."""
    try:
        return {run.id: run.slot for run in library.comparison()}
    except library.Missing:
        return {}


def _say_others(found: Sequence[TrainingRun]) -> None:
    """Which runs in the slots left nothing of their training here, where the usual ones are
    shown."""
    there, slots = {one.run for one in found}, list(_compared())
    lacking = [label_of(run) for run in slots if run not in there]
    if not lacking:
        return
    labels = escape_markdown(" and ".join(lacking))
    have = "have" if len(lacking) > 1 else "has"
    others = ", so others are shown" if len(lacking) == len(slots) else ""
    st.caption(f":material/visibility_off: {labels} {have} no metrics of a training here{others}.")


def _slots(runs: Sequence[TrainingRun]) -> list[int | None]:
    slots = _compared()
    return [slots.get(one.run) for one in runs]


def in_progress(reading: Reading) -> bool:
    """Whether a run is being trained now, as far as its file tells."""
    if reading.metrics is None or is_finished(reading.metrics, reading.plan):
        return False
    return reading.silent_seconds < 60 * stall_minutes(reading.metrics, reading.plan)


def is_watched(reading: Reading) -> bool:
    """Whether more may come of a run, so that it is looked at again by itself."""
    finished = reading.metrics is not None and is_finished(reading.metrics, reading.plan)
    return not finished and reading.silent_seconds < WATCHED_SECONDS
