"""Files of many encodings, and files that are no text."""

import codecs

import pytest

from emo_viz.ui.parts.text_files import LARGEST, decoded

TEXT = "Grüße, ça va? naïve café\nand a line more of plain words"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT.encode(), ""),
        (TEXT.encode("utf-8-sig"), ""),
        (TEXT.encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("utf-16-le"), "UTF-16"),
        (TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("utf-32"), "UTF-32"),
        (TEXT.encode("latin-1"), "Latin-1"),
        ("“Smart quotes” – of Windows".encode("cp1252"), "Latin-1"),
    ],
)
def test_a_text_is_read_whatever_its_encoding(content: bytes, said: str):
    text, sentence = decoded(content)
    assert text in (TEXT, "“Smart quotes” – of Windows")
    assert said in sentence and bool(said) == bool(sentence)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        "नमस्ते दुनिया",
        "ਪਾਣੀ ਦੀ ਰਾਣੀ",
        "ภาษาไทย 2024",
        "السلام عليكم",
        "今天天气很好。\n日本語のテスト",
        "中文 好",
        "family 👩\u200d👧",
        "the \uf0b7 quick brown",
        "a",
    ],
)
def test_utf_16_without_a_mark_is_read_whatever_its_script(text: str, order: str):
    assert decoded(text.encode(order)) == (text, "That file was read as UTF-16.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (codecs.BOM_UTF16_LE, "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "is not text"),
        (b"\x89PNG\xff\xfe", "is not text"),
        (b"PK\x03\x04plain ascii, and yet a zip", "is not text"),
        (bytes([0, 7, 1, 0]) * 9, "is not text"),
        (bytes(range(128, 256)) * 4, "is not text"),
        ("日本語の文".encode("shift-jis"), "is not text"),
        ("中文很好的".encode("gbk"), "is not text"),
        (bytes(range(256)) * 2, "is not text"),
        ("soil".encode("utf-16-le") + b"a", "is not text"),
        (b"plain words, with a \x00 in them", "is not text"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8a", "is damaged"),
        (b"a" * (LARGEST + 1), "more than the 20 MB"),
    ],
)
def test_what_is_no_text_is_said(content: bytes, said: str):
    with pytest.raises(ValueError, match=said):
        decoded(content)
