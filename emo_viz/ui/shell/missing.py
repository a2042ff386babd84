"""How it looks when something is not here: a sentence, and the command that makes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import streamlit as st
from streamlit.runtime.scriptrunner import StopException

from emo_viz.server.library import Missing
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import escape_markdown


def empty_state(
    sentence: str,
    command: str,
    headline: str = "Nothing to show yet",
    of_runs: bool = True,
) -> None:
    """Say what is missing and how to make it, in place of what the page would show.

    sentence: Markdown. command: "" for what the Library page makes. of_runs: whether another run
    would show something, so that the way to the Library is one out too.
    """
    with st.container(border=True):
        st.markdown(f":material/inventory_2: **{headline}**")
        st.write(sentence)
        mend(command)
        if command and of_runs:
            st.page_link(routes.LIBRARY, label="Or add another run", icon=":material/inventory_2:")


def mend(command: str) -> None:
    """The command that makes what is missing; "" is the way to the page that makes it."""
    if command:
        # No language: the colours that Streamlit gives its words are too faint to read.
        st.code(command, language=None, wrap_lines=True)
    else:
        st.page_link(routes.LIBRARY, label="Record and measure it", icon=":material/inventory_2:")


def in_words(command: str) -> str:
    """`mend` inside a sentence, as Markdown."""
    if not command:
        return "the Library page, under Record and measure"
    return f"`{' && '.join(command.splitlines())}`"


def end() -> NoReturn:
    """End the page here: it has no more to show.

    After `st.stop()` nothing reaches the browser, not even what a link asked for in vain.
    """
    raise StopException


@contextmanager
def said() -> Iterator[None]:
    """Around what asks the library: what it misses is drawn here, and ends the page."""
    try:
        yield
    except Missing as error:
        empty_state(escape_markdown(error.sentence), error.command)
        end()
