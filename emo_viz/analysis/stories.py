"""What can be told with what is recorded: found in the documents and the curves, never typed in."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emo_viz.analysis.curves import FULL, ROUTER_PROBABILITY

SIGNS = frozenset("{}()[]<>;=_|&$#@\\/*+~^")
CODE = "code"
LOOKED_AT = 12  # documents of a domain
# Characters of each half of a text of two kinds: with the many tokens of code, both are read whole
# by a model of 256 tokens.
PART = 300
FEWEST_SIGNS = 2.0  # times as many in the one as in the other, to be called two kinds


@dataclass(frozen=True)
class Mixed:
    """A text whose halves are of two domains: most full of signs, and fullest of letters."""

    first: str
    second: str
    text: str


@dataclass(frozen=True)
class Cost:
    """The domain in which a cut to keep_k experts costs a run most, in nats a token."""

    domain: str
    keep_k: int
    increase: float


def signs(text: str) -> float:
    """The share of characters that programs are full of and prose is not."""
    return sum(letter in SIGNS for letter in text) / max(1, len(text))


def mixed(documents: pd.DataFrame) -> Mixed | None:
    """Code and prose in one text, as far as domains differ so: the beginning of a document of each.

    documents: domain, text and part; of longer texts the first part alone counts. Code is a domain
    that is called so, else the one fullest of signs. None where no two domains differ.
    """
    openings = documents[documents["part"] == 0] if "part" in documents else documents
    found = {
        str(domain): group["text"].head(LOOKED_AT).tolist()
        for domain, group in openings.groupby("domain")
    }
    plain = {domain: texts for domain, texts in found.items() if all(map(_is_latin, texts))}
    shares = {domain: float(np.mean(list(map(signs, texts)))) for domain, texts in plain.items()}
    if len(shares) < 2:
        return None
    named = {domain: share for domain, share in shares.items() if CODE in domain.lower()}
    code = max(named or shares, key=shares.__getitem__)
    prose = min(shares, key=shares.__getitem__)
    if shares[code] < FEWEST_SIGNS * max(shares[prose], 0.005):
        return None
    usual = sorted(plain[code], key=signs)[len(plain[code]) // 2]
    parts = (_beginning(usual), _beginning(min(plain[prose], key=signs)))
    return Mixed(code, prose, "\n\n".join(parts))


def _is_latin(text: str) -> bool:
    """Whether most of the letters are of the script that the signs stand among."""
    return sum(letter.isascii() for letter in text) > 0.9 * len(text)


def _beginning(text: str) -> str:
    """Up to PART characters, to the end of a line or of a word."""
    part = text[:PART]
    if len(text) <= PART:
        return part.strip()
    end = max(part.rfind("\n"), part.rfind(". ") + 1)
    return part[: end if end > PART // 2 else part.rfind(" ")].strip()


def dearest(rows: pd.DataFrame, run: str, keep_k: int) -> Cost | None:
    """Where a cut to the measured keep-k nearest to keep_k costs a run most; None if it was not
    measured. rows: of curves."""
    own = rows[rows["model"] == run].astype({"domain": str, "method": str})
    full, cut = own[own["method"] == FULL], own[own["method"] == ROUTER_PROBABILITY]
    if full.empty or cut.empty:
        return None
    nearest = int(min(cut["keep_k"].unique(), key=lambda k: (abs(int(k) - keep_k), k)))
    at = cut[cut["keep_k"] == nearest]
    increase = _loss(at) - _loss(full)
    domain = str(increase.idxmax())
    return Cost(domain, nearest, float(increase[domain]))


def _loss(rows: pd.DataFrame) -> pd.Series:
    """Nats a token of each domain."""
    sums = rows.groupby("domain")[["loss_sum", "tokens"]].sum()
    return sums["loss_sum"] / sums["tokens"]
