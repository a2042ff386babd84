"""Multiple choice by log-likelihood: of several continuations the model prefers the likeliest.

Questions come from a JSONL file, or are made of the documents themselves: which of four passages is
the document's own continuation, where the others stand at the same place in other documents of its
domain.

Shapes: Q questions, C their choices, D documents run, L layers with a router, R routed experts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.heldout import EVALUATED, HeldOut
from model.evaluate.intervals import Span, pooled_mean
from model.evaluate.subject import Masks, Subject
from model.files import read_text

OWN = "own continuation"
CONTEXT, CONTINUATION, CHOICES = 64, 16, 4  # tokens, tokens, passages

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """Tokens of the context, the opening one first, and of each choice.

    lengths: of the choices in characters, by which their log-likelihoods are divided; all 1 where
    they are of equally many tokens. domain: "" where none is named.
    """

    context: Ids
    choices: tuple[Ids, ...]
    answer: int
    domain: str
    lengths: tuple[int, ...]


def continuations(documents: Sequence[HeldOut]) -> list[Question]:
    """One question of every evaluated document that is long enough, in domains with enough such."""
    rng = np.random.default_rng(0)
    need = CONTEXT + CONTINUATION
    long = [each for each in documents if each.role == EVALUATED and len(each.tokens) >= need]
    questions = []
    for each in long:
        others = [other for other in long if other.domain == each.domain and other is not each]
        if len(others) < CHOICES - 1:
            continue
        wrong = [others[n] for n in rng.choice(len(others), CHOICES - 1, replace=False)]
        answer = int(rng.integers(CHOICES))
        wrong.insert(answer, each)
        choices = tuple(one.tokens[CONTEXT:need] for one in wrong)
        ones = (1,) * CHOICES
        questions.append(Question(each.tokens[:CONTEXT], choices, answer, each.domain, ones))
    return questions


def read_questions(path: Path, subject: Subject) -> list[Question]:
    """Of a JSONL file: {"question", "choices", "answer" (a number from 0), "domain"} a line.

    Raises ValueError, naming the line, for one that is none.
    """
    found = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                found.append(_question(json.loads(line), subject))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f'{path}, line {number} is no question ({error}); it needs "question", at '
                    'least two "choices", and "answer", the number of the right one from 0.'
                ) from error
    if not found:
        raise ValueError(f"{path} holds no questions; give a JSON object a line.")
    return found


def _question(row: Mapping[str, Any], subject: Subject) -> Question:
    text, choices, answer = row["question"], row["choices"], row["answer"]
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in [text, *choices]):
        raise ValueError("the question is no text, or the choices are no list of texts")
    if not all(choice.strip() for choice in choices):
        raise ValueError("a choice is empty")
    if len(choices) < 2 or type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError("the answer is none of its choices")
    most = subject.longest
    context = subject.encode(text, most)
    whole = [subject.encode(f"{text} {choice}", most) for choice in choices]
    # A tokenizer may join the end of the context with what follows.
    shared = min([len(context), *(_common(context, ids) for ids in whole)])
    if any(len(ids) <= shared or len(ids) >= most for ids in whole):
        raise ValueError(f"a choice adds no token, or ends beyond {most} tokens")
    ends = tuple(ids[shared:] for ids in whole)
    lengths = tuple(map(len, choices))
    return Question(context[:shared], ends, answer, str(row.get("domain") or ""), lengths)


def _common(one: Ids, other: Ids) -> int:
    size = min(len(one), len(other))
    apart = np.flatnonzero(one[:size] != other[:size])
    return int(apart[0]) if len(apart) else size


def accuracy(subject: Subject, questions: Sequence[Question], masks_QLR: Masks | None) -> Span:
    """Share of questions answered rightly, with its interval over questions.

    The choice of the highest log-likelihood a character counts as the answer.
    """
    runs = [(q, c) for q, question in enumerate(questions) for c in range(len(question.choices))]
    texts = [np.concatenate([questions[q].context, questions[q].choices[c]]) for q, c in runs]
    masks_DLR = None if masks_QLR is None else masks_QLR[[q for q, _ in runs]]
    losses = subject.losses(texts, masks_DLR)
    scores: list[list[float]] = [[] for _ in questions]
    for (q, c), loss in zip(runs, losses, strict=True):
        size = len(questions[q].choices[c])
        scores[q].append(-float(loss[-size:].sum(dtype=np.float64)) / questions[q].lengths[c])
    right = [int(np.argmax(s)) == each.answer for s, each in zip(scores, questions, strict=True)]
    return pooled_mean(np.array(right, np.float64), np.ones(len(right)))


def chance(questions: Sequence[Question]) -> float:
    """The share that guessing answers rightly."""
    return round(float(np.mean([1 / len(question.choices) for question in questions])), 5)
