"""A table of a page as HTML, with the headings and numbers that the page shows."""

import html
import io
import json
import numbers
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

MOST_ROWS = 500  # all rows are in the table's export
DECIMALS = 4  # of a number whose column says none, as on the page
LOCAL_DECIMALS = 3  # at most, where they are as the browser's language has them
NOTHING = "\u2013"
INDEX = "_index"  # as a page's configuration of columns calls it


def table(one: Any) -> str:
    """one: Streamlit's message of a data frame or table. Every text is escaped."""
    data = one.arrow_data.data
    if not data:
        return '<p class="note">A table that is too large to stand here.</p>'
    frame: pd.DataFrame = pa.ipc.open_stream(io.BytesIO(data)).read_pandas()
    config = _config(one)
    plain = isinstance(frame.index, pd.RangeIndex) or config.get(INDEX, {}).get("hidden")
    shown = _as_shown(frame.head(MOST_ROWS), config)
    shown = shown.rename(index=_text, columns=_text)
    if not plain and shown.index.name:  # a heading beside the others, not below them
        shown, plain = shown.rename_axis(_text(shown.index.name)).reset_index(), True
    with pd.option_context("display.max_colwidth", None):  # pandas cuts texts at 50 characters
        made = shown.to_html(index=not plain, na_rep=NOTHING, border=0, escape=False)
    return made + (_cut(len(frame)) if len(frame) > MOST_ROWS else "")


def _cut(rows: int) -> str:
    """That a table goes on, and where all of it is."""
    return (
        f'<p class="note">The first {MOST_ROWS:,} of {rows:,} rows; Export on the page saves all '
        "of them as CSV.</p>"
    )


def _config(one: Any) -> dict[str, dict[str, Any]]:
    """What a page says of columns, by their names."""
    found = json.loads(getattr(one, "columns", "") or "{}")
    return {str(name): own or {"hidden": True} for name, own in found.items()}


def _as_shown(frame: pd.DataFrame, config: dict[str, dict[str, Any]]) -> pd.DataFrame:
    columns = [config.get(str(name), {}) for name in frame.columns]
    kept = [at for at, own in enumerate(columns) if not own.get("hidden") and not _is_button(own)]
    shown = pd.DataFrame(index=frame.index)
    for at in kept:
        kind = columns[at].get("type_config") or {}
        values = frame.iloc[:, at].map(lambda value, kind=kind: _html(value, kind))
        label = columns[at].get("label") or frame.columns[at]
        shown.insert(shown.shape[1], label, values, allow_duplicates=True)
    return shown


def _is_button(own: dict[str, Any]) -> bool:
    """A column of what is pressed, which says nothing."""
    return (own.get("type_config") or {}).get("type") == "button"


def _html(value: Any, kind: dict[str, Any]) -> Any:
    """One value as HTML; kind: what the page says of its column."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return NOTHING
    if kind.get("type") == "link":
        shown = kind.get("display_text") or value
        return f'<a href="{html.escape(str(value))}">{_text(shown)}</a>'
    return _text(_cell(value, kind.get("format")))


def _text(value: Any) -> str:
    several = isinstance(value, (list, tuple, np.ndarray))
    return html.escape(", ".join(map(str, value)) if several else str(value))


def _cell(value: Any, form: str | None) -> Any:
    """One value as the page writes it. form: of a column; those that are known here are a printf,
    "percent", "localized" and none. A number of any other is written as of none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if value != value:  # NaN
        return NOTHING
    if form == "percent":
        return f"{_trimmed(f'{100 * value:,.2f}')}%"
    if form and "%" in form:
        try:
            return form % value
        except (TypeError, ValueError):
            return value
    if form == "localized":
        return _trimmed(f"{value:,.{LOCAL_DECIMALS}f}")
    return _trimmed(f"{value:.{DECIMALS}f}")


def _trimmed(text: str) -> str:
    shown = text.rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown
