"""python -m emo_viz documents: balanced, open, held-out, and calibration apart from evaluation."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from emo_viz.__main__ import main
from emo_viz.trace.selection import COLUMNS, choose_documents, cut_text

FILES = ["ATTRIBUTION.md", "calibration.parquet", "documents.parquet"]
WORDS = ["soil", "flour", "tide", "rope", "oven", "seeds", "water", "sugar", "anchor", "bake"]


def rows_of(domain: str, count: int, rng: np.random.Generator, **changes: object) -> list[dict]:
    """Documents of 45 to 90 words; every parent has three parts."""
    return [
        {
            "id": f"{domain}-{number}",
            "domain": domain,
            "source": f"package-{domain}",
            "licence": "MIT | CC0",
            "rights": "open",
            "parent": f"{domain}-parent-{number // 3}",
            "part": number % 3,
            "split": "heldout",
            "text": " ".join(rng.choice(WORDS, int(rng.integers(45, 91)))),
        }
        | changes
        for number in range(count)
    ]


@pytest.fixture(scope="session")
def corpus() -> pd.DataFrame:
    """Four domains with enough; one too small; training and research rows that must stay out."""
    rng = np.random.default_rng(0)
    rows = [row for domain in "abcd" for row in rows_of(domain, 40, rng)]
    rows += rows_of("small", 9, rng)
    rows += [{**row, "id": f"t-{row['id']}"} for row in rows_of("a", 40, rng, split="train")]
    rows += rows_of("secret", 40, rng, rights="research")
    return pd.DataFrame(rows)


@pytest.fixture
def choose(corpus, tokenizer):
    def run(table=corpus, seed=0, max_tokens=64):
        return choose_documents(
            table, tokenizer, evaluation=9, calibration=4, max_tokens=max_tokens, seed=seed
        )

    return run


def tokens_of(tokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_every_domain_has_its_quota(choose):
    selection = choose()
    assert selection.evaluation["domain"].value_counts().to_dict() == dict.fromkeys("abcd", 9)
    assert selection.calibration["domain"].value_counts().to_dict() == dict.fromkeys("abcd", 4)
    assert selection.left_out == {"small": 9}
    assert selection.without_rights == {"research": 40}
    assert list(selection.evaluation.columns) == list(selection.calibration.columns) == COLUMNS


def test_only_held_out_open_documents(choose, corpus):
    selection = choose()
    allowed = corpus[(corpus["split"] == "heldout") & (corpus["rights"] == "open")]
    chosen = [*selection.evaluation["id"], *selection.calibration["id"]]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(allowed["id"])


def test_no_parent_is_on_both_sides(choose):
    selection = choose()
    assert not set(selection.evaluation["parent"]) & set(selection.calibration["parent"])


def test_one_document_of_each_parent_before_a_second(choose):
    # 40 documents have 14 parents, of which evaluation is dealt nine or ten: enough for nine.
    assert choose().evaluation["parent"].is_unique


def test_a_large_parent_does_not_cost_the_domain(choose):
    """One parent with most documents, as a book in a library, still leaves both sides full."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rows_of("a", 36, rng, text=" ".join(WORDS * 9)))
    table.loc[:29, "parent"] = "the book"
    for seed in range(5):
        selection = choose(table, seed=seed)
        assert selection.left_out == {}
        sides = selection.evaluation, selection.calibration
        assert sorted("the book" in set(side["parent"]) for side in sides) == [False, True]


def test_the_seed_decides(choose, corpus):
    first, again, other = choose(), choose(corpus), choose(seed=1)
    pd.testing.assert_frame_equal(first.evaluation, again.evaluation)
    pd.testing.assert_frame_equal(first.calibration, again.calibration)
    assert set(first.evaluation["id"]) != set(other.evaluation["id"])
    # Of the parents as of their parts: neither the first parents nor all first parts.
    assert set(first.calibration["parent"]) != set(other.calibration["parent"])
    assert set(first.evaluation["part"]) == {0, 1, 2}


def test_first_rows_are_balanced_too(choose):
    assert choose().evaluation["domain"].head(8).tolist() == [*"abcd", *"abcd"]


