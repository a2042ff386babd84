"""What a link may ask for: one parser for every parameter of every page. Knows no Streamlit.

A `Kind` says which values a parameter can have, how they are written into the address and read out
of it, and what to say of one that cannot be used: addresses are typed by hand, cut off by mail
programs and outlive the documents that they name.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from emo_viz.ui.shell.words import escape_markdown, shorten

Value = TypeVar("Value")
Option = TypeVar("Option", bound=Hashable)

SHOWN = 60  # characters of what a link asks for in vain
MOST_DIGITS = 9
MOST_NAMED = 3  # values that one sentence names


@dataclass(frozen=True)
class Found(Generic[Value]):
    """What a link asks for: the value (None: nothing usable), and a sentence on what is not."""

    value: Value | None
    problem: str = ""


@dataclass(frozen=True)
class Kind(Generic[Value]):
    """The values of one parameter.

    parse: the value of a text, ValueError if it is none. form: its text. fits: whether a value is
    still one (another text has other tokens). sentence: of a text that is none, with {asked}.
    always: the default stands in the address too. lasting: a link without it leaves it as it is.
    what: "layer", what is chosen, in words that can stand before it and before several that stand
    there at once; "" for what no reader could use.
    """

    parse: Callable[[str], Value]
    form: Callable[[Value], str]
    fits: Callable[[Value], bool]
    sentence: str
    always: bool = False
    lasting: bool = False
    what: str = ""

    def read(self, asked: Sequence[str]) -> Found[Value]:
        """The value of a parameter as it stands in the address, once or several times."""
        texts = list(dict.fromkeys(asked))
        if len(texts) > 1:
            return Found(None, _of_several(self.what or "value", texts))
        try:
            return Found(self.parse(texts[0]))
        except ValueError:
            return Found(None, self.problem(texts))

    def write(self, value: Value) -> list[str]:
        """The parameter's values in the address; none to leave it out."""
        return [self.form(value)]

    def problem(self, texts: Sequence[str]) -> str:
        """The sentence on texts that cannot be used."""
        return self.sentence.format(asked=_named(texts))


@dataclass(frozen=True)
class Several(Kind[list[str]]):
    """Some of a few options: the parameter stands in the address once for each; at most `most`.

    Several in one, with commas between them, are read too. sentence, many: of one and of several
    that are not known; over: of those that are more than the most.
    """

    known: frozenset[str] = frozenset()
    most: int = 1
    many: str = ""
    over: str = ""

    def read(self, asked: Sequence[str]) -> Found[list[str]]:
        """Those that can be used, none at all being no choice; the others are named."""
        texts = list(dict.fromkeys(part for text in asked for part in self._parts(text)))
        known = [text for text in texts if text in self.known]
        usable, rest = known[: self.most], [text for text in texts if text not in self.known]
        unknown = self.many if len(rest) > 1 else self.sentence
        problems = [(unknown, rest), (self.over, known[self.most :])]
        said = [sentence.format(asked=_named(some)) for sentence, some in problems if some]
        return Found(usable or None, " ".join(said))

    def _parts(self, text: str) -> list[str]:
        parts = text.split(",")
        several = text not in self.known and not self.known.isdisjoint(parts)
        return parts if several else [text]

    def write(self, value: list[str]) -> list[str]:
        return list(value)


def _of_several(what: str, texts: Sequence[str]) -> str:
    return f"The link gives more than one {what}, {_named(texts)}; none of them is taken."


def _named(texts: Sequence[str]) -> str:
    """ "a and b", those after the first few by their number."""
    shown = " and ".join(quoted(text) for text in texts[:MOST_NAMED])
    return shown + (f" and {len(texts) - MOST_NAMED:,} more" if texts[MOST_NAMED:] else "")


def one_of(
    what: str,
    options: Sequence[Option],
    form: Callable[[Option], str] = str,
    instead: str = "this shows another one",
    always: bool = False,
) -> Kind[Option]:
    """One of some options, written as `form` shows them. what: "layer". instead: what is shown."""
    by_text = {form(option): option for option in options}
    known = frozenset(options)
    return Kind(
        parse=lambda text: _look_up(by_text, text),
        form=form,
        fits=lambda value: value in known,
        sentence=f"The link asks for the {what} {{asked}}, which is not here; {instead}.",
        always=always,
        what=what,
    )


def several_of(what: str, options: Sequence[str], most: int) -> Several:
    """Up to `most` of some options. what: "domain"."""
    known = frozenset(options)
    return Several(
        parse=lambda text: [text],
        form=",".join,
        fits=lambda values: set(values) <= known and len(values) <= most,
        sentence=f"The link asks for the {what} {{asked}}, which is not here and left out.",
        many=f"The link asks for the {what}s {{asked}}, which are not here and left out.",
        over=f"The link asks for more than the {most} {what}s that can be chosen; left out: "
        "{asked}.",
        known=known,
        most=most,
        what=what,
    )


def whole_number(
    what: str, low: int, high: int, instead: str = "this shows another one", sentence: str = ""
) -> Kind[int]:
    """A whole number from low to high, in plain digits."""
    return Kind(
        parse=lambda text: _whole(text, low, high),
        form=str,
        fits=lambda value: isinstance(value, int) and low <= value <= high,
        sentence=sentence
        or f"The link asks for the {what} {{asked}}, which is not one from {low:,} to {high:,}; "
        f"{instead}.",
        what=what,
    )


def checked(sentence: str, parse: Callable[[str], str], what: str = "") -> Kind[str]:
    """A text that `parse` returns as it is to be kept, or refuses with a ValueError."""
    return Kind(parse=parse, form=str, fits=lambda value: True, sentence=sentence, what=what)


def _whole(text: str, low: int, high: int) -> int:
    """Python's own int() would take "1_000", " 7", "٣" and numbers without end."""
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise ValueError
    number = int(text)
    if not low <= number <= high or str(number) != text:
        raise ValueError
    return number


def _look_up(by_text: dict[str, Option], text: str) -> Option:
    if text not in by_text:
        raise ValueError
    return by_text[text]


def quoted(text: str) -> str:
    """A text of the address inside a sentence: Markdown, short, "(nothing)" if it is blank."""
    return escape_markdown(shorten(text, SHOWN)) if text.strip() else "(nothing)"
