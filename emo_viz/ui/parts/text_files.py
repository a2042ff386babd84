"""Bytes of a file as text, or a sentence on why they are none. Knows no Streamlit."""

import codecs

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
LEAST_ZERO = 0.3  # of every other byte, from which on a file is UTF-16


def decoded(content: bytes) -> tuple[str, str]:
    """The text of a file, and a sentence on how it was read ("" for UTF-8).

    By its mark at the beginning, else by the zeros that UTF-16 has, else as UTF-8, else as Windows'
    Latin-1. Raises ValueError, one sentence, for what is empty, too large or no text.
    """
    if len(content) > LARGEST:
        size = f"{len(content) / 1e6:,.0f} MB"
        raise ValueError(f"That file has {size}, more than the {LARGEST // 10**6} MB that are read")
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _marked(content, encoding)
    if unmarked := _utf_16(content):
        return _marked(content, unmarked)
    try:
        text, said = content.decode(), ""
    except UnicodeDecodeError:
        text, said = _latin(content), "That file is not in UTF-8; it was read as Latin-1."
    return _checked(text), said


def _marked(content: bytes, encoding: str) -> tuple[str, str]:
    name = encoding.upper().removesuffix("-SIG").removesuffix("-LE").removesuffix("-BE")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"That file says that it is in {name}, and is damaged") from error
    return _checked(text), "" if name == "UTF-8" else f"That file was read as {name}."


def _utf_16(content: bytes) -> str:
    """The UTF-16 that a file without a mark is in, "" for none: of common letters one byte of the
    two is zero, always the same one, and no other text holds a zero."""
    some = content[:100_000]
    first, second = (some[at::2].count(0) / max(1, len(some) // 2) for at in (0, 1))
    if len(content) % 2 or max(first, second) < LEAST_ZERO or min(first, second) > 0.0:
        return ""
    return "utf-16-le" if second > first else "utf-16-be"


def _latin(content: bytes) -> str:
    beyond = sum(byte > 0x7F for byte in content[:100_000])
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise ValueError(_NO_TEXT) from error
    if beyond > MOST_BEYOND_ASCII * len(content[:100_000]):
        raise ValueError(_NO_TEXT)
    return text


def _checked(text: str) -> str:
    if not text.strip("\ufeff \t\r\n"):
        raise ValueError("That file is empty")
    if any(ord(letter) < 32 and letter not in _IN_TEXTS for letter in text):
        raise ValueError(_NO_TEXT)
    return text


_NO_TEXT = "That file is not text in UTF-8, UTF-16 or Latin-1"
