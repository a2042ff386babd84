"""Library page: which runs are here and what is known of them; a run is deleted here.

The runs in the slots are recorded and measured further down (`make`), others are added (`add`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from emo_viz.server import assets, catalogue, home, making
from emo_viz.server.catalogue import Entry
from emo_viz.ui.library import add, make, own
from emo_viz.ui.parts import export
from emo_viz.ui.shell import slots
from emo_viz.ui.shell.words import compact, count, escape_markdown, stored

TO_DELETE = "library_delete"
NOTHING = "nothing but its place in the list"
# As the page calls them, and as they are called where they are whole numbers.
SIZES = {
    "Parameters": "Parameters",
    "Active a token": "Active parameters a token",
    "Memory": "Memory (bytes)",
}
NO_RUNS = (
    "There is no run here yet. Add a checkpoint folder, a model of the Hugging Face hub or a "
    "routing file that a server wrote; then record what it does on documents."
)


def show() -> None:
    """Draw the page."""
    found = catalogue.entries()
    st.markdown(_answer(found))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        add.popover()
        _delete_popover([entry for entry in found if home.find(entry.id) or entry.run is None])
    add.watch()
    if found:
        st.dataframe(
            table(found),
            hide_index=True,
            placeholder="\u2013",
            column_config=_columns(),
            alt="Every run with its model and what is recorded and measured of it",
        )
        export.offer("library", tables={"Runs": lambda: in_numbers(found)})
    for entry in found:
        for fault in entry.faults:
            st.error(escape_markdown(fault), icon=":material/error:")
    _notes(found)
    own.show()
    make.show()
    _places(found)


def _answer(found: Sequence[Entry]) -> str:
    """The first line: how many runs there are, and of how many something is known."""
    if not found:
        return NO_RUNS
    kinds = Counter(entry.kind for entry in found)
    by_kind = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    recorded = [entry.recording for entry in found if entry.recording]
    tokens = sum(each.tokens for each in recorded)
    broken = sum(1 for entry in found if entry.faults)
    fault = f"; {count(broken, 'run')} cannot be used as a whole" if broken else ""
    return (
        f"**{count(len(found), 'run')}** {'is' if len(found) == 1 else 'are'} here ({by_kind}); "
        f"**{len(recorded)}** "
        f"{'is' if len(recorded) == 1 else 'are'} recorded, over {count(tokens, 'token')}{fault}."
    )


def _columns() -> dict[str, Any]:
    return {
        "Documents": st.column_config.NumberColumn(format="localized"),
        "Tokens recorded": st.column_config.NumberColumn(format="localized"),
        "Memory": st.column_config.TextColumn(help="Of the weights as they are stored."),
        "Active a token": st.column_config.TextColumn(help="Parameters that one token uses."),
    }


def table(found: Sequence[Entry]) -> pd.DataFrame:
    """A row for each run; what is not known is empty."""
    return pd.DataFrame([_row(entry) for entry in found])


def in_numbers(found: Sequence[Entry]) -> pd.DataFrame:
    """The same to take home: sizes as whole numbers."""
    rows = []
    for entry in found:
        row, model = _row(entry), entry.model
        row["Experts a layer"] = export.number(str(row["Experts a layer"] or ""))
        if model is not None:
            sizes = (model.parameters, model.active, model.bytes)
            row |= zip(SIZES, sizes, strict=True)
        rows.append(row)
    return pd.DataFrame(rows).rename(columns=SIZES).convert_dtypes()


def _row(entry: Entry) -> dict[str, object]:
    model, recording = entry.model, entry.recording
    known = model or recording
    return {
        "Run": entry.run.label if entry.run else entry.id,
        "Kind": entry.kind,
        "Family": entry.family or None,
        "Layers": known.layers if known else None,
        "Experts a layer": (known.experts or None) if known else None,
        "Top-k": known.top_k if known else None,
        "Parameters": compact(model.parameters) if model else None,
        "Active a token": compact(model.active) if model and model.active else None,
        "Memory": stored(model.bytes) if model else None,
        "Documents": recording.documents if recording else None,
        "Tokens recorded": recording.tokens if recording else None,
        "Measured": ", ".join(entry.measured) or None,
    }


def _notes(found: Sequence[Entry]) -> None:
    """What an import has met in its file."""
    for entry in found:
        if entry.recording and entry.recording.notes:
            notes = " ".join(map(escape_markdown, entry.recording.notes))
            st.caption(f"**{escape_markdown(entry.id)}**: {notes}")


def _places(found: Sequence[Entry]) -> None:
    with st.expander("Where they lie"):
        try:
            st.caption(
                "What is added, recorded and measured is kept in "
                f"{escape_markdown(str(home.folder()))} ({home.VARIABLE} names another folder). "
                "Bundled runs and your own pairs are only read, checkpoints where they lie."
            )
        except ValueError as error:
            st.warning(escape_markdown(str(error)), icon=":material/folder_off:")
        for entry in found:
            place = entry.source or "imported from a file"
            st.caption(f"**{escape_markdown(entry.id)}**: {escape_markdown(place)}")


def _delete_popover(added: Sequence[Entry]) -> None:
    """Choose an added run and say twice that it is to go; its checkpoint stays where it is."""
    with st.popover("Delete a run", icon=":material/delete:", disabled=not added):
        ids = [entry.id for entry in added]
        chosen: str | None = st.selectbox("Run", ids, index=None, key=TO_DELETE)
        if chosen is None:
            st.caption("Only what was added can be deleted here; your own pairs are further down.")
            return
        entry = next(each for each in added if each.id == chosen)
        st.markdown(_what_goes(entry))
        if st.button("Delete it for good", icon=":material/delete_forever:"):
            _delete(chosen)


def _what_goes(entry: Entry) -> str:
    added = home.find(entry.id)
    if added is None:  # it cannot be read
        return f"This deletes {_files(entry.id)}. The checkpoint stays where it is."
    stays = f"checkpoint stays at {escape_markdown(added.checkpoint)}"
    stays = stays if added.checkpoint else "file that it was imported from stays"
    if not assets.is_added(entry.id):
        return (
            f"The run of this name that is shown is another one, and stays. Of the one that was "
            f"added, this deletes {_files(entry.id)}. The {stays}."
        )
    parts = [f"its recording ({count(entry.recording.tokens, 'token')})"] if entry.recording else []
    goes = ", ".join((*parts, *entry.measured)) or NOTHING
    return f"This deletes {goes}. The {stays}."


def _files(run: str) -> str:
    """What lies in the user's folder of a run, of which nothing else is known."""
    found = [str(path.relative_to(home.folder())) for path in home.files_of(run)]
    return escape_markdown(", ".join(found)) or NOTHING


def _delete(run: str) -> None:
    try:
        making.delete(run)
    except ValueError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
        return
    slots.forget(run)
    del st.session_state[TO_DELETE]
    st.rerun()
