"""Library page: the pairs of the user's own, each put on all pages by one click."""

import streamlit as st

from emo_viz.server import library, making, pairs
from emo_viz.server.pairs import Pair
from emo_viz.ui.shell import missing, slots
from emo_viz.ui.shell.words import count, escape_markdown

HOW = (
    "A pair of your own comes here by three commands: `python -m model.data build`, "
    "`python -m model.train.pair` and `python -m emo_viz analyse`; the README has them."
)


def show() -> None:
    """What was made by `python -m emo_viz analyse`, a box each."""
    st.header("Your own pairs")
    found = pairs.listed()
    if not found:
        st.markdown(HOW)
    for name, pair in found.items():
        with st.container(border=True):
            if isinstance(pair, Pair):
                _pair(pair)
            else:
                st.error(escape_markdown(pair), icon=":material/error:")
            _delete_popover(name, pair)


def _pair(pair: Pair) -> None:
    st.markdown(f"**{escape_markdown(pair.name)}**: {_what(pair)}")
    st.caption(f"In {escape_markdown(str(pair.folder))}")
    if pair.ids:
        _choose(pair)
    if lacking := pairs.lacking(pair):
        it = "it" if len(lacking) == 1 else "them"
        said = f"Not here: {escape_markdown(', '.join(lacking))}. This makes {it}:"
        st.caption(f":material/visibility_off: {said if pair.ids else 'This makes it:'}")
        missing.mend(pair.command)


def _what(pair: Pair) -> str:
    """Its runs, and over how much of what they are shown."""
    if not pair.ids:
        return "nothing of it is made yet."
    runs = escape_markdown(" and ".join(pair.ids))
    try:
        texts = library.documents(pair.ids)
    except library.Missing as error:
        return f"{runs}. {escape_markdown(error.sentence)}"
    return (
        f"{runs}, with {count(len(texts), 'held-out document')} of "
        f"{count(texts['domain'].nunique(), 'domain')}."
    )


def _choose(pair: Pair) -> None:
    shown = library.comparison().ids == pair.ids
    label = "Compare these two" if len(pair.ids) > 1 else "Show it on all pages"
    if st.button(
        "On all pages now" if shown else label,
        key=f"library_pair_{pair.name}",
        icon=":material/compare_arrows:",
        disabled=shown,
        help="Puts them into the slots A and B of the side bar.",
    ):
        slots.put(*(*pair.ids, slots.NONE)[:2])
        st.rerun()


def _delete_popover(name: str, pair: Pair | str) -> None:
    with st.popover("Delete", icon=":material/delete:", key=f"library_pair_delete_{name}"):
        inside = isinstance(pair, Pair) and pairs.is_inside(pair)
        st.markdown(
            "This deletes its checkpoints, recordings and all that was measured of it, in "
            f"{escape_markdown(str(pair.folder))}. Corpus and training runs stay."
            if inside and isinstance(pair, Pair)
            else "This takes it out of the list; its folder stays as it is."
        )
        if st.button(
            "Delete it for good" if inside else "Take it out of the list",
            key=f"library_pair_gone_{name}",
            icon=":material/delete_forever:",
        ):
            _delete(name, pair)


def _delete(name: str, pair: Pair | str) -> None:
    ids = pair.ids if isinstance(pair, Pair) else ()  # before its folder goes
    try:
        making.delete_pair(name)
    except ValueError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
        return
    slots.forget(*ids)
    st.rerun()
