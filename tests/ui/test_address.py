"""What a link may ask for: each kind takes its own values and nothing else, whatever is written."""

import pytest

from emo_viz.ui.shell.address import MOST_DIGITS, Kind, checked, one_of, several_of, whole_number

LAYER = one_of("layer", range(4))
METHOD = one_of("method", ["a", "b"], {"a": "Router probability", "b": "Random"}.__getitem__)
TOKEN = whole_number("token", 1, 512)
DOMAINS = several_of("domain", ["chess", "law", "code_go"], most=2)
CODE = checked("The link selects what is not here.", lambda text: {"x": "x"}.get(text) or refuse())
SINGLE: dict[str, Kind] = {"layer": LAYER, "method": METHOD, "token": TOKEN, "code": CODE}
NASTY = [
    "", " ", "Infinity", "-Infinity", "inf", "NaN", "nan", "1e999", "1e0", "-1", "0.5", "3.0", "+3",
    " 3", "3 ", "03", "1_0", "0x3", "³", "٣", "３", "9" * 400, "1" * (MOST_DIGITS + 1), "4000",
    "true", "None", "null", "[]", "{asked}", "%s", "\x00", "\u202e3", "🙂", "<b>3</b>", "3\n",
    "A" * 100_000,
]  # fmt: skip


def refuse() -> str:
    raise ValueError


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("asked", NASTY, ids=[repr(text)[:20] for text in NASTY])
def test_what_cannot_be_used_is_named_in_one_short_sentence(name: str, asked: str):
    found = SINGLE[name].read([asked])
    assert found.value is None
    assert len(found.problem) < 400 and found.problem.endswith(".")
    assert "\n" not in found.problem and "<b>" not in found.problem


@pytest.mark.parametrize("asked", NASTY, ids=[repr(text)[:20] for text in NASTY])
def test_of_several_values_the_usable_ones_are_kept(asked: str):
    found = DOMAINS.read(["law", asked])
    assert found.value == ["law"]
    assert "asks for the domain" in found.problem


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (LAYER, [0, 3]),
        (METHOD, ["a", "b"]),
        (TOKEN, [1, 512]),
        (DOMAINS, [["law"], ["law", "code_go"]]),
        (CODE, ["x"]),
    ],
)
def test_what_is_written_is_read_again(kind: Kind, values: list):
    for value in values:
        found = kind.read(kind.write(value))
        assert found.value == value and not found.problem
        assert kind.fits(value)


def test_a_value_that_stands_there_twice_counts_once_and_two_values_are_none():
    assert LAYER.read(["2", "2"]).value == 2
    found = LAYER.read(["2", "3"])
    assert found.value is None
    assert found.problem == "The link gives more than one layer, 2 and 3; none of them is taken."


def test_no_more_values_than_the_widget_takes():
    found = DOMAINS.read(["law", "chess", "code_go"])
    assert found.value == ["law", "chess"] and "code\\_go" in found.problem


def test_of_many_values_that_cannot_be_used_the_sentence_says_how_many_there_are():
    found = DOMAINS.read(["tea", "sea", "pea", "lea", "law", "bea"])
    assert found.value == ["law"]
    assert "tea and sea and pea and 2 more" in found.problem


def test_values_of_which_none_can_be_used_are_no_choice():
    found = DOMAINS.read(["tea"])
    assert found.value is None and "tea" in found.problem


def test_what_is_asked_for_is_shown_as_text():
    found = METHOD.read(["[here](javascript:alert(1)) :red[x] $x$ `{asked}` {0}"])
    assert "\\[here\\]\\(" in found.problem and "\\:red" in found.problem


@pytest.mark.parametrize("value", [0, 513, "3", 2.0, None])
def test_a_number_of_another_text_does_not_fit(value):
    assert not TOKEN.fits(value)


@pytest.mark.parametrize("asked", [["law,chess"], ["law", "chess"], ["law,chess", "law"]])
def test_several_options_may_stand_in_one_value(asked: list[str]):
    found = DOMAINS.read(asked)
    assert found.value == ["law", "chess"] and not found.problem


def test_what_is_unknown_and_what_is_too_much_are_two_sentences():
    found = DOMAINS.read(["law,tea"])
    assert found.value == ["law"]
    assert found.problem == "The link asks for the domain tea, which is not here and left out."
    found = DOMAINS.read(["law", "tea", "sea", "chess", "code_go"])
    assert found.value == ["law", "chess"]
    assert found.problem == (
        "The link asks for the domains tea and sea, which are not here and left out. "
        "The link asks for more than the 2 domains that can be chosen; left out: code\\_go."
    )
