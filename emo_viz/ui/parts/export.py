"""Taking home what a page shows: pictures as SVG and PNG, tables as CSV and Parquet.

    export.offer("experts in common", runs, charts={"By layer": "difference_layers"},
                 tables={"By layer": lambda: frame}, shown="24 documents of all domains")

draws one button that opens the choice, which is made once it is opened: a page has several, and
most visitors open none. The choice is a dialog: many a table ends where the page does. A picture is
drawn by the browser from what stands on the page: a Plotly chart, or what is seen of a component,
under the Streamlit key of its element. It gets a legend and one line of provenance: runs, digests,
and what the page's controls hold. A table is made only when it is asked for.
"""

import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import streamlit as st

from emo_viz.analysis.runs import Comparison
from emo_viz.ui.parts import opened
from emo_viz.ui.shell.component import component
from emo_viz.ui.shell.picture import PICTURE_JS, Source, joined, line
from emo_viz.ui.shell.words import escape_markdown

# What a spreadsheet would take for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
_HTML = '<div class="export" role="group"></div><div class="said" role="status"></div>'
_HERE = Path(__file__)
_COMPONENT = component(
    "emo_viz_export",
    html=_HTML,
    css=_HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=PICTURE_JS + _HERE.with_suffix(".js").read_text(encoding="utf-8"),
)

Table = Callable[[], pd.DataFrame]


@dataclass(frozen=True)
class Entry:
    """One entry of a legend that the picture itself does not have; colour: #rrggbb."""

    colour: str
    text: str
    sign: str = "\u25cf"


def offer(
    name: str,
    runs: Iterable[Source] = (),
    *,
    charts: Mapping[str, str] | None = None,
    tables: Mapping[str, Table] | None = None,
    shown: str = "",
    legend: Sequence[Entry] = (),
    apart: Collection[str] = (),
    place: Any = st,
) -> None:
    """A button that opens what can be saved of one part of a page.

    name: what is exported, in a few words; names files and tells two such buttons apart. charts:
    what each is called, and the key of its element. tables: what each is called, and what makes
    it. shown: what the part is restricted to, in words, where no control says it. legend: of marks
    that the page explains beside the picture. apart: controls of the page that the part does not
    follow, by their names in the address.
    """
    code = file_name(name)

    def choice() -> None:
        parts = line(runs, shown.rstrip("."), apart)
        said = joined(parts)
        _pictures(code, charts or {}, parts, legend)
        for title, make in (tables or {}).items():
            several = len(tables or {}) > 1
            _table(title, make, f"{code}-{file_name(title)}" if several else code, said)
        st.caption(escape_markdown(said))

    icon, key = ":material/download:", f"export_{code}"
    opened.in_dialog(
        place, "Export", f"Export: {escape_markdown(name)}", choice, icon=icon, key=key
    )


def by_label(table: pd.DataFrame, runs: Comparison) -> pd.DataFrame:
    """A table whose columns end in the ids of runs, or that has them in a column "model", with the
    labels that the page has for them."""
    named = table.rename(columns=partial(_labelled, runs.labels)).rename(columns={"model": "run"})
    return named.assign(run=table["model"].map(runs.labels)) if "model" in table else named


def _labelled(labels: Mapping[str, str], column: str) -> str:
    """ "loss_emo-nano" as "loss_EMO" """
    run = max((run for run in labels if f"_{column}".endswith(f"_{run}")), key=len, default="")
    return column.removesuffix(run) + labels.get(run, "")


def number(words: str) -> int | str | None:
    """What the page says in words, as a number where it is one ("12 to 16" is none); None for
    ""."""
    return int(words) if words.isdecimal() else words or None


def csv(frame: pd.DataFrame) -> bytes:
    """A table as CSV in UTF-8; no text of it is a formula to a spreadsheet."""
    plain = frame.copy()
    for column in plain.columns:
        if not pd.api.types.is_numeric_dtype(plain[column]):
            plain[column] = plain[column].map(_no_formula)
    return plain.to_csv(index=False).encode("utf-8")


def parquet(frame: pd.DataFrame, said: str) -> bytes:
    """A table as Parquet; `said` is its metadata "provenance". Mixed columns become text."""
    plain = frame.rename(columns=str).reset_index(drop=True)
    for column in plain.columns:
        if plain[column].map(type).nunique() > 1 and plain[column].dtype == object:
            plain[column] = plain[column].map(lambda value: None if _empty(value) else str(value))
    table = pa.Table.from_pandas(plain, preserve_index=False)
    told = (table.schema.metadata or {}) | {b"provenance": said.encode("utf-8")}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(told), buffer)
    return buffer.getvalue()


def file_name(words: str) -> str:
    """Words as a safe file name: "Experts in common" becomes "experts-in-common"."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "export"


def _pictures(
    code: str, charts: Mapping[str, str], parts: Sequence[Any], legend: Sequence[Entry]
) -> None:
    if charts:
        pictures = [{"title": title, "key": key} for title, key in charts.items()]
        entries = [asdict(entry) for entry in legend]
        data = {"name": code, "charts": pictures, "provenance": parts, "legend": entries}
        _COMPONENT(key=f"export_pictures_{code}", data=data)


def _table(title: str, make: Table, code: str, said: str) -> None:
    row = st.container(horizontal=True, vertical_alignment="center")
    row.markdown(f"{escape_markdown(title)} (table)", width="stretch")
    forms: dict[str, Callable[[], bytes]] = {
        "CSV": lambda: csv(make()),
        "Parquet": lambda: parquet(make(), said),
    }
    for form, data in forms.items():
        row.download_button(
            form,
            data=data,
            file_name=f"{code}.{form.lower()}",
            mime="text/csv" if form == "CSV" else "application/vnd.apache.parquet",
            on_click="ignore",
            key=f"export_{code}_{form.lower()}",
        )


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _empty(value: Any) -> bool:
    return value is None or isinstance(value, float) and value != value
