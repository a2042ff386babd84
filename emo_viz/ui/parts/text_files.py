"""Bytes of a file as text, or a sentence on why they are none. Knows no Streamlit."""

import codecs
import unicodedata
from collections import Counter

LARGEST = 20_000_000  # bytes
_MARKS = (  # the longer ones first: one begins like another
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_IN_TEXTS = frozenset("\t\n\v\f\r\b\x1b\x1c\x1d\x1e\x1f\x85")
# Of a file that is no Unicode, letters of other languages are the smaller part.
MOST_BEYOND_ASCII = 0.3
FEW_CONTROLS = 0.15  # of the bytes of a text with faults in it; of UTF-16 a byte of two may be one
FEW_STRANGE = 0.2  # of the characters of a text: private ones, and such as Unicode has not yet
SAMPLE = 100_000  # bytes or characters of a file that tell what it is in


def decoded(content: bytes) -> tuple[str, str]:
    """The text of a file, and a sentence on how it was read ("" for UTF-8).

    By its mark at the beginning, else as UTF-16 if it holds zeros, which no other text does, else
    as UTF-8, else as Windows' Latin-1. Raises ValueError, one sentence, for what is empty, too
    large or no text.
    """
    if len(content) > LARGEST:
        size = f"{len(content) / 1e6:,.0f} MB"
        raise ValueError(f"That file has {size}, more than the {LARGEST // 10**6} MB that are read")
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _marked(content, encoding)
    if 0 in content:
        return _checked(_utf_16(content)), "That file was read as UTF-16."
    try:
        text, said = content.decode(), ""
    except UnicodeDecodeError:
        text, said = _latin(content), "That file is not in UTF-8; it was read as Latin-1."
    return _checked(text), said


def _marked(content: bytes, encoding: str) -> tuple[str, str]:
    name = encoding.upper().removesuffix("-SIG")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"That file says that it is in {name}, and is damaged") from error
    return _checked(text), "" if name == "UTF-8" else f"That file was read as {name}."


def _utf_16(content: bytes) -> str:
    """The text of a file without a mark. Of the two orders of its bytes the right one has the
    letters of few alphabets, of 256 each; in the other one they lie all over Unicode."""
    orders = [_of_characters(content, order) for order in ("utf-16-le", "utf-16-be")]
    texts = [text for text in orders if text is not None]
    if not texts or _is_marred(content):
        raise ValueError(_NO_TEXT)
    return min(texts, key=_alphabets)


def _is_marred(content: bytes) -> bool:
    """Whether it is UTF-8 but for a few zeros."""
    some = content[:SAMPLE]
    few = sum(byte < 0x20 for byte in some) < FEW_CONTROLS * len(some)
    return few and _of_characters(content.replace(b"\0", b""), "utf-8") is not None


def _of_characters(content: bytes, encoding: str) -> str | None:
    """The text in an encoding; None where it is none, or holds what no text does."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return None
    kinds = Counter(unicodedata.category(each) for each in text[:SAMPLE] if each not in _IN_TEXTS)
    strange = kinds["Cn"] + kinds["Co"]  # as a few signs of Word and the newest emoji are
    known = not kinds["Cc"] and strange <= FEW_STRANGE * len(text[:SAMPLE])
    return text if known else None


def _alphabets(text: str) -> tuple[int, int]:
    """In how many of them its letters lie; of as many, less the more of them are the first."""
    found = [ord(letter) >> 8 for letter in text[:SAMPLE]]
    return len(set(found)), -found.count(0)


def _latin(content: bytes) -> str:
    beyond = sum(byte > 0x7F for byte in content[:SAMPLE])
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise ValueError(_NO_TEXT) from error
    if beyond > MOST_BEYOND_ASCII * len(content[:SAMPLE]):
        raise ValueError(_NO_TEXT)
    return text


def _checked(text: str) -> str:
    if not text.strip("\ufeff \t\r\n"):
        raise ValueError("That file is empty")
    if any(ord(letter) < 32 for letter in set(text) - _IN_TEXTS):
        raise ValueError(_NO_TEXT)
    return text


_NO_TEXT = "That file is not text in UTF-8, UTF-16 or Latin-1"
