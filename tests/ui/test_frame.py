"""Presenting, as the address says it."""

from tests.pages.opened import charts, follow_link, run, texts

PAGE = "pages/4_Kernel.py"


def large(at) -> bool:
    return any("font-size: 20px" in part.proto.body for part in at.get("html"))


def test_the_address_turns_it_on_and_a_bad_value_is_said(tiny_assets):
    assert large(follow_link(PAGE, present="1")) and not large(follow_link(PAGE, present="0"))
    at = follow_link(PAGE, present="<b>yes</b>")
    assert not large(at)
    assert "asks for the presentation" in texts(at) and "neither 1 nor 0" in texts(at)


def test_it_stays_from_page_to_page(tiny_assets):
    at = follow_link(PAGE, present="1")
    at.switch_page("pages/6_Library.py")
    assert large(run(at))
    assert at.query_params["present"] in ("1", ["1"])


def test_charts_grow_with_their_text(tiny_assets):
    heights = [
        charts(follow_link("pages/9_Domains.py", present=on))[0]["layout"]["height"] for on in "01"
    ]
    assert heights[1] == round(1.25 * heights[0])
