"""Choose documents of a corpus to show and to calibrate on: balanced, open, apart from each other.

Both sets come from the held-out split, so no model has seen them, and share no parent: two parts of
one book are never on both sides. A domain that cannot fill both its quotas is left out, so that
every domain that stays weighs the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ["id", "domain", "source", "licence", "parent", "part", "text", "cut_tokens"]
MIN_TOKENS = 40


@dataclass(frozen=True)
class Selection:
    """Evaluation and calibration documents (columns COLUMNS) and the domains left out of both."""

    evaluation: pd.DataFrame
    calibration: pd.DataFrame
    left_out: tuple[str, ...]


def choose_documents(
    corpus: pd.DataFrame,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    evaluation: int,
    calibration: int,
    max_tokens: int,
    seed: int,
) -> Selection:
    """Draw `evaluation` and `calibration` documents a domain from a corpus' documents table.

    Texts are cut to `max_tokens` tokens, an opening EOS among them; `cut_tokens` says by how many.
    The rows take turns between domains, so that any first rows are balanced too. The same corpus,
    tokenizer and seed give the same rows.
    """
    usable = corpus[(corpus["split"] == "heldout") & (corpus["rights"] == "open")]
    chosen: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    left_out = []
    for index, (domain, documents) in enumerate(usable.groupby("domain", sort=True)):
        rng = np.random.default_rng([seed, index])
        sides = _deal_parents(documents, (evaluation, calibration), rng)
        pair = (
            _take(sides[0], evaluation, tokenizer, max_tokens),
            _take(sides[1], calibration, tokenizer, max_tokens),
        )
        if (len(pair[0]), len(pair[1])) == (evaluation, calibration):
            chosen.append(pair)
        else:
            left_out.append(str(domain))
    return Selection(
        _take_turns([pair[0] for pair in chosen]),
        _take_turns([pair[1] for pair in chosen]),
        tuple(left_out),
    )


def cut_text(tokenizer: "PreTrainedTokenizerBase", text: str, max_tokens: int) -> tuple[str, int]:
    """The longest start of a text, at a token's end, that takes at most `max_tokens` tokens.

    The EOS that opens a document counts. Returns the start and by how many tokens it is shorter.
    """
    ends = _token_ends(tokenizer, text)
    keep = max_tokens - 1
    if len(ends) <= keep:
        return text, 0
    # Cut inside a word or a character, a start can take more tokens than it had in the whole text.
    for end in reversed(ends[:keep]):
        start = text[:end].rstrip()
        tokens = len(_token_ends(tokenizer, start))
        if tokens <= keep:
            return start, len(ends) - tokens
    return "", len(ends)


def _token_ends(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Where each token ends, in characters; tokenised as `model.inference.encode` does."""
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    return [end for _, end in encoded["offset_mapping"]]


def _deal_parents(
    documents: pd.DataFrame, quotas: tuple[int, int], rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the documents of a domain by parent, each side with its share of the documents.

    The largest parents are dealt first, so that the small ones can make up for them.
    """
    sizes = documents.groupby("parent", sort=True).size()
    shuffled_sizes = sizes.iloc[rng.permutation(len(sizes))]
    side_of: dict[object, int] = {}
    filled = [0, 0]
    for parent, size in shuffled_sizes.sort_values(ascending=False, kind="stable").items():
        side = 0 if filled[0] * quotas[1] <= filled[1] * quotas[0] else 1
        side_of[parent] = side
        filled[side] += size
    shuffled = documents.iloc[rng.permutation(len(documents))]
    sides = shuffled["parent"].map(side_of)
    return shuffled[sides == 0], shuffled[sides == 1]


def _take(
    documents: pd.DataFrame, quota: int, tokenizer: "PreTrainedTokenizerBase", max_tokens: int
) -> pd.DataFrame:
    """The first `quota` documents that are long enough, one of each parent before a second."""
    turn = documents.groupby("parent").cumcount()
    in_turn = documents.loc[turn.sort_values(kind="stable").index]
    rows: list[dict[str, object]] = []
    for row in _records(in_turn):
        if len(rows) == quota:
            break
        text = str(row["text"])
        if len(_token_ends(tokenizer, text)) >= MIN_TOKENS:
            start, cut_tokens = cut_text(tokenizer, text, max_tokens)
            rows.append({**row, "text": start, "cut_tokens": cut_tokens})
    return pd.DataFrame(rows, columns=COLUMNS)


def _records(documents: pd.DataFrame) -> Iterator[dict[str, object]]:
    columns = [name for name in COLUMNS if name != "cut_tokens"]
    for values in documents[columns].itertuples(index=False, name=None):
        yield dict(zip(columns, values, strict=True))


def _take_turns(domains: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows: the first of every domain, then the second of every domain, and so on."""
    if not domains:
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.concat(domains)
    return rows.sort_index(kind="stable").reset_index(drop=True)
