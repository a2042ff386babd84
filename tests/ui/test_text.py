"""Text made safe and numbers made readable."""

import pytest

from emo_viz.ui.shell import words


def test_controls_and_direction_marks_become_visible():
    assert words.visible("a\nb\tc\x07d\u202ee") == "a↵b⇥c␇d\ufffde"


def test_joined_emoji_and_scripts_are_left_alone():
    family = "👩\u200d👧 שלום नमस्ते"
    assert words.visible(family) == family


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (" the", "␣the"),
        ("   ", "␣␣␣"),
        ("", "∅"),
        ("x " * 20, "x x x x x x x x x x x x…"),
        ("\u3000、", "␣、"),
        ("\u2003", "␣"),
        ("\u2028", "␣"),
        ("\u200d", "U+200D"),
        (" \u200c\u3164", "␣U+200C U+3164"),
        ("\U000e0067", "U+E0067"),
    ],
)
def test_no_token_is_without_a_label_that_can_be_seen(token: str, label: str):
    assert words.token_label(token) == label


@pytest.mark.parametrize("text", ["\u06dd", "\u0600١", "🏴\U000e0067\U000e0062\U000e007f"])
def test_format_characters_that_are_drawn_are_no_faults(text: str):
    assert words.visible(text) == text


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("one and two", 5, "one…"),
        ("e\u0301" * 9, 6, "e\u0301e\u0301…"),
        ("क्षत्रिय", 6, "क्ष…"),
        ("a👩\u200d👧 b", 4, "a…"),
        ("ab👍🏽 b", 4, "ab…"),
        ("a🇩🇪 bcd", 3, "a…"),
        ("กกำ ดำ", 3, "ก…"),
        ("한\u1112\u1161\u11ab둘", 4, "한…"),
        ("a" + "\u0301" * 40, 9, "a" + "\u0301" * 7 + "…"),
    ],
)
def test_what_is_shortened_ends_with_a_whole_letter(text: str, limit: int, shown: str):
    assert words.shorten(text, limit) == shown


def test_the_direction_of_a_text_is_that_of_most_of_its_letters():
    assert words.direction("word: שלום, עולם (1)") == "rtl"
    assert words.direction("the word שלום") == "ltr"
    assert words.direction("日本 12") == words.direction("12, 13") == "ltr"


def test_html_is_escaped():
    assert words.escape_html("<i a='b'>&") == "&lt;i a=&#x27;b&#x27;&gt;&amp;"


def test_markdown_is_escaped():
    assert words.escape_markdown("*a* [b](c) $d$ :e:") == r"\*a\* \[b\]\(c\) \$d\$ \:e\:"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (400, "0.1 MB"),
        (15_460_000, "15.5 MB"),
        (999_999_999, "1000.0 MB"),
        (13_800_000_000, "13.8 GB"),
    ],
)
def test_bytes_of_weights_in_words(size: int, said: str):
    assert words.stored(size) == said


def test_numbers():
    assert words.count(1, "token") == "1 token"
    assert words.count(1234, "token") == "1,234 tokens"
    assert [words.share(x) for x in (0.004, 0.634)] == ["0.4 %", "63 %"]
    assert [words.compact(x) for x in (950, 12_300, 4.1e6, 13.6e9)] == [
        "950",
        "12.3 k",
        "4.1 M",
        "13.6 B",
    ]


def test_what_is_cut_off_is_counted():
    assert words.rest_cut(7) == "; the 7 tokens that follow are cut off"
    assert words.rest_cut(0) == ""


@pytest.mark.parametrize(
    ("shown", "escaped"),
    [
        ("<b>", "&lt;b&gt;"),
        ("&quot;", "&amp;quot;"),
        ('"it\'s"', '"it\'s"'),
        ("a\nb", "a↵b"),
        ("%{x} $x$", "%{x} $x$"),
    ],
)
def test_plotly_shows_what_is_escaped_for_it(shown: str, escaped: str):
    assert words.escape_plotly(shown) == escaped


@pytest.mark.parametrize(
    "shown", ["&lt;", ":red[x]", ":material/home:", "[x](javascript:1)", "*a*", "$x$", "~~a~~"]
)
def test_markdown_of_others_stays_text(shown: str):
    signs = "&:[]()*$~"
    escaped = words.escape_markdown(shown).replace(words.WORD_JOINER, "")
    assert escaped == "".join(f"\\{letter}" if letter in signs else letter for letter in shown)


def test_text_from_right_to_left_keeps_to_itself():
    for escape in (words.escape_html, words.escape_markdown, words.escape_plotly):
        assert escape("שלום") == "\u2068שלום\u2069"
        assert escape("مرحبا") == "\u2068مرحبا\u2069"
        assert escape("soil") == "soil"


def test_a_mark_without_its_letter_stands_on_a_circle():
    assert words.token_label("\u0301a") == "◌\u0301a"
    assert words.token_label("ั") == "◌ั"


def test_no_icon_is_made_of_a_text():
    shown = words.escape_markdown("at :material/home: 12:30 :e:").replace("\\", "")
    assert shown == f"at :{words.WORD_JOINER}material/home: 12:30 :e:"


def test_a_sentence_of_the_app_has_its_commands_as_code_and_the_rest_as_text():
    said = words.with_commands("No *x* at `y`; write it with `python -m emo_viz curves --keep`.")
    assert said.endswith("; write it with `python -m emo_viz curves --keep`\\.")
    assert r"\*x\* at \`y\`" in said