def test_short_documents_are_skipped(choose, corpus, tokenizer):
    table = corpus.copy()
    short = table.index % 2 == 0
    table.loc[short, "text"] = "soil flour"
    selection = choose(table)
    lengths = [tokens_of(tokenizer, text) for text in selection.evaluation["text"]]
    assert min(lengths) >= 40


def test_texts_are_cut_to_the_token(choose, corpus, tokenizer):
    evaluation = choose().evaluation
    whole = corpus.drop_duplicates("id").set_index("id")["text"]
    assert (evaluation["cut_tokens"] > 0).any() and (evaluation["cut_tokens"] == 0).any()
    for row in evaluation.itertuples():
        assert whole[row.id].startswith(row.text)
        kept = tokens_of(tokenizer, row.text)
        assert kept <= 63
        assert kept + row.cut_tokens == tokens_of(tokenizer, whole[row.id])
        assert row.cut_tokens == 0 or kept == 63


@pytest.mark.parametrize("max_tokens", range(2, 40))
def test_a_cut_inside_a_character_or_a_word_stays_within_bounds(tokenizer, max_tokens):
    text = "水 flour unseen-words<|endoftext|> 鯨鯨 🐋 anchor  \n\n soil"
    start, cut_tokens = cut_text(tokenizer, text, max_tokens)
    kept = len(tokenizer(start, split_special_tokens=True)["input_ids"])
    assert text.startswith(start)
    assert kept <= max_tokens - 1
    assert kept + cut_tokens == len(tokenizer(text, split_special_tokens=True)["input_ids"])


# The command


