"""What the library misses is drawn where it was asked for, and ends the page there."""

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest


@pytest.fixture(autouse=True)
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that links lead to: a function run alone has no other pages to link to."""
    found = list[str]()
    monkeypatch.setattr(st, "page_link", lambda page, **_: found.append(page))
    return found


def page() -> None:
    import streamlit as st

    from emo_viz.server.library import Missing
    from emo_viz.ui.shell import missing

    with missing.said():
        st.write("before")
        raise Missing("No *traces* are here.", "make them")
    st.write("after")


def page_with_a_fragment() -> None:
    import streamlit as st

    from emo_viz.server.library import Missing
    from emo_viz.ui.shell import links

    @st.fragment
    def part() -> None:
        with links.fragment():
            raise Missing("No models are here.", "train them")

    part()


def test_the_sentence_is_plain_text_and_the_command_stands_below(ways: list[str]):
    at = AppTest.from_function(page, default_timeout=600).run()
    assert not at.exception
    assert [part.value for part in at.markdown][0] == "before"
    assert at.markdown[-1].value == r"No \*traces\* are here\."
    assert at.code[0].value == "make them"
    assert ways == ["pages/6_Library.py"], "and the way to another run"


def test_a_fragment_says_it_too():
    at = AppTest.from_function(page_with_a_fragment, default_timeout=600).run()
    assert not at.exception
    assert at.markdown[-1].value == r"No models are here\."
    assert at.code[0].value == "train them"
