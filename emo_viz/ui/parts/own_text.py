"""A text of the visitor's own: typed, pasted, opened from a file or found in the address."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from emo_viz.ui.parts import text_files, text_links
from emo_viz.ui.parts.examples import EXAMPLES
from emo_viz.ui.parts.token_text import looks_like_code
from emo_viz.ui.shell import links
from emo_viz.ui.shell.address import Kind
from emo_viz.ui.shell.words import count

# Far more than a model reads: what is kept is sent to the server with every click.
MOST_CHARACTERS = 100_000
MAX_FILE_MEGABYTES = text_files.LARGEST // 10**6
MONOSPACE = "<style>.st-key-{key} textarea {{ font-family: monospace; }}</style>"


@dataclass(frozen=True)
class OwnText:
    """The field of one page: `page` begins the names of its widgets.

    param: where the address keeps it. on_change: called when another text stands in the field.
    """

    page: str
    param: str
    on_change: Callable[[], None]

    @property
    def draft(self) -> str:
        """Key of the field."""
        return f"{self.page}_draft"

    @property
    def _file(self) -> str:
        return f"{self.page}_file"

    @property
    def _said(self) -> str:
        return f"{self.page}_said_of_the_text"

    def file_picker(self, place: Any) -> None:
        """A text file instead of typing, in `place`: it fills the field."""
        with place.popover("Open a file", icon=":material/upload_file:"):
            st.file_uploader(
                # The uploader marks a larger one, without a word.
                f"A text file of up to {MAX_FILE_MEGABYTES} MB (UTF-8, UTF-16 or Latin-1)",
                max_upload_size=MAX_FILE_MEGABYTES,
                key=self._file,
                on_change=self._take_file,
            )

    def examples(self, place: Any) -> None:
        """Texts to begin with, as buttons in `place`."""
        for name, text in EXAMPLES.items():
            place.button(
                name,
                key=f"{self.page}_example_{name.lower().replace(' ', '_')}",
                on_click=self._take,
                args=(text,),
            )

    def ask(self, shows: str, place: Any = st, height: int = 140) -> str | None:
        """The text; None, and a hint with what the page `shows` of a text, while it is blank.

        place: where the field stands; height: its pixels.
        """
        kind = _kind()
        links.enter(self.draft, kind, "", self.param)
        text: str = place.text_area(
            "Text for the models",
            key=self.draft,
            height=height,
            placeholder="Type or paste a text, then press Run or Ctrl+Enter.",
            on_change=self._changed,
        )
        # Leaving the field sends the text; the button is where one goes to.
        place.button("Run", icon=":material/play_arrow:", key=f"{self.page}_run")
        if looks_like_code(text):
            st.html(MONOSPACE.format(key=self.draft))
        links.leave(self.draft, kind, text, "", self.param)
        for sentence in st.session_state.pop(self._said, []):
            st.warning(sentence)
        if not text.strip():
            _hint("This text is blank" if text else "No text yet", shows)
            return None
        if text_links.BROKEN in text:
            st.caption(
                f":material/broken_image: This text holds {text_links.BROKEN}, which stands for a "
                "character that was broken when it was copied."
            )
        if text_links.is_kept_here(text):
            st.caption(
                f":material/link: This text of {count(len(text), 'character')} is too long to "
                "stand in a link; the link works as long as this server runs."
            )
        return text

    def in_link(self, text: str) -> str:
        """The text as a link to this or another page carries it."""
        return text_links.code_of(text)

    def _changed(self) -> None:
        self._take(st.session_state[self.draft])

    def _take_file(self) -> None:
        file = st.session_state[self._file]
        if file is None:
            return
        try:
            text, said = text_files.decoded(file.getvalue())
        except ValueError as error:
            self._say(f"{error}, so it was not opened and the text is as it was.")
            return
        self._take(text)
        if said:
            self._say(said)

    def _take(self, text: str) -> None:
        """Another text: what of it can be read goes into the field."""
        if len(text) > MOST_CHARACTERS:
            self._say(
                f"Of {count(len(text), 'character')} the first {MOST_CHARACTERS:,} are kept, "
                "far more than the models read."
            )
        st.session_state[self.draft] = text_links.without_halves(text[:MOST_CHARACTERS])
        self.on_change()

    def _say(self, sentence: str) -> None:
        st.session_state.setdefault(self._said, []).append(sentence)


def _kind() -> Kind[str]:
    return Kind(
        parse=lambda code: text_links.text_of(code, MOST_CHARACTERS),
        form=text_links.code_of,
        fits=lambda text: isinstance(text, str),
        sentence="The link's text cannot be read: it was cut off, or the server that kept it has "
        "been restarted; paste the text again.",
        lasting=True,
    )


def _hint(blank: str, shows: str) -> None:
    with st.container(border=True):
        st.markdown(f":material/edit_note: **{blank}**")
        st.write(
            f"The models read what you type or open above, and this page shows {shows}. They run "
            "on this machine and send it nowhere. But the page's address carries the text: whoever "
            "gets the link, or sees the browser's history, can read it."
        )
