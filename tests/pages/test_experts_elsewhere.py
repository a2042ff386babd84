"""Experts and Domains of other families, and of recordings that another tool wrote."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from tiny import save_tiny

from emo_viz.runs.import_trace import Known, import_trace
from emo_viz.server.jobs import registry
from tests.pages.opened import charts, follow_link, run, texts
from tests.pages.test_domains import VIEWS
from tests.pages.test_experts import kwic, table
from tests.pages.test_other_families import record, write_documents

EXPERTS, DOMAINS = "pages/8_Experts.py", "pages/9_Domains.py"
FAMILIES = ("olmoe", "qwen3_moe", "deepseek_v3", "mixtral", "switch_transformers")


def words(at: AppTest) -> str:
    return texts(at).replace("\\", "")


def done(at: AppTest, button: str) -> AppTest:
    """The page once what a button starts has ended."""
    at.button(key=button).click()
    run(at)
    for job in registry().running().values():
        job.wait(600)
    return run(at)


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_of_other_families(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "documents")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path))
    save_tiny(family, tmp_path / "checkpoints" / "mine")
    record(tmp_path)
    rows = table(follow_link(EXPERTS))
    last = rows[rows["Layer"] == rows["Layer"].max()].iloc[0]
    expert = f"{last['Layer']}.{last['Expert']}"
    at = done(follow_link(EXPERTS, expert=expert), "gather_mine")
    assert len(kwic(at)) > 0 and "Partners" in words(at)
    at = done(at, "measure_effect")
    failed = " ".join(each.value for each in at.error).replace("\\", "")
    assert "without it the loss changes by" in words(at) or "The measurement failed:" in failed
    assert ("encoder-decoder" in failed or "cannot be cut" in failed) == (
        family == "switch_transformers"
    )
    for view in VIEWS:
        domains = follow_link(DOMAINS, domains_view=view)
        assert charts(domains) and not domains.error


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty answers of a server: ids alone, without texts, domains or weights."""
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "own"))
    rng, lines = np.random.default_rng(0), []
    for number in range(60):
        ids = 16 * (number % 3) + np.argsort(rng.random((30, 4, 16)), axis=2)[:, :, :4]
        lines.append({"id": f"c<b>{number}", "choices": [{"routed_experts": ids.tolist()}]})
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    import_trace(path, tmp_path / "own" / "traces" / "many", Known(num_experts=48))
    return tmp_path / "own"


def test_answers_of_a_server_without_texts_and_domains(answers: Path) -> None:
    at = follow_link(EXPERTS)
    assert "The recording has no domains" in words(at) and len(table(at)) == 4 * 48
    one = done(follow_link(EXPERTS, expert="2.17"), "gather_many")
    assert kwic(one)[0]["token"].startswith("token ") and "is a recording alone" in words(one)
    for view in VIEWS[:3]:
        assert "has no domains; record it" in words(follow_link(DOMAINS, domains_view=view))
    assert "tell **" in words(follow_link(DOMAINS, domains_view="Flow"))


def test_counts_alone_have_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "own"))
    (tmp_path / "c.csv").write_text("layer,expert,count\n0,0,30\n0,3,10\n2,1,5\n")
    import_trace(tmp_path / "c.csv", tmp_path / "own" / "traces" / "counts", Known())
    at = follow_link(EXPERTS)
    assert "enriched tokens, contexts and partners are not known" in words(at)
    rows = table(at)
    load = rows[(rows["Layer"] == 0) & (rows["Expert"] == 0)]["Load"].item()
    experts = (rows["Layer"] == 0).sum()
    assert load == pytest.approx(0.75 * experts, rel=1e-3)
    for view in VIEWS:
        follow_link(DOMAINS, domains_view=view)
    assert "nothing chose it" in words(follow_link(EXPERTS, expert="0.1"))
