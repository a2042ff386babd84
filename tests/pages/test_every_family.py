"""Every family on every page: recorded by the command, run live, cut, compared with itself."""

import os
from pathlib import Path

import pytest
from tiny import CAUSAL, SEQ2SEQ, save_tiny, tiny_model

from model.families.registry import routed
from tests.pages.ablation_page import lines, words
from tests.pages.opened import follow_link
from tests.pages.test_other_families import record, write_documents

NAMES = ("1_Token_routing", "2_Document_clusters", "3_Subset_ablation", "7_Routing_difference")
ROUTING, CLUSTERS, CUT, DIFFERENCE = (f"pages/{name}.py" for name in NAMES)


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_a_recorded_model_is_shown_run_cut_and_compared(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_documents(tmp_path / "documents")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path))
    save_tiny(family, tmp_path / "checkpoints" / "mine")
    record(tmp_path)
    said = {}
    opened = {page: follow_link(page) for page in ("", ROUTING, CLUSTERS, CUT, DIFFERENCE)}
    for page, at in opened.items():
        assert not at.exception and not at.error, page
        said[page] = words(at).replace("\\", "").replace("*", "")
    assert "half of this text's routing goes to" in said[ROUTING]
    assert "in float32 and mine in bfloat16 choose" in said[DIFFERENCE]
    if family in SEQ2SEQ:
        assert "loss" in said[CUT] or "cannot be cut" in said[CUT]
    elif family == "emo":  # curves of its own format are the page, and none are measured here
        assert "No subset curves have been measured yet" in said[CUT]
    else:
        assert "likelihood kept" in lines(opened[CUT])["document"]
    assert f"{len(routed(tiny_model(family)).layers)} layers" in said[""]
