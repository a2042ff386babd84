"""Choose documents of a corpus to show and to calibrate on: balanced, allowed, apart.

Both sets come from the held-out split, so no model has seen them, and share no parent: two parts of
one book are never on both sides. A domain that cannot fill both its quotas is left out, so that
every domain that stays weighs the same.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ["id", "domain", "source", "licence", "parent", "part", "text", "cut_tokens"]
MIN_TOKENS = 40
# What may be shown: open licences, and one's own documents (to their owner).
RIGHTS = ("open", "own")
EVALUATION = (48, 40, 32, 24, 20, 16, 12, 10, 8, 6, 5, 4, 3, 2, 1)
PER_CALIBRATION = 3  # documents to evaluate for each one that experts are chosen on


@dataclass(frozen=True)
class Selection:
    """Evaluation and calibration documents (columns COLUMNS) and what was left out.

    left_out: the number of usable documents of each domain that is in neither. too_short: held-out
    documents of fewer than MIN_TOKENS tokens. without_rights: the number of held-out documents of
    each other kind of rights.
    """

    evaluation: pd.DataFrame
    calibration: pd.DataFrame
    quotas: tuple[int, int]
    left_out: dict[str, int]
    too_short: int
    without_rights: dict[str, int]


def choose_documents(
    corpus: pd.DataFrame,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    evaluation: int | None,
    calibration: int | None,
    max_tokens: int,
    seed: int,
    rights: Collection[str] = RIGHTS,
) -> Selection:
    """Draw `evaluation` and `calibration` documents a domain from a corpus' documents table.

    Where a number is None, the numbers are those that keep the most documents of all domains.
    Texts are cut to `max_tokens` tokens, an opening EOS among them; `cut_tokens` says by how many.
    The rows take turns between domains, so that any first rows are balanced too. The same corpus,
    tokenizer and seed give the same rows.
    """
    heldout = corpus[corpus["split"] == "heldout"]
    allowed = heldout[heldout["rights"].isin(rights)]
    lengths = allowed["text"].map(lambda text: len(_token_ends(tokenizer, str(text))))
    allowed = allowed.assign(long=lengths >= MIN_TOKENS)
    groups = [(str(domain), group) for domain, group in allowed.groupby("domain", sort=True)]
    quotas = _quotas([group for _, group in groups], (evaluation, calibration), seed)
    sides = [_deal(group, quotas, seed, index) for index, (_, group) in enumerate(groups)]
    chosen = [pair for pair in sides if pair is not None]
    named = zip(groups, sides, strict=True)
    return Selection(
        _cut([pair[0] for pair in chosen], tokenizer, max_tokens),
        _cut([pair[1] for pair in chosen], tokenizer, max_tokens),
        quotas,
        left_out={name: int(group["long"].sum()) for (name, group), pair in named if not pair},
        too_short=int((~allowed["long"]).sum()),
        without_rights=_sizes(heldout[~heldout["rights"].isin(rights)], "rights"),
    )


def _sizes(rows: pd.DataFrame, column: str) -> dict[str, int]:
    return {str(name): len(group) for name, group in rows.groupby(column, sort=True)}


def _quotas(
    domains: list[pd.DataFrame], asked: tuple[int | None, int | None], seed: int
) -> tuple[int, int]:
    """The numbers asked for; where one is None, those that keep the most documents in all."""
    best, most = (1, 1), 0
    for evaluation in (asked[0],) if asked[0] else EVALUATION:
        tried = (evaluation, asked[1] or max(1, round(evaluation / PER_CALIBRATION)))
        filled = (_deal(group, tried, seed, index) for index, group in enumerate(domains))
        kept = evaluation * sum(pair is not None for pair in filled)
        if kept > most or not most:  # none so far: the smallest numbers are those to name
            best, most = tried, kept
    return best


def _deal(
    documents: pd.DataFrame, quotas: tuple[int, int], seed: int, index: int
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The documents of both sides of a domain; None if it cannot fill its quotas."""
    rng = np.random.default_rng([seed, index])
    sides = _deal_parents(documents, quotas, rng)
    first, second = (
        _in_turn(side).query("long").head(n) for side, n in zip(sides, quotas, strict=True)
    )
    return (first, second) if (len(first), len(second)) == quotas else None


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
    """Where each token ends, in characters; tokenised as `model.run.inference.encode` does."""
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


def _in_turn(documents: pd.DataFrame) -> pd.DataFrame:
    """One document of each parent before a second."""
    turn = documents.groupby("parent").cumcount()
    return documents.loc[turn.sort_values(kind="stable").index]


def _cut(
    domains: list[pd.DataFrame], tokenizer: "PreTrainedTokenizerBase", max_tokens: int
) -> pd.DataFrame:
    """All rows, their texts cut: the first of every domain, then the second of every domain, ..."""
    if not domains:
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.concat([domain.reset_index(drop=True) for domain in domains])
    rows = rows.sort_index(kind="stable").reset_index(drop=True)
    cuts = [cut_text(tokenizer, str(text), max_tokens) for text in rows["text"]]
    texts, cut_tokens = [start for start, _ in cuts], [tokens for _, tokens in cuts]
    return rows.assign(text=texts, cut_tokens=cut_tokens)[COLUMNS]
