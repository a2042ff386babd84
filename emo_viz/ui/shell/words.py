"""Untrusted text made safe to show, and numbers made pleasant to read.

Text of documents and tokens may hold markup, control characters or marks that turn the writing
direction round. It is always shown as text: escaped for HTML or Markdown, controls made visible.
"""

import html
import re
import unicodedata
from collections.abc import Iterable

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.search import is_mark

_NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u200b": "∅", "\ufeff": "∅"}
# Format characters that turn nothing round: joiners hold emoji and Indic or Persian words together,
# some Arabic and Syriac ones are drawn, and tags say whose a flag is.
ZERO_WIDTH_JOINER = "\u200d"
_JOINERS = "\u200c" + ZERO_WIDTH_JOINER
_DRAWN = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
_TAGS = "".join(map(chr, range(0xE0020, 0xE0080)))
_FLAGS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))  # two letters of a country
# Vowels of Thai and Lao, later parts of Korean syllables, colours of skin: of what is before.
_LATER_PARTS = frozenset("\u0e33\u0eb3") | frozenset(
    map(chr, (*range(0x1160, 0x1200), *range(0x1F3FB, 0x1F400)))
)
_HARMLESS = frozenset(_JOINERS + _DRAWN + _TAGS)
_UNSEEN = frozenset(_JOINERS + _TAGS + "\u115f\u1160\u2800\u3164\uffa0")  # fillers, a blank
_RIGHT_TO_LEFT = ("R", "AL", "AN")
VIRAMA = 9  # the combining class of marks that join an Indic letter to the next one
OPENING_READ = 240  # characters of a text: more than any opening shows
DOTTED_CIRCLE = "\u25cc"
# Streamlit makes an icon of :material/home: even where its colons are escaped.
_ICON = re.compile(r":(?=material/)")
WORD_JOINER = "\u2060"  # takes no room and breaks no line
BY_HAND = "\u2063"
_DONE_BY_HAND = re.compile(f"{BY_HAND}[^{BY_HAND}]*{BY_HAND}")
SIGNS_OF_MARKDOWN = re.compile(r"\\(.)|:material/\w+:|\*\*|`|\[([^\]]*)\]\([^)]*\)|\n", re.DOTALL)
_COMMAND = re.compile(r"(`python -m [\w. -]+`)")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:^=&])")


def visible(text: str) -> str:
    """`text` with every control or direction-changing character as a visible sign."""
    return text.translate(_SIGNS)


def token_label(text: str, limit: int = 24) -> str:
    """One token as a short label on one line: spaces at its ends become open boxes.

    A mark that belongs on the letter before it stands on a dotted circle; what has no look of its
    own is told by its codes.
    """
    shown = visible(text)
    if shown and is_mark(shown[0]):
        shown = DOTTED_CIRCLE + shown
    body = shown.strip()
    if not body:
        return "␣" * len(shown) or "∅"
    before, after = len(shown) - len(shown.lstrip()), len(shown) - len(shown.rstrip())
    if _UNSEEN.issuperset(body.replace(" ", "")):
        body = " ".join(f"U+{ord(each):04X}" for each in body.replace(" ", ""))
    return shorten("␣" * before + body + "␣" * after, limit)


def escape_markdown(text: str) -> str:
    """`text` such that Markdown renders it literally, on one line."""
    return isolated(part_of_markdown(text))


def part_of_markdown(text: str) -> str:
    """`escape_markdown` of a part of a text that is shown in one direction: see `in_direction`."""
    shown = _ICON.sub(f":{WORD_JOINER}", visible(text))
    return _MARKDOWN.sub(r"\\\1", shown)


def with_commands(sentence: str) -> str:
    """One of the app's own sentences as Markdown: literal, but for the commands in it, as code."""
    parts = _COMMAND.split(sentence)
    return "".join(part if n % 2 else escape_markdown(part) for n, part in enumerate(parts))


def by_hand(sentence: str) -> str:
    """What can be done on the page, between signs that are not seen and that no other text has (see
    `visible`): a report leaves it out, nothing can be done there."""
    return f"{BY_HAND}{sentence}{BY_HAND}"


