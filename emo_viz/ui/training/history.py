"""Training page: the checkpoints of a run, with a slider that the browser moves by itself.

A Streamlit component without an iframe: every checkpoint is sent at once. Texts reach the page as
data and are written as text.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from itertools import count as count_from
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from emo_viz.analysis.training_history import History, facts
from emo_viz.figures import training_history as figures
from emo_viz.server import assets, histories, library
from emo_viz.server.pairs import Pair
from emo_viz.ui.parts import export
from emo_viz.ui.parts.player import PLAYER_CSS, PLAYER_JS
from emo_viz.ui.parts.scripts import scripts
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.component import component
from emo_viz.ui.shell.words import count, escape_markdown, isolated, visible

KEY = "training_checkpoints"
HEADLINE_KEEP = 16
MOST = 2
COMMAND = (
    "python -m emo_viz training-history --checkpoints step-50=runs/nano-emo/step-50 "
    "step-100=runs/nano-emo/step-100 --documents assets/documents/documents.parquet "
    "--calibration assets/documents/calibration.parquet --tokenizer data/corpus/tokenizer "
    "--out assets/analysis/training-mine.npz"
)
_FOLDER = Path(__file__).parent
_JS = "".join(
    (_FOLDER / name).read_text(encoding="utf-8") for name in ("history_charts.js", "history.js")
)
_COMPONENT = component(
    "emo_viz_training_history",
    html='<div class="history" role="group" aria-label="Checkpoints of a training run"></div>',
    css=PLAYER_CSS + (_FOLDER / "history.css").read_text(encoding="utf-8"),
    js=PLAYER_JS + scripts("decode", "sized", "point_maps_draw") + _JS,
)


def show() -> None:
    """The view."""
    every = histories.paths()
    found = _read(_chosen(every))
    if not found:
        said = "No checkpoints of a training run have been measured."
        if every:
            said = "None of the measured checkpoints can be read."
        missing.empty_state(f"{said} {_how()}", *_mend())
        return
    _say_others(every)
    shown = [each for each in found.values() if each.key == next(iter(found.values())).key]
    for each in found.values():
        if each not in shown:
            st.info(
                f"{escape_markdown(each.run)} was measured on other documents or notches, so it "
                "does not stand beside the other run.",
                icon=":material/visibility_off:",
            )
    _about(shown)
    _COMPONENT(key=KEY, data=_data(tuple(map(histories.key, found)), shown))
    _source(shown)


def _how() -> str:
    """How a history comes about, for the runs in the slots."""
    kept = (
        "A run keeps its newest checkpoints, a small pair four more; `--keep-at 50,100,400` keeps"
    )
    if _pair() is None:
        return f"{kept} those too. This measures them:"
    return f"{kept} those too, and this measures them with the rest:"


def _mend() -> tuple[str, str]:
    """The command, and the headline."""
    pair = _pair()
    return pair.command if pair else COMMAND, "No history of a training run"


def _pair() -> Pair | None:
    """The pair of the user's own that the slots hold."""
    with suppress(library.Missing):
        return assets.pair_of(library.comparison().first.id)
    return None


def _say_others(every: Sequence[Path]) -> None:
    """That the histories which are shown are not of the runs in the slots, if these have none."""
    pair = _pair()
    if pair is None or _of_slots(every):
        return
    st.info(
        f"There is no training history of {escape_markdown(' and '.join(pair.ids))}, so others are "
        "shown. "
        f"{_how()} {missing.in_words(pair.command)}",
        icon=":material/visibility_off:",
    )


def _chosen(paths: Sequence[Path]) -> list[Path]:
    """All of them, or which two of many."""
    if len(paths) <= MOST:
        return list(paths)
    names, own = _named(paths), _of_slots(paths)
    chosen = links.several(
        st,
        "history",
        "Histories",
        list(names),
        MOST,
        routes.TRAINING_HISTORY,
        placeholder="Those of the runs in the slots" if own else "The first two",
    )
    return [names[name] for name in chosen] or own or list(paths[:MOST])


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """The files by what they are called, each by a name of its own."""
    names = dict[str, Path]()
    for path in paths:
        name = path.stem.removeprefix("training-")
        numbered = (f"{name} (your own, {n})" for n in count_from(2))
        options = chain((name, f"{name} (your own)"), numbered)
        names[next(each for each in options if each not in names)] = path
    return names


