"""Which documents experts are matched by, when they are matched anew, and what is kept of it."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from emo_viz.ui.parts.few import Few
from emo_viz.ui.routing import matching


def documents(*domains: str) -> pd.DataFrame:
    """Thirty of each domain, one domain after the other."""
    rows = [(f"{domain}-{n}", domain, "text") for domain in domains for n in range(30)]
    return pd.DataFrame(rows, columns=["id", "domain", "text"])


def test_other_texts_under_the_same_ids_are_matched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path))
    models, table = [SimpleNamespace(key=key) for key in "ab"], documents("garden")
    path = tmp_path / "documents" / "documents.parquet"
    path.parent.mkdir()
    keys = []
    for text in ("one", "other", "one"):
        table.assign(text=text).to_parquet(path)
        keys.append(matching.of_models(models, table).key)
    assert keys[0] != keys[1] and keys[0] == keys[2]


def test_the_documents_of_two_traces_are_of_every_domain_in_turn():
    facts = documents("a", "b", "c")
    traces = [SimpleNamespace(facts=facts)] * 2
    common = [each for each in facts["id"] if each != "a-0"]
    ids = matching.of_traces("", traces, common, lambda document: None).ids
    assert len(ids) == matching.DOCUMENTS and "a-0" not in ids
    assert [sum(each.startswith(domain) for each in ids) for domain in "abc"] == [8, 8, 8]


def test_a_document_without_a_domain_has_its_turn():
    facts = documents("a", "b").assign(domain=lambda rows: rows["domain"].replace("b", None))
    ids = matching.of_traces("", [SimpleNamespace(facts=facts)] * 2, facts["id"], print).ids
    assert sum(each.startswith("b") for each in ids) == matching.DOCUMENTS / 2


def test_the_last_few_are_made_once():
    made: list[str] = []
    few = Few[list](2)
    for key in ("a", "b", "a", "c", "a"):
        few.of(key, lambda key=key: made.append(key) or [key])
    assert made == ["a", "b", "c", "a"]
