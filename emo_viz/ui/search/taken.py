"""Search page: the hits as a table to take along, all of them and not only those of one page."""

import pandas as pd

from emo_viz.ui.parts import export
from emo_viz.ui.search.query import Query
from emo_viz.ui.search.results import Results
from emo_viz.ui.shell.words import count

MOST = 20_000  # lines of one table: each is cut out of its text


def offer(asked: Query, shown: Results, page: slice) -> None:
    """One button for the hits and how many of them each domain has. page: the lines that are
    shown; of tokens that are found by running a model, no others are taken."""
    what = "Documents" if shown.whole else "Hits"
    part = page if shown.routed_now else slice(0, min(MOST, shown.size))
    lines = count(shown.size, "line")
    if part.stop - part.start == shown.size:
        name = what
    elif shown.routed_now:
        name = f"{what} of this page"
        lines = (
            f"lines {part.start + 1:,} to {part.stop:,} of {shown.size:,}, which a model is run "
            "for; all of them need a recording by token"
        )
    else:
        name = f"The first {MOST:,} {what.lower()}"
    tables: dict[str, export.Table] = {name: lambda: hits(asked, shown, part)}
    if shown.domains:
        tables["By domain"] = lambda: by_domain(shown)
    within = f" of {asked.domain}" if asked.domain is not None else ""
    export.offer(
        "search hits",
        asked.corpus.runs,
        tables=tables,
        shown=f"{asked.kind}: {asked.text.strip()}{within}, {lines}",
    )


def hits(asked: Query, shown: Results, part: slice) -> pd.DataFrame:
    """A row for each hit: its document, its token where that is known, and the words around it."""
    facts = asked.corpus.index.facts
    found = shown.lines(part)
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