def _of_slots(paths: Sequence[Path]) -> list[Path]:
    """Those of the runs in the slots, in their order."""
    with suppress(library.Missing):
        ids = library.comparison().ids
        own = (assets.analysis_path(f"training-{run}.npz", run) for run in ids)
        return [path for path in own if path in paths]
    return []


def _read(paths: Sequence[Path]) -> dict[Path, History]:
    found = {}
    for path in paths:
        try:
            found[path] = histories.read(path)
        except ValueError as error:
            st.warning(escape_markdown(str(error)), icon=":material/heart_broken:")
    return found


@st.cache_resource(max_entries=4, show_spinner="Laying out the checkpoints")
def _data(keys: tuple[str, ...], _shown: list[History]) -> dict[str, Any]:
    """All that the browser needs; cached by the files that it is of."""
    looks = [figures.Look(_told(each.run), slot) for slot, each in enumerate(_shown)]
    found = figures.picture(_shown, looks)
    found["documents"] = [[_told(text) for text in each] for each in found["documents"]]
    found["notch"] = notch(found["keeps"])
    return found | {"key": hashlib.sha256(repr((keys, len(_shown))).encode()).hexdigest()}


def notch(keeps: Sequence[int]) -> int:
    """The place of the number of experts that the first line speaks of."""
    places = range(max(1, len(keeps) - 1))
    return min(places, key=lambda place: abs(keeps[place] - HEADLINE_KEEP))


def _told(text: str) -> str:
    return isolated(visible(text))


def _about(shown: Sequence[History]) -> None:
    """Which runs these are: not those that the other pages show."""
    about = sorted({each.about for each in shown if each.about})
    runs = " and ".join(escape_markdown(each.run) for each in shown)
    said = f"{runs}: {escape_markdown('; '.join(about))}" if about else runs
    last = max(moment.step for each in shown for moment in each.moments)
    checkpoints = count(max(len(each.moments) for each in shown), "checkpoint")
    st.caption(f"{said}; {checkpoints}, the last at step {last:,}.")


def _source(shown: Sequence[History]) -> None:
    first = shown[0]
    documents = first.documents
    said = (
        f"{count(len(documents.ids), 'held-out document')} of "
        f"{count(len(set(documents.domains)), 'domain')}, {count(sum(documents.tokens), 'token')}; "
        f"experts chosen by router probability on {count(first.calibration, 'other document')} of "
        "the same domains; bands are 95 % intervals over documents. The maps are one PCA of each "
        "run's documents at all its checkpoints together (square roots of the mean router "
        "probabilities): two runs' axes mean different things. Modal: the cluster, of 32 clusters "
        "of tokens, that most tokens of a document are in."
    )
    row = st.container(horizontal=True, vertical_alignment="top", gap="medium")
    row.caption(said, width="stretch")
    export.offer(
        "training checkpoints",
        list(map(_last, shown)),
        charts={"Maps and curves": KEY},
        tables={"By checkpoint": lambda: table(shown)},
        shown=f"{len(documents.ids)} documents, measured as {first.key[:12]}",
        place=row,
    )


def _last(history: History) -> str:
    """Of which run a history is, down to the weights of its last checkpoint."""
    last = history.moments[-1]
    return f"{history.run} (to step {last.step:,}, weights {last.weights[:12]})"


def table(shown: Sequence[History]) -> pd.DataFrame:
    """A row for each checkpoint of each run."""
    frames = [pd.DataFrame({"run": each.run} | facts(each)) for each in shown]
    return pd.concat(frames, ignore_index=True)
