"""Two pins side by side."""

from collections.abc import Sequence

import streamlit as st

from emo_viz.ui.parts.pins import Pin


def show(pinned: Sequence[Pin]) -> None:
    """Draw the comparison."""
    st.write(len(pinned))