@pytest.fixture
def corpus_folder(corpus, tokenizer, tmp_path):
    folder = tmp_path / "corpus"
    tokenizer.save_pretrained(folder / "tokenizer")
    corpus.to_parquet(folder / "documents.parquet")
    manifest = {"format": "emo-viz-corpus", "format_version": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def run(corpus_folder, tmp_path):
    def invoke(**changes: object) -> Result:
        options = {
            "corpus": corpus_folder,
            "out": tmp_path / "out",
            "per-domain": 9,
            "calibration-per-domain": 4,
        }
        given = (options | changes).items()
        named = [f"--{name}={value}" for name, value in given if value is not None]
        return CliRunner().invoke(main, ["documents", *named])

    return invoke


def test_writes_both_tables_and_the_attribution(run, tmp_path, choose):
    result = run()
    assert result.exit_code == 0, result.output
    assert "36 documents and 16 calibration documents of 4 domains (9 and 4 of each)" in (
        result.output
    )
    assert "too few held-out documents of different parents: small (9)." in result.output
    assert "Left out: 40 of rights research (--rights takes them too)." in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    selection = choose(max_tokens=256)
    for name, expected in (
        ("documents", selection.evaluation),
        ("calibration", selection.calibration),
    ):
        table = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    text = (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    for domain in "abcd":
        assert f"\n| {domain} | package-{domain} | MIT \\| CC0 | 9 | 4 |\n" in text


def test_too_large_a_choice_changes_nothing(run, tmp_path):
    assert run().exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    result = run(seed=3, **{"max-megabytes": 0.0001})
    assert result.exit_code == 2
    assert "choose fewer with --per-domain, or allow more with --max-megabytes" in result.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"per-domain": 40}, "No domain has the 40 documents and 4 calibration documents"),
        ({"per-domain": 40}, "the largest, a, has 40."),
        ({"rights": "secret"}, "has none but 169 of rights open, 40 of rights research"),
        ({"corpus": "no/such/corpus"}, "does not exist or was not finished"),
        ({"out": "/dev/null/out"}, "/dev/null/out/documents.parquet cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, tmp_path, changes, sentence):
    result = run(**changes)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("Error") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_table_of_documents(run, corpus_folder, corpus):
    path = corpus_folder / "documents.parquet"
    for damage in (
        lambda: path.write_bytes(b"PAR1"),
        lambda: corpus.drop(columns="rights").to_parquet(path),
    ):
        damage()
        result = run()
        assert result.exit_code == 2
        assert "run python -m model.data build again" in result.stderr


# One's own documents


def own_corpus(corpus_folder, counts: dict[str, int], **changes: object) -> None:
    rng = np.random.default_rng(2)
    rows = [row for name, count in counts.items() for row in rows_of(name, count, rng, **changes)]
    table = pd.DataFrame(rows).assign(rights="own", licence="", parent=lambda rows: rows["id"])
    table.to_parquet(corpus_folder / "documents.parquet")


SMALL = {"per-domain": None, "calibration-per-domain": None}


def test_a_few_own_documents_are_shared_out_so_that_the_most_stay(run, corpus_folder, tmp_path):
    own_corpus(corpus_folder, {"tea": 5, "rum": 4, "ale": 1})
    result = run(**SMALL)
    assert result.exit_code == 0, result.output
    assert "6 documents and 2 calibration documents of 2 domains (3 and 1 of each)" in result.output
    assert "of different parents: ale (1)." in result.output
    assert (
        "| tea | package-tea | not stated | 3 | 1 |"
        in (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    )


def test_no_more_than_the_bundles_numbers_are_taken_by_default(run, corpus_folder):
    own_corpus(corpus_folder, {"tea": 90})
    assert "48 documents and 16 calibration documents of 1 domains" in run(**SMALL).output
    asked = run(**SMALL | {"per-domain": 60})
    assert "60 documents and 20 calibration documents of 1 domains" in asked.output


def test_documents_that_are_too_few_for_two_sides_are_said_with_the_numbers(run, corpus_folder):
    own_corpus(corpus_folder, {"tea": 1, "rum": 1})
    result = run(**SMALL)
    assert result.exit_code == 2
    assert "No domain has the 1 documents and 1 calibration documents" in result.stderr
    assert "the largest, rum, has 1. Choose smaller numbers, or build" in result.stderr


def test_other_rights_are_taken_where_asked_for(run, corpus):
    result = run(rights="open,research")
    assert "45 documents and 20 calibration documents of 5 domains" in result.output


def test_what_is_not_there_as_a_whole_is_counted(run, corpus_folder):
    own_corpus(corpus_folder, {"tea": 30}, text=" ".join(WORDS * 40))
    table = pd.read_parquet(corpus_folder / "documents.parquet")
    table.loc[table.index[:5], "text"] = "soil flour"
    table.to_parquet(corpus_folder / "documents.parquet")
    said = run(**SMALL).output
    assert "Left out, under 40 tokens: 5 documents." in said
    assert re.search(r"Cut to 255 tokens: 2\d documents, by [\d,]+ in all\.", said)


def test_words_with_bars_and_line_ends_stay_in_their_cell(run, corpus_folder, tmp_path):
    own_corpus(corpus_folder, {"tea": 8}, source="a\n| b")
    assert run(**SMALL).exit_code == 0
    text = (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    assert "| tea | a \\| b | not stated |" in text


# How much of a document was seen in training


def test_documents_say_how_much_of_them_training_has_seen(
    run, corpus_folder, corpus, tokenizer, tmp_path
):
    """Of the text as it is shown; half of every second held-out document is in training."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    held = corpus.loc[corpus["split"] == "heldout", "text"]
    train = [ids(text) for text in corpus.loc[corpus["split"] == "train", "text"]]
    train += [ids(text)[: len(ids(text)) // 2] for text in held[::2]]
    stream = np.array([token for own in train for token in (tokenizer.eos_token_id, *own)], "<u2")
    stream.tofile(corpus_folder / "train.bin")
    np.save(corpus_folder / "train.offsets.npy", np.cumsum([0, *(len(own) + 1 for own in train)]))
    index = pd.DataFrame({"id": range(len(train)), "domain": "a"})
    index.to_parquet(corpus_folder / "train.index.parquet")
    result = run()
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(tmp_path / "out/documents.parquet")
    known = {tuple(own[at : at + 20]) for own in train for at in range(len(own) - 19)}
    for text, seen in zip(table["text"], table["seen"], strict=True):
        own = ids(text)
        slow = [tuple(own[at : at + 20]) in known for at in range(len(own) - 19)]
        assert seen == pytest.approx(np.mean(slow) if slow else 0)
    assert 0 < table["seen"].mean() < 0.5
    over = (table["seen"] > 0.5).sum()
    assert f"Training has seen under 1\u00a0% of {(table['seen'] < 0.01).sum()} documents and " in (
        result.output
    )
    assert f"over half of {over}, by" in result.output
    calibration = pd.read_parquet(tmp_path / "out/calibration.parquet")
    assert list(calibration.columns) == COLUMNS
