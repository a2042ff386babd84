"""Search finds every place, counts what it lists, and takes nothing for SQL or for a pattern."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.search import TextIndex, line, position_at
from emo_viz.analysis.search_tokens import (
    RecordedTokens,
    TokenizedTexts,
    expert_counts,
    expert_tokens,
)
from emo_viz.runs.record import Options, record
from emo_viz.trace import Trace
from model.run.inference import encode
from model.run.loading import load_tokenizer

TEXTS = [
    "The fox met a Fox.\nfoxes met the  red\nfox; re-fox foxé",
    "<b>100 % of 'it'</b> (a.c) abc",
    "Straße und STRASSE, été",
    "",
]


@pytest.fixture(scope="module")
def index() -> TextIndex:
    return TextIndex(
        pd.DataFrame(
            {
                "id": ["a1", "b'2", "c3", "d4"],
                "domain": ["zoo", "web", "web", None],
                "parent": ["Of foxes", None, "100%_", "x"],
                "source": ["s", "s", None, "t"],
                "text": [*TEXTS[:3], None],
            }
        )
    )


def found(index: TextIndex, *query) -> list[tuple[int, str]]:
    hits = index.words(*query)
    places = zip(hits.rows, hits.starts, hits.ends, strict=True)
    return [(int(row), TEXTS[row][start:end]) for row, start, end in places]


def test_words_are_whole_or_not_and_of_any_case_or_one(index: TextIndex):
    assert [hit for _, hit in found(index, "fox")] == ["fox", "Fox", "fox", "fox"]
    assert [hit for _, hit in found(index, "fox", True, True)] == ["fox", "fox", "fox"]
    assert len(found(index, "fox", False)) == 6  # foxes, foxé
    assert found(index, "ÉTÉ") == [(2, "été")]


@pytest.mark.parametrize(
    ("text", "query", "times"),
    [
        ("春風や、春風の日。", "春風", 2),
        ("ภาษาไทยเป็นภาษา", "ไทย", 1),
        ("A日本 AB日本", "A", 1),
        ("हिन्दी में हि न", "हि", 1),
        ("हिन्दी", "हिन्", 0),
        ("كِ كِتاب", "كِ", 1),
        ("น้ำ", "น", 0),  # the mark is of its letter, whatever the script
        ("e\u0301t, et", "e", 0),
        ("❤\ufe0f fox_b", "❤", 1),
        ("xa a a", "a a", 1),  # not lost to the one before it, which begins inside a word
    ],
)
def test_words_of_every_script_are_whole(text: str, query: str, times: int):
    documents = pd.DataFrame({"id": ["one"], "text": [text]})
    hits = TextIndex(documents).words(query)
    assert len(hits) == times
    assert {text[hits.starts[n] : hits.ends[n]] for n in range(times)} <= {query}


def test_a_phrase_goes_over_any_white_space(index: TextIndex):
    assert found(index, " red   fox ") == [(0, "red\nfox")]
    assert found(index, "the red") == [(0, "the  red")]
    assert found(index, "red met") == []


@pytest.mark.parametrize("query", ["a.c", "(a.c)", "100 %", "'it'", "<b>100", "' or 1=1 --", "\\w"])
def test_signs_are_only_signs(index: TextIndex, query: str):
    expected = [(row, query) for row, text in enumerate(TEXTS) for _ in range(text.count(query))]
    assert found(index, query) == expected


def test_blank_finds_nothing(index: TextIndex):
    assert len(index.words(" \n ")) == 0


def test_documents_by_id_title_and_source(index: TextIndex):
    assert index.documents("B'2").rows.tolist() == [1]
    assert index.documents("%_").rows.tolist() == [2]
    assert index.documents("of fox").rows.tolist() == [0]
    assert index.documents("s").rows.tolist() == [0, 1]
    assert index.facts["title"].tolist() == ["Of foxes", "b'2", "100%_", "x"]


def test_domains_are_exact_before_they_are_alike(index: TextIndex):
    assert index.domains == ["web", "zoo"]
    assert index.of_domain(" Web ").rows.tolist() == [1, 2]
    assert index.of_domain("o").rows.tolist() == [0]
    both = index.words("a", False)
    assert sum(number for _, number in index.by_domain(both)) == len(both)
    assert set(index.in_domain(both, "web").rows) == {1, 2}


def test_a_line_has_its_context_and_its_token(index: TextIndex):
    hits = index.words("red fox")
    shown = line(index, hits, 0, re.findall(r"\s*\S+", TEXTS[0]))
    assert (shown.before[-5:], shown.hit, shown.after) == ("the  ", "red\nfox", "; re-fox foxé")
    assert shown.position == 9 and line(index, hits, 0, None).position is None
    assert [position_at(["ab", "", "c"], place) for place in range(4)] == [1, 1, 3, None]


@pytest.fixture(scope="module")
def trace(tiny_assets: Path, tmp_path_factory) -> Trace:
    """The tiny documents token by token."""
    documents = pd.read_parquet(tiny_assets / "documents" / "documents.parquet")
    checkpoint = str(tiny_assets / "checkpoints" / "emo-nano")
    out = tmp_path_factory.mktemp("recorded") / "tokens"
    return record(checkpoint, documents, out, Options(level="tokens"))


@pytest.fixture(scope="module")
def tokenized(trace: Trace, tiny_assets: Path) -> TokenizedTexts:
    file = tiny_assets / "checkpoints" / "emo-nano" / "tokenizer.json"
    return TokenizedTexts(trace.documents["text"].tolist(), file)


def test_a_tokenizer_and_a_trace_say_the_same(trace: Trace, tokenized: TokenizedTexts):
    recorded = RecordedTokens(trace)
    assert tokenized.total == recorded.total == trace.manifest.tokens
    alike = recorded.alike("s")
    assert alike and alike == tokenized.alike("s")
    for piece in alike:
        one, other = recorded.find(piece.text), tokenized.find(piece.text)
        assert len(one) == piece.count > 0
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.positions, other.positions)
    assert recorded.pieces(3) == tokenized.pieces(3)


def test_tokens_are_those_that_the_model_reads(tokenized: TokenizedTexts, tiny_assets: Path):
    tokenizer = load_tokenizer(tiny_assets / "checkpoints" / "emo-nano")
    text = "<|endoftext|> soil ไทย\n the"
    own = TokenizedTexts([text], tiny_assets / "checkpoints" / "emo-nano" / "tokenizer.json")
    expected = encode(tokenizer, text, 500)
    assert own.pieces(0) == expected.texts[1:]
    assert own.total == len(expected.token_ids) - 1
    assert "".join(own.pieces(0)) == text


def test_an_expert_is_counted_alike_with_tokens_and_without(trace: Trace, tiny_assets: Path):
    short = Trace.open(tiny_assets / "traces" / "emo-nano")
    for layer, expert in ((0, 0), (1, 14)):
        counts = expert_counts(trace, layer, expert)
        np.testing.assert_array_equal(counts, expert_counts(short, layer, expert))
        hits = expert_tokens(trace, layer, expert)
        assert len(hits) == counts.sum() > 0
        row = int(hits.rows[0])
        uses = (trace.recorded(row).expert_ids[layer] == expert).any(axis=1)
        uses[0] = False
        np.testing.assert_array_equal(hits.positions[hits.rows == row], np.flatnonzero(uses))
