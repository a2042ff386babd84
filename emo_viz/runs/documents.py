"""Choosing the documents that the app comes with, out of a corpus' held-out split, to files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emo_viz.analysis.unseen import BELOW, in_words
from emo_viz.trace.selection import COLUMNS, MIN_TOKENS, RIGHTS, Selection, choose_documents
from model.files import check_new_file, new_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILES = ("documents.parquet", "calibration.parquet", "ATTRIBUTION.md")
CORPUS_COLUMNS = [name for name in COLUMNS if name != "cut_tokens"] + ["rights", "split"]
MAX_TOKENS = 256
MAX_MEGABYTES = 3  # of the bundled tables, which everyone downloads

ATTRIBUTION_HEAD = """\
# Where these texts come from

Written by `python -m emo_viz documents`; do not edit. Every text keeps the licence of its source.
Changes: texts were split into parts, white space was tidied, and each was cut to at most
{max_tokens} tokens. `documents.parquet` holds what the app shows and measures,
`calibration.parquet` what expert subsets are chosen from; no text of either was trained on.

| Domain | Source | Licence | Documents | Calibration documents |
|---|---|---|---:|---:|
"""


@dataclass(frozen=True)
class Chosen:
    """What was written to the folder `out`; size: bytes of both tables."""

    selection: Selection
    out: Path
    size: int

    def sentences(self) -> list[str]:
        """What was chosen, and every kind of text that is not there as a whole."""
        return list(_summary(self.selection, self.out, self.size))


def choose(
    corpus: Path,
    out: Path,
    per_domain: int | None = None,
    calibration_per_domain: int | None = None,
    rights: Sequence[str] = RIGHTS,
    max_megabytes: float = MAX_MEGABYTES,
    seed: int = 0,
) -> Chosen:
    """Write documents of a corpus' held-out split to the folder `out`, all of FILES or none.

    per_domain, calibration_per_domain: see `choose_documents`. Raises ValueError for a corpus that
    cannot be read, one that has not that many documents, or tables above `max_megabytes`.
    """
    from model.run.loading import load_tokenizer

    for name in FILES:
        check_new_file(out / name)
    documents, tokenizer = _read_corpus(corpus), load_tokenizer(corpus / "tokenizer")
    selection = choose_documents(
        documents,
        tokenizer,
        evaluation=per_domain,
        calibration=calibration_per_domain,
        max_tokens=MAX_TOKENS,
        seed=seed,
        rights=rights,
    )
    _check_enough(selection)
    selection = _with_seen(selection, corpus, tokenizer)
    return Chosen(selection, out, _write(selection, out, max_megabytes))


def _read_corpus(corpus: Path) -> pd.DataFrame:
    from model.data.shards import read_manifest

    read_manifest(corpus)
    path = corpus / "documents.parquet"
    try:
        return pd.read_parquet(path, columns=CORPUS_COLUMNS)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read or lacks columns; run python -m model.data build again."
        ) from error


def _with_seen(
    selection: Selection, corpus: Path, tokenizer: "PreTrainedTokenizerBase"
) -> Selection:
    """The evaluation documents with `seen`: of the texts as they are shown, not as the corpus has
    them. Without it where the corpus lacks its tokens."""
    from model.data.seen import seen_shares
    from model.data.shards import TokenShard
    from model.run.inference import encode

    try:
        train = TokenShard.open(corpus, "train").tokens
    except ValueError:
        return selection
    texts = selection.evaluation["text"].astype(str)
    tokens = [np.array(encode(tokenizer, text, MAX_TOKENS).token_ids) for text in texts]
    seen = selection.evaluation.assign(seen=seen_shares(train, tokens))
    return replace(selection, evaluation=seen)


def _check_enough(selection: Selection) -> None:
    """Raises ValueError, with the numbers needed and had, if no domain fills its quotas."""
    if len(selection.evaluation):
        return
    evaluation, calibration = selection.quotas
    most = max(selection.left_out.items(), key=lambda item: item[1], default=None)
    if most is None:
        had = f"the corpus has none{_without_rights(selection) or ' held out'}"
    else:
        had = f"the largest, {most[0]}, has {most[1]}"
    raise ValueError(
        f"No domain has the {evaluation} documents and {calibration} calibration documents, held "
        f"out, of different parents and of {MIN_TOKENS} tokens or more, that are asked for; {had}. "
        "Choose smaller numbers, or build the corpus with more documents or a larger "
        "--heldout-fraction."
    )


def _without_rights(selection: Selection) -> str:
    kinds = [f"{count:,} of rights {name}" for name, count in selection.without_rights.items()]
    return f" but {', '.join(kinds)} (--rights takes them too)" if kinds else ""


def _summary(selection: Selection, out: Path, size: int) -> Iterator[str]:
    """What was chosen, and every kind of text that is not there as a whole."""
    evaluation, calibration = selection.quotas
    rows = [selection.evaluation, selection.calibration]
    yield (
        f"{out}: {len(rows[0]):,} documents and {len(rows[1]):,} calibration documents of "
        f"{rows[0]['domain'].nunique()} domains ({evaluation} and {calibration} of each), "
        f"{size / 1e6:.2f} MB."
    )
    if selection.left_out:
        few = (f"{name} ({count})" for name, count in selection.left_out.items())
        yield f"Left out, too few held-out documents of different parents: {', '.join(few)}."
    if selection.without_rights:
        yield f"Left out:{_without_rights(selection).removeprefix(' but')}."
    if selection.too_short:
        yield f"Left out, under {MIN_TOKENS} tokens: {selection.too_short:,} documents."
    if "seen" in rows[0]:
        seen = rows[0]["seen"]
        yield (
            f"Training has seen under {in_words(BELOW)} of {int((seen < BELOW).sum()):,} documents "
            f"and over half of {int((seen > 0.5).sum()):,}, by their sequences of 20 tokens."
        )
    cut = [int(count) for table in rows for count in table["cut_tokens"] if count]
    if cut:
        yield f"Cut to {MAX_TOKENS - 1} tokens: {len(cut):,} documents, by {sum(cut):,} in all."


def _write(selection: Selection, out: Path, max_megabytes: float) -> int:
    """Write all three files, or none if they are too large; returns the bytes of the tables."""
    with (
        new_file(out / FILES[0]) as documents,
        new_file(out / FILES[1]) as calibration,
        new_file(out / FILES[2]) as attribution,
    ):
        for path, table in (
            (documents, selection.evaluation),
            (calibration, selection.calibration),
        ):
            with path.open("wb") as file:  # pyarrow takes no name that is not UTF-8
                table.to_parquet(file, index=False, compression="zstd", compression_level=19)
        size = documents.stat().st_size + calibration.stat().st_size
        if size > max_megabytes * 1e6:
            raise ValueError(
                f"The documents take {size / 1e6:.1f} MB, more than {max_megabytes:g} MB; choose "
                "fewer with --per-domain, or allow more with --max-megabytes."
            )
        attribution.write_text(_attribution(selection), encoding="utf-8")
    return size


def _attribution(selection: Selection) -> str:
    """A Markdown table of every source: domain, licence and the number of its documents."""
    keys = ["domain", "source", "licence"]
    tables = (selection.evaluation, selection.calibration)
    sizes = [table[keys].fillna("").astype(str).value_counts() for table in tables]
    counts = pd.concat(sizes, axis=1).fillna(0).astype(int).sort_index().reset_index()
    rows = (
        "| " + " | ".join(_cell(value) for value in row) + " |\n"
        for row in counts.itertuples(index=False, name=None)
    )
    return ATTRIBUTION_HEAD.format(max_tokens=MAX_TOKENS - 1) + "".join(rows)


def _cell(value: object) -> str:
    """A value in a Markdown table, on one line."""
    return " ".join(str(value).split()).replace("|", "\\|") or "not stated"
