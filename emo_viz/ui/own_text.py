"""A text of the visitor's own: typed, pasted, opened from a file or found in the address."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from emo_viz.ui import links
from emo_viz.ui.text import count

# A percent-encoded text of this length stays well inside what servers accept as one address.
MAX_LINK_CHARACTERS = 1500
MAX_FILE_MEGABYTES = 1


@dataclass(frozen=True)
class OwnText:
    """The field of one page: `page` begins the names of its widgets and its address parameter.

    on_change: called when another text stands in the field.
    """

    page: str
    on_change: Callable[[], None]

    @property
    def param(self) -> str:
        return f"{self.page}_text"

    @property
    def _draft(self) -> str:
        return f"{self.page}_draft"

    @property
    def _file(self) -> str:
        return f"{self.page}_file"

    @property
    def _not_text(self) -> str:
        return f"{self.page}_file_is_no_text"

    def file_picker(self, place: Any) -> None:
        """A text file instead of typing, in `place`: it fills the field."""
        with place.popover("Open a file", icon=":material/upload_file:"):
            st.file_uploader(
                "A text file in UTF-8",
                max_upload_size=MAX_FILE_MEGABYTES,
                key=self._file,
                on_change=self._take_file,
            )
        if st.session_state.pop(self._not_text, False):
            st.warning(
                "That file is not text in UTF-8, so it was not opened; save it as UTF-8 first."
            )

    def ask(self, shows: str, place: Any = st, height: int = 140) -> str | None:
        """The text; None, and a hint with what the page `shows` of a text, while it is blank.

        place: where the field stands; height: its pixels.
        """
        links.follow(self.param, self._draft)
        text: str = place.text_area(
            "Text for both models",
            key=self._draft,
            height=height,
            placeholder="Type or paste a text, then press Ctrl+Enter.",
            persist_state="page",
            on_change=self.on_change,
        )
        if not text.strip():
            _hint("This text is blank" if text else "No text yet", shows)
            return None
        if self.in_address(text) is None:
            st.caption(
                f":material/link_off: A link cannot carry a text of "
                f"{count(len(text), 'character')}; up to {MAX_LINK_CHARACTERS:,} it can."
            )
        return text

    def in_address(self, text: str | None) -> str | None:
        """What of a text goes into the address: all or nothing."""
        return text if text and len(text) <= MAX_LINK_CHARACTERS else None

    def _take_file(self) -> None:
        file = st.session_state[self._file]
        if file is None:
            return
        try:
            st.session_state[self._draft] = file.getvalue().decode("utf-8-sig")
        except UnicodeDecodeError:
            st.session_state[self._not_text] = True
        else:
            self.on_change()


def _hint(blank: str, shows: str) -> None:
    with st.container(border=True):
        st.markdown(f":material/edit_note: **{blank}**")
        st.write(
            f"Both models will read what you type or open above, and this page shows {shows}. It "
            f"stays on this machine; a text of up to {MAX_LINK_CHARACTERS:,} characters also "
            "stands in the page's address."
        )
