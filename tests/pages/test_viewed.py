"""What the controls of a page hold, said of whatever is saved of it."""

import re

import streamlit as st

from emo_viz.ui.parts import export
from emo_viz.ui.parts.selection import Selection
from emo_viz.ui.shell import picture, viewed
from emo_viz.ui.shell.address import checked, one_of
from emo_viz.ui.shell.viewed import Control
from tests.pages.opened import follow_link


def test_a_control_is_a_part_of_a_sentence():
    said = [Control("", what, "2", False).said for what in ("layer", "experts kept", "smooth, %")]
    assert said == ["layer 2", "experts kept: 2", "smooth 2 %"]


def test_a_line_has_the_parts_that_are_of_all_of_a_page():
    parts = [{"said": "EMO"}, {"said": ""}, {"said": "layer 2", "only": "x"}, {"said": "EMO Viz"}]
    assert picture.joined(parts) == "EMO; EMO Viz"


def test_what_only_the_app_can_read_is_not_said():
    kind = checked("The link names {asked}.", str)
    selected = Selection("cluster_selection")._kind(["a", "b"], "documents")
    held = {"x": ("x", kind, "/a/path", ""), "y": ("y", selected, "bits-f4-eNqb", "")}
    st.session_state["address_held"] = held
    try:
        assert viewed.controls() == []
    finally:
        del st.session_state["address_held"]
    assert kind.read(["1", "2"]).problem.startswith("The link gives more than one value")


def lines(monkeypatch, page: str, **params: str) -> dict[str, str]:
    """What the exports of a page say of its controls, by their names."""
    seen, made = dict[str, str](), picture.line

    def line(*of):
        parts = made(*of)
        seen.update({part["name"]: part["said"] for part in parts if "name" in part})
        return parts

    monkeypatch.setattr("emo_viz.ui.parts.export.line", line)
    follow_link(page, **params)
    return seen


def test_what_a_view_is_of_is_said_at_its_default_and_the_rest_once_it_is_chosen(
    tiny_assets, everything_open, monkeypatch
):
    said = lines(monkeypatch, "pages/9_Domains.py")
    assert said["domains_layer"].startswith("layer ") and said["domains_view"] == ""
    said = lines(monkeypatch, "pages/9_Domains.py", domains_view="Kept", domains_k="4")
    assert said["domains_view"] == "view Kept" and said["domains_k"].endswith(" 4")
    assert not {"a", "b", "present"} & said.keys()
    assert viewed.controls() == []  # outside of a visit


def offered(monkeypatch, page: str) -> dict[str, str]:
    """By the name of an export, its line of provenance as its tables have it."""
    said, offer = dict[str, str](), export.offer

    def remember(name, runs=(), *, shown="", apart=(), **how):
        said[name] = picture.joined(picture.line(runs, shown, apart))
        offer(name, runs, shown=shown, apart=apart, **how)

    monkeypatch.setattr(export, "offer", remember)
    follow_link(page)
    return said


def test_of_controls_those_that_a_part_follows_are_said_of_it(tiny_assets, monkeypatch):
    kernels = offered(monkeypatch, "pages/4_Kernel.py")
    assert "layer All sizes" in kernels["kernels"] and "architecture" in kernels["kernels"]
    measured = kernels["measured kernels"]
    assert "architecture" not in measured and "layer All sizes" not in measured
    assert "NVIDIA H200; driver" in measured and re.search("; kernels [0-9a-f]{12};", measured)
    for name in ("kernel roofline", "kernel mask savings"):
        assert "architecture sm_90" in kernels[name] and "All sizes" not in kernels[name]
    assert "compiled by Triton 3" in kernels["kernel roofline"]


def test_the_findings_of_home_say_which_documents_they_are_of(tiny_assets, monkeypatch):
    held = {"home_seen": (one_of("set of documents", ["All", "New"]), "All", "All")}
    monkeypatch.setattr("emo_viz.ui.shell.links.held", lambda: held)
    (part,) = [each for each in picture.line([], "") if "name" in each]
    assert (part["said"], part["apart"]) == ("set of documents: All", "home_first")
    assert "set of documents: All" in picture.joined(picture.line([]))
    assert picture.joined(picture.line([], "", {"home_seen"})) == "EMO Viz"


def test_a_picture_of_all_layers_says_none_of_them(tiny_assets, everything_open, monkeypatch):
    page = "pages/1_Token_routing.py"
    said = lines(monkeypatch, page)
    assert said["routing_layer"] == "layer 1"
    assert said["routing_order"].endswith("By use in this text")
    said = lines(monkeypatch, page, routing_picture="All layers")
    assert said["routing_layer"] == "" and said["routing_picture"] == "picture All layers"
