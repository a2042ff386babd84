"""A table whose rows open something: by the button in each of them, or by choosing the row.

A click on a cell cannot do it: a table takes the first cell for chosen as soon as the Tab key
reaches it, so the page would be left by walking over it. By keys a row is chosen with Shift+Space.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import streamlit as st

OPEN = "Open"  # a word: the name of an icon would be read out as it is written


def table(
    shown: pd.DataFrame,
    key: str,
    open_row: Callable[[int], None],
    columns: Mapping[str, Any],
    **how: Any,
) -> None:
    """Draw it; `open_row` gets the place of the row that is opened.

    columns: by name the configuration of its own columns. how: more arguments of `st.dataframe`.
    """
    pressed = f"{key}_pressed"
    button = st.column_config.ButtonColumn(
        width=64, type="tertiary", key=pressed, on_click=lambda: open_row(_pressed(pressed))
    )
    st.dataframe(
        pd.concat([pd.Series(OPEN, shown.index, name=OPEN), shown], axis=1),
        key=key,
        hide_index=True,
        on_select=lambda: _chosen(key, open_row),
        selection_mode="single-row",
        column_config={OPEN: button, **columns},
        placeholder="–",
        **how,
    )


def _pressed(key: str) -> int:
    return int(st.session_state[key]["row"])


def _chosen(key: str, open_row: Callable[[int], None]) -> None:
    rows = st.session_state[key]["selection"]["rows"]
    if rows:
        open_row(int(rows[0]))
