"""The report of a page: what the page says, escaped, as one file."""

import json
import os
import re

from streamlit.testing.v1 import AppTest

from emo_viz.ui.shell.report_html import Shown, _ink, document, markdown
from emo_viz.ui.shell.report_table import table
from tests.pages.opened import follow_link, run, texts

ABLATION = "pages/3_Subset_ablation.py"
ROUTING = "pages/1_Token_routing.py"


def reported(at) -> dict:
    """What the browser is given to save."""
    at.button(key="frame_report").click()
    run(at)
    given = [json.loads(part.proto.bytes) for part in at.get("bidi_component")]
    return next(each for each in given if "plotly" in each)


def test_a_report_has_the_headline_the_figures_and_what_it_was_made_of(tiny_assets):
    at = follow_link(ABLATION, k="4")
    made = reported(at)
    page = made["html"]
    assert "<h1>Subset ablation</h1>" in page and made["name"] == "subset-ablation"
    assert page.count("data-figure role") == len(at.get("plotly_chart"))
    assert "EMO (emo-nano, weights " in page
    assert "<tr><th>k</th><td>4</td></tr>" in page


def test_a_report_has_the_text_of_the_document_and_its_markup_is_text(tiny_assets):
    page = reported(follow_link(ROUTING))["html"]
    assert 'class="strip"' in page and "onclick='" not in page


def test_a_report_of_figures_brings_what_draws_them(tiny_assets):
    at = follow_link("")
    made = reported(at)
    assert made["html"].count("data-figure role") == len(at.get("plotly_chart")) > 0
    assert len(made["plotly"]) > 1_000_000


def test_a_report_is_made_once(tiny_assets):
    at = follow_link(ABLATION, k="4")
    reported(at)
    run(at)
    assert not any("plotly" in json.loads(one.proto.bytes) for one in at.get("bidi_component"))


def test_a_page_that_ends_early_says_that_it_has_no_report(monkeypatch, tmp_path):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path))  # nothing is there
    at = follow_link(ABLATION)
    at.button(key="frame_report").click()
    assert "No report: this page ends early" in texts(run(at))


def test_markdown_is_escaped_and_its_signs_are_gone():
    made = markdown("#### A <b>\\*plain\\*</b> **bold** :material/home: [link](javascript:x)")
    assert made == "<h4>A &lt;b&gt;*plain*&lt;/b&gt; <strong>bold</strong>  link</h4>"


def small_table() -> None:
    import pandas as pd
    import streamlit as st

    frame = pd.DataFrame({"<a>": ["<b>" + "x" * 90, None], "s": [57.8066, None]})
    frame["p"], frame["n"], frame["h"] = [0.0157, 1.0], [1234, 5], [1, 2]
    frame["f"], frame["l"] = [-0.00001, 1 / 3], [1234.56789, 5.0]
    config = {
        "s": st.column_config.NumberColumn("Share", format="%.1f %%"),
        "p": st.column_config.NumberColumn(format="percent"),
        "n": st.column_config.NumberColumn(format="localized"),
        "l": st.column_config.NumberColumn(format="localized"),
        "h": None,
    }
    st.dataframe(frame, column_config=config, hide_index=True)


def test_a_table_has_the_headings_and_numbers_of_the_page():
    at = AppTest.from_function(small_table).run()
    made = table(at.dataframe[0].proto)
    cells = re.findall("<t[hd]>(.*?)</t[hd]>", made)
    assert cells == [
        *["&lt;a&gt;", "Share", "p", "n", "f", "l"],
        *["&lt;b&gt;" + "x" * 90, "57.8 %", "1.57%", "1,234", "0", "1,234.568"],
        *["\u2013", "\u2013", "100%", "5", "0.3333", "5"],
    ]


def test_title_and_facts_are_escaped():
    page = document("<i>", Shown(), [("<k>", '"<script>"')])
    assert "<i>" not in page and "&lt;k&gt;" in page and '"<script>' not in page


def test_text_on_a_token_can_be_read():
    assert _ink("rgba(169, 42, 179, 1.000)") == "#ffffff"
    assert _ink("rgba(169, 42, 179, 0.100)") == "#000000" == _ink("#1f98ed") == _ink("transparent")
