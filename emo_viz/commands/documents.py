"""Choose the documents that the app comes with: python -m emo_viz documents --help"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import pandas as pd

    from emo_viz.trace.selection import Selection

MIN_DOMAINS = 20
MIN_DOCUMENTS = 1_000
MAX_TOKENS = 256
MAX_BYTES = 3_000_000

ATTRIBUTION_HEAD = """\
# Where these texts come from

Written by `python -m emo_viz documents`; do not edit. Every text keeps the licence of its source.
Changes: texts were split into parts, white space was tidied, and each was cut to at most
{max_tokens} tokens. `documents.parquet` holds what the app shows and measures,
`calibration.parquet` what expert subsets are chosen from; no text of either was trained on.

| Domain | Source | Licence | Documents | Calibration documents |
|---|---|---|---:|---:|
"""


@click.command()
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    default=Path("data/corpus"),
    show_default=True,
    help="Folder made by python -m model.data build.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("assets/documents"),
    show_default=True,
    help="Folder for documents.parquet, calibration.parquet and ATTRIBUTION.md.",
)
@click.option("--per-domain", type=click.IntRange(min=1), default=48, show_default=True)
@click.option("--calibration-per-domain", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def command(
    corpus: Path, out: Path, per_domain: int, calibration_per_domain: int, seed: int
) -> None:
    """Choose held-out documents of open rights, as many of each domain."""
    from emo_viz.trace.selection import choose_documents
    from model.loading import load_tokenizer

    selection = choose_documents(
        _read_corpus(corpus),
        load_tokenizer(corpus / "tokenizer"),
        evaluation=per_domain,
        calibration=calibration_per_domain,
        max_tokens=MAX_TOKENS,
        seed=seed,
    )
    if selection.left_out:
        click.echo(f"Left out, too few held-out documents: {', '.join(selection.left_out)}.")
    _check_enough(selection)
    size = _write(selection, out)
    click.echo(
        f"{out}: {len(selection.evaluation):,} documents and {len(selection.calibration):,} "
        f"calibration documents of {selection.evaluation['domain'].nunique()} domains, "
        f"{size / 1e6:.2f} MB."
    )


def _read_corpus(corpus: Path) -> "pd.DataFrame":
    import pandas as pd

    from model.data.shards import read_manifest

    read_manifest(corpus)
    try:
        return pd.read_parquet(corpus / "documents.parquet")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{corpus / 'documents.parquet'} cannot be read; run python -m model.data build again."
        ) from error


def _check_enough(selection: "Selection") -> None:
    domains = selection.evaluation["domain"].nunique()
    documents = len(selection.evaluation)
    if domains < MIN_DOMAINS or documents < MIN_DOCUMENTS:
        raise ValueError(
            f"Only {documents:,} documents of {domains} domains can be had, fewer than "
            f"{MIN_DOCUMENTS:,} of {MIN_DOMAINS}; build a larger corpus or change --per-domain."
        )


def _write(selection: "Selection", out: Path) -> int:
    """Write all three files, or none if they are too large; returns the bytes of the tables."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "documents.parquet": selection.evaluation,
        "calibration.parquet": selection.calibration,
    }
    partial = {name: out / f"{name}.partial" for name in (*tables, "ATTRIBUTION.md")}
    try:
        for name, table in tables.items():
            table.to_parquet(partial[name], index=False, compression="zstd", compression_level=19)
        size = sum(partial[name].stat().st_size for name in tables)
        if size > MAX_BYTES:
            raise ValueError(
                f"The documents take {size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f} MB; "
                "choose fewer with --per-domain."
            )
        partial["ATTRIBUTION.md"].write_text(_attribution(selection), encoding="utf-8")
        for name, path in partial.items():
            path.replace(out / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    return size


def _attribution(selection: "Selection") -> str:
    """A Markdown table of every source: domain, licence and the number of its documents."""
    keys = ["domain", "source", "licence"]
    counts = (
        selection.evaluation.groupby(keys)
        .size()
        .to_frame("documents")
        .join(selection.calibration.groupby(keys).size().rename("calibration"), how="outer")
        .fillna(0)
        .astype(int)
        .reset_index()
    )
    rows = (
        "| " + " | ".join(str(value).replace("|", "\\|") for value in row) + " |\n"
        for row in counts.itertuples(index=False, name=None)
    )
    return ATTRIBUTION_HEAD.format(max_tokens=MAX_TOKENS - 1) + "".join(rows)
