"""The two slots: which runs all pages show, A and beside it B, in the side bar and the address.

They belong to one visitor, and stay as they are from page to page. Whatever a link asks for in
vain, or was deleted meanwhile, is said in one sentence, and the default is shown.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from emo_viz.analysis.runs import Run
from emo_viz.server import assets, library
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.address import one_of
from emo_viz.ui.shell.words import escape_markdown

A, B, NONE = routes.SLOT_A, routes.SLOT_B, routes.NO_RUN
_TWICE = "The link asks for the run {{asked}} in both slots; beside it, {} is shown."
_WANTED, _PARAMS = "slots_wanted", "slots_params"


def choose(place: Any) -> None:
    """Draw both into `place`, and have this visitor's pages show what they hold."""
    runs = {run.id: run for run in assets.runs()}
    if not runs:
        return  # whatever needs a run says that there is none
    st.session_state.update(st.session_state.pop(_WANTED, {}))
    usual = library.default().ids
    a = _select(place, "Run A", A, list(runs), usual[0], runs)
    others = [run for run in runs if run != a]
    beside = next((run for run in reversed(usual) if run != a), NONE) if usual[1:] else NONE
    b = _select(place, "Run B, beside it", B, [NONE, *others], beside, runs)
    library.choose([runs[run] for run in (a, b) if run != NONE])
    held, usually = {A: a, B: b}, {A: usual[0], B: beside}
    st.session_state[_PARAMS] = {slot: held[slot] for slot in held if held[slot] != usually[slot]}


def put(a: str | None = None, b: str | None = None) -> None:
    """Have a slot hold another run from the next run of the script on: call `st.rerun`."""
    wanted = {A: a, B: b}
    st.session_state[_WANTED] = {slot: run for slot, run in wanted.items() if run is not None}


def forget(*runs: str) -> None:
    """Empty the slots that hold runs which this visitor has deleted, without a word. One stays
    where another of its id is here."""
    there = {run.id for run in assets.runs()}
    usual = library.default().ids[0] if there else NONE
    instead, gone = {A: usual, B: NONE}, {*runs} - there
    held = [slot for slot in (A, B) if st.session_state.get(slot) in gone]
    st.session_state[_WANTED] = {slot: instead[slot] for slot in held}


def params() -> dict[str, str]:
    """The slots as a link to another page carries them; none where they are the default."""
    found: dict[str, str] = st.session_state.get(_PARAMS, {})
    return found


def _select(
    place: Any, label: str, key: str, options: Sequence[str], usual: str, runs: dict[str, Run]
) -> str:
    def name(run: str) -> str:
        return runs[run].label if run in runs else "None"

    kind = one_of("run", options, instead=f"{escape_markdown(name(usual))} is shown")
    # A link without it leaves the run as it is; a step back to before it was chosen does not.
    kind = replace(kind, lasting=not links.went_back())
    if key == B and st.query_params.get(B) in runs.keys() - options:
        kind = replace(kind, sentence=_TWICE.format(escape_markdown(name(usual))))
    _say_gone(key, runs, name(usual))
    links.enter(key, kind, usual)
    chosen: str = place.selectbox(label, options, format_func=name, key=key)
    return links.leave(key, kind, chosen, usual)


def _say_gone(key: str, runs: dict[str, Run], usual: str) -> None:
    """That the run which this visitor was looking at has been deleted meanwhile."""
    held = st.session_state.get(key, st.session_state.get(f"{key}_kept"))
    if isinstance(held, str) and held != NONE and held not in runs:
        links.warn(
            f"The run {escape_markdown(held)} is no longer here; {escape_markdown(usual)} is shown "
            "instead, and the Library page lists what there is."
        )
