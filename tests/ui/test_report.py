"""The report of a page: what the page says, escaped, as one file."""

import json
import os
import re

from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.testing.v1 import AppTest

from emo_viz.ui.shell.report_html import Shown, document, markdown
from emo_viz.ui.shell.report_own import own_html
from emo_viz.ui.shell.report_table import table
from emo_viz.ui.shell.words import BY_HAND, by_hand, escape_markdown
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
    at = follow_link(ABLATION, k="4", subset_text="of no use")
    made = reported(at)
    page = made["html"]
    assert "<h1>Subset ablation</h1>" in page and made["name"] == "subset-ablation"
    assert page.count("data-figure role") == len(at.get("plotly_chart"))
    assert "EMO (emo-nano, weights " in page
    # Also what is at its default and so not in the address; no code that only the app can read.
    for name, value in (("Experts kept", "4"), ("Domain", "All domains"), ("Method", "Router")):
        assert f"<tr><th>{name}</th><td>{value}" in page
    assert "of no use" not in page


def test_a_report_has_a_place_for_what_only_the_browser_has(tiny_assets):
    page = reported(follow_link(ROUTING))["html"]
    assert '<figure data-key="routing_' in page and "onclick='" not in page


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


def test_what_is_done_by_hand_is_left_out_and_whatever_a_text_says_stays():
    said = f"**24 documents**{by_hand('; press Open in a row to read it')}. {by_hand('Click.')}"
    assert markdown(said) == "<p><strong>24 documents</strong>.</p>"
    assert markdown(by_hand("Other tokens that hold it:")) == ""
    forged = escape_markdown(f"Press {BY_HAND}freedom{BY_HAND}")
    assert "freedom" in markdown(forged) and "freedom" in markdown(escape_markdown("freedom"))


def test_a_long_table_says_how_long_it_is_and_where_all_of_it_is():
    def long_table() -> None:
        import streamlit as st

        st.dataframe({"n": list(range(1152))}, hide_index=True)

    made = table(AppTest.from_function(long_table).run().dataframe[0].proto)
    assert made.count("<tr") == 501
    assert "The first 500 of 1,152 rows; Export on the page saves all of them as CSV." in made


def test_a_control_of_a_page_is_said_once_and_none_of_a_text_that_is_not_open(tiny_assets):
    page = reported(follow_link("pages/2_Document_clusters.py"))["html"]
    names = re.findall("<tr><th>(.*?)</th>", page.split("What this was made of")[1])
    assert "Colouring" in names and len(names) == len(set(names))
    assert "Colouring of the text" not in names


def test_of_a_page_s_own_html_texts_and_looks_are_left():
    made = own_html(
        '<style>b {}</style><div style="color:red" onclick="x()" class="y">a &lt;i&gt;<br>'
        '<script>"no"</script><img src=x onerror=y><span style="background:url(x)" title="&quot;">'
        "b</span></div>"
    )
    assert made == ('<div style="color:red">a &lt;i&gt;<br><span title="&quot;">b</span></div>')
    assert own_html("<style>b {}</style>") == "" == own_html("<div></div>")


def test_the_places_of_files_are_no_part_of_a_report(tmp_path):
    lies = tmp_path / "runs" / "mine"
    said = markdown(
        f"It lies in {escape_markdown(str(lies))} (EMO\\_VIZ), 3 tokens/s/x, /a/b, **x**."
    )
    long = f"/{'x' * 300}/y"
    assert markdown(f"At {long}.") == f"<p>At {long}.</p>", "no disk has such a name"
    assert said == "<p>It lies in …/mine (EMO_VIZ), 3 tokens/s/x, /a/b, <strong>x</strong>.</p>"


def small_table() -> None:
    import pandas as pd
    import streamlit as st

    frame = pd.DataFrame({"<a>": ["<b>" + "x" * 90, None], "s": [57.8066, None]})
    frame["p"], frame["n"], frame["h"] = [0.0157, 1.0], [1234, 5], [1, 2]
    frame["f"], frame["l"] = [-0.00001, 1 / 3], [1234.56789, 5.0]
    frame["w"] = ['Search?x="1"&y=2', None]
    frame["b"] = ":material/open_in_new:"
    frame.index = [7, 9]
    config = {
        "b": st.column_config.ButtonColumn(key="pressed", on_click=lambda: None),
        "s": st.column_config.NumberColumn("Share", format="%.1f %%"),
        "p": st.column_config.NumberColumn(format="percent"),
        "n": st.column_config.NumberColumn(format="localized"),
        "l": st.column_config.NumberColumn(format="localized"),
        "h": None,
        "w": st.column_config.LinkColumn("Where", display_text="Open"),
    }
    st.dataframe(frame, column_config=config, hide_index=True)


def test_a_table_has_the_headings_and_numbers_of_the_page():
    at = AppTest.from_function(small_table).run()
    made = table(at.dataframe[0].proto)
    cells = re.findall("<t[hd]>(.*?)</t[hd]>", made)
    assert cells == [
        *["&lt;a&gt;", "Share", "p", "n", "f", "l", "Where"],
        *["&lt;b&gt;" + "x" * 90, "57.8 %", "1.57%", "1,234", "0", "1,234.568"],
        '<a href="Search?x=&quot;1&quot;&amp;y=2">Open</a>',
        *["\u2013", "\u2013", "100%", "5", "0.3333", "5", "\u2013"],
    ]


def test_a_link_to_a_page_is_one_until_the_browser_knows_better():
    element = Element()
    element.page_link.page, element.page_link.query_string = "Search", 'a=1&b="'
    element.page_link.label = "**Find** <it>"
    shown = Shown()
    message = ForwardMsg()
    message.metadata.delta_path[:] = [0, 0]
    message.delta.new_element.CopyFrom(element)
    shown.take(message)
    page = document("x", shown, [])
    link = '<a href="Search?a=1&amp;b=&quot;"><strong>Find</strong> &lt;it&gt;</a>'
    assert f"<p data-link>{link}</p>" in page


def test_title_and_facts_are_escaped():
    page = document("<i>", Shown(), [("<k>", '"<script>"')])
    assert "<i>" not in page and "&lt;k&gt;" in page and '"<script>' not in page
