"""A table of a page as HTML, with the headings and numbers that the page shows."""

import io
import json
import numbers
from typing import Any

import pandas as pd
import pyarrow as pa

MOST_ROWS = 500  # all rows are in the table's export
DECIMALS = 4  # of a number whose column says none, as on the page
LOCAL_DECIMALS = 3  # at most, where they are as the browser's language has them
NOTHING = "\u2013"


def table(one: Any) -> str:
    """one: Streamlit's message of a data frame or table. Every text is escaped."""
    data = one.arrow_data.data
    if not data:
        return '<p class="note">A table that is too large to stand here.</p>'
    frame: pd.DataFrame = pa.ipc.open_stream(io.BytesIO(data)).read_pandas()
    plain = isinstance(frame.index, pd.RangeIndex)
    rest = len(frame) - MOST_ROWS
    shown = _as_shown(frame.head(MOST_ROWS), _config(one))
    with pd.option_context("display.max_colwidth", None):  # pandas cuts texts at 50 characters
        made = shown.to_html(index=not plain, na_rep=NOTHING, border=0)
    return made + (f'<p class="note">{rest:,} more rows.</p>' if rest > 0 else "")


def _config(one: Any) -> dict[str, dict[str, Any]]:
    """What a page says of columns, by their names."""
    found = json.loads(getattr(one, "columns", "") or "{}")
    return {str(name): own or {"hidden": True} for name, own in found.items()}


def _as_shown(frame: pd.DataFrame, config: dict[str, dict[str, Any]]) -> pd.DataFrame:
    columns = [config.get(str(name), {}) for name in frame.columns]
    kept = [at for at, own in enumerate(columns) if not own.get("hidden")]
    shown = pd.DataFrame(index=frame.index)
    for at in kept:
        form = (columns[at].get("type_config") or {}).get("format")
        values = frame.iloc[:, at].map(lambda value, form=form: _cell(value, form))
        label = columns[at].get("label") or frame.columns[at]
        shown.insert(shown.shape[1], label, values, allow_duplicates=True)
    return shown


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