def without_hands(text: str) -> str:
    """The same without what is done by hand."""
    return _DONE_BY_HAND.sub("", text)


def escape_html(text: str) -> str:
    """`text` such that HTML renders it literally."""
    return isolated(html.escape(visible(text), quote=True))


def escape_plotly(text: str) -> str:
    """`text` such that Plotly renders it literally: it knows no &quot;, so quotes stay."""
    return isolated(html.escape(visible(text), quote=False))


def isolated(text: str) -> str:
    """`text` such that its writing direction does not reach what stands beside it."""
    if text.isascii():
        return text
    turns = any(unicodedata.bidirectional(each) in _RIGHT_TO_LEFT for each in set(text))
    return f"\u2068{text}\u2069" if turns else text


def direction(text: str) -> str:
    """Which way most of its letters run: "ltr" or "rtl"."""
    ways = [] if text.isascii() else [unicodedata.bidirectional(each) for each in text]
    return "rtl" if sum(way in ("R", "AL") for way in ways) > ways.count("L") else "ltr"


def in_direction(shown: str, text: str) -> str:
    """What is shown of a text, such that its parts stand in the order in which that is read."""
    return f"\u2067{shown}\u2069" if direction(text) == "rtl" else shown


def shorten(text: str, limit: int) -> str:
    """`text`, or its first `limit` - 1 characters and an ellipsis; fewer, so as to end with a whole
    letter or emoji."""
    if len(text) <= limit:
        return text
    end = limit - 1
    while end and _goes_on(text[end - 1], text[end]):
        end -= 1
    return text[: end or limit - 1].rstrip() + "…"


def _goes_on(before: str, after: str) -> bool:
    """Whether the second character is part of what the first is drawn as."""
    joined = ZERO_WIDTH_JOINER in (before, after) or unicodedata.combining(before) == VIRAMA
    flag = _FLAGS.issuperset((before, after))
    return joined or flag or is_mark(after) or after in _TAGS or after in _LATER_PARTS


def opening(text: str, limit: int) -> str:
    """The first words of a text on one line."""
    return shorten(" ".join(visible(text[:OPENING_READ]).replace("↵", " ").split()), limit)


def on_one_line(text: str) -> str:
    """A text with every run of spaces as one: an indent would push its words out of sight."""
    return re.sub(" {2,}", " ", visible(text))


def numbered(ids: Iterable[str], texts: Iterable[str], limit: int) -> dict[str, str]:
    """A numbered opening of each document by its id; the number keeps equal openings apart."""
    return {
        document: f"{number}. {isolated(opening(text, limit))}"
        for number, (document, text) in enumerate(zip(ids, texts, strict=True), start=1)
    }


def count(number: int, noun: str) -> str:
    """ "1 document", "1,234 documents"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def rest_cut(tokens: int) -> str:
    """That a text goes on for so many tokens that are not read; "" for none."""
    return f"; the {count(tokens, 'token')} that follow are cut off" if tokens else ""


def share(value: float) -> str:
    """A share of one as a percentage: "63 %", "0.4 %"."""
    percent = 100 * value
    return f"{percent:.1f} %" if abs(percent) < 10 else f"{percent:.0f} %"


def interval(value: Interval, form: str = ".2f") -> str:
    """ "0.63 [0.61, 0.64]" """
    return f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"


def compact(number: float) -> str:
    """ "950", "12.3 k", "4.1 M", "13.6 B": large counts of tokens and parameters."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"


def stored(size: int) -> str:
    """ "15.5 MB", "13.8 GB": bytes of weights."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(0.1, size / 1e6):.1f} MB"


def _sign(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    category = unicodedata.category(character)
    if category == "Cc":
        code = ord(character)
        return chr(0x2400 + code) if code < 32 else "␡" if code == 127 else "�"
    # Direction overrides and isolates would rearrange the page around the token.
    if category in ("Cf", "Cs", "Co", "Cn") and character not in _HARMLESS:
        return "�"
    return character


class _Signs(dict[int, str]):
    """`_sign` by code point, each asked for once: pages show a million characters."""

    def __missing__(self, code: int) -> str:
        self[code] = _sign(chr(code))
        return self[code]


_SIGNS = _Signs()
