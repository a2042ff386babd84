"""The documents that measure a model: of a corpus, or of files of texts, in the model's own tokens.

A corpus is tokens of its own tokenizer. EMO's models were trained on these; a model with another
tokenizer reads the texts that they spell, and how much of these it has seen is not known.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.documents import Text
from model.data.heldout import MAX_TOKENS, HeldOut, Role, held_out
from model.data.own import read_texts
from model.evaluate.subject import EmoSubject, Subject
from model.run.loading import load_tokenizer

LEAST_TOKENS = 3  # of a document: the opening one, and one to predict after another


def of_corpus(corpus: Path, subject: Subject, per_domain: int) -> list[HeldOut]:
    """The held-out documents of a corpus folder, so many a domain for each role.

    Raises ValueError for a corpus that is missing or damaged, or has no domain with as many.
    """
    found = held_out(corpus, per_domain, per_domain)
    if isinstance(subject, EmoSubject):
        return found
    tokenizer = load_tokenizer(corpus / "tokenizer")

    def read(each: HeldOut) -> HeldOut:
        spelt = tokenizer.decode(each.tokens[1:].tolist(), clean_up_tokenization_spaces=False)
        # A document is cut at a token, which may be in the middle of a character.
        tokens = subject.encode(str(spelt).rstrip("\ufffd"), MAX_TOKENS)
        same = np.array_equal(tokens, each.tokens)
        return replace(each, tokens=tokens, seen=each.seen if same else math.nan)

    return [read(each) for each in found]


def of_files(
    documents: str, calibration: str, subject: Subject, per_domain: int
) -> tuple[list[HeldOut], str, list[str]]:
    """The first documents of every domain that both name, a digest of their texts, and the domains
    left out because only one side has them.

    Both as `model.data build` takes them: Parquet, JSONL, a folder of text files. Raises ValueError
    for what cannot be read, for texts that are in both, and if they share no domain.
    """
    sides: dict[Role, list[Text]] = {
        "evaluated": list(_first(documents, per_domain)),
        "calibration": list(_first(calibration, per_domain)),
    }
    both = {each.text for each in sides["evaluated"]} & {each.text for each in sides["calibration"]}
    if both:
        raise ValueError(
            f"{len(both)} texts of {documents} are in {calibration} too; experts must be chosen by "
            "other documents than they are measured with."
        )
    named = [{each.domain for each in side} for side in sides.values()]
    if not named[0] & named[1]:
        raise ValueError(
            f"{documents} and {calibration} have no domain in common ({_few(named[0])}; "
            f"{_few(named[1])}); give each row its domain."
        )
    kept = [
        (role, text)
        for role, side in sides.items()
        for text in side
        if text.domain in named[0] & named[1]
    ]
    left_out = sorted(named[0] ^ named[1])
    digest = hashlib.sha256()
    for role, text in kept:
        digest.update(f"{role}\0{text.domain}\0{text.text}\0".encode())
    return [_held_out(role, text, subject) for role, text in kept], digest.hexdigest(), left_out


def _first(spec: str, per_domain: int) -> Iterator[Text]:
    counts: dict[str, int] = {}
    for text in read_texts(spec):
        counts[text.domain] = counts.get(text.domain, 0) + 1
        if counts[text.domain] <= per_domain:
            yield text


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "none"


def _held_out(role: Role, text: Text, subject: Subject) -> HeldOut:
    try:
        tokens: NDArray[np.int64] = subject.encode(text.text, MAX_TOKENS)
    except ValueError as error:
        raise ValueError(f"{text.place}: {error}") from error
    if len(tokens) < LEAST_TOKENS:
        raise ValueError(f"{text.place}: the text has fewer than two tokens; leave it out.")
    return HeldOut(text.id or text.place, text.domain, role, math.nan, tokens)
