"""Search page: the hits as a table to take along, all of them and not only those of one page."""

import pandas as pd

from emo_viz.ui.parts import export
from emo_viz.ui.search.query import Query
from emo_viz.ui.search.results import Results
from emo_viz.ui.shell.words import count

MOST = 20_000  # lines of one table: each is cut out of its text


def offer(asked: Query, shown: Results) -> None:
    """One button for the hits and how many of them each domain has."""
    what = "Documents" if shown.whole else "Hits"
    name = what if shown.size <= MOST else f"The first {MOST:,} {what.lower()}"
    tables: dict[str, export.Table] = {name: lambda: hits(asked, shown)}
    if shown.domains:
        tables["By domain"] = lambda: by_domain(shown)
    within = f" of {asked.domain}" if asked.domain is not None else ""
    export.offer(
        "search hits",
        asked.corpus.runs,
        tables=tables,
        shown=f"{asked.kind}: {asked.text.strip()}{within}, {count(shown.size, 'line')}",
    )


def hits(asked: Query, shown: Results) -> pd.DataFrame:
    """A row for each hit: its document, its token where that is known, and the words around it."""
    facts = asked.corpus.index.facts
    found = shown.lines(slice(0, min(MOST, shown.size)))
    rows = [line.row for line, _ in found]
    table = facts.iloc[rows][["id", "domain", "title"]].reset_index(drop=True)
    table = table.rename(columns={"id": "document"})
    table["token"] = pd.array([line.position for line, _ in found], "Int64")
    for name in ("before", "hit", "after"):
        table[name] = [getattr(line, name) for line, _ in found]
    if any(note for _, note in found):
        table[(shown.note or shown.unit).lower()] = [note for _, note in found]
    return table


def by_domain(shown: Results) -> pd.DataFrame:
    """How many hits each domain has, most first."""
    return pd.DataFrame(shown.domains, columns=["domain", shown.unit])
