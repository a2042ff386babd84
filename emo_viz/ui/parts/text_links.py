"""A text as a link carries it: as it is, compressed, or, if it is too long for both, by its digest.

A text that is named by its digest is kept by this server, as long as it runs and as long as not
too many others have come after it.
"""

import base64
import hashlib
import threading
import zlib
from collections import OrderedDict
from functools import lru_cache
from urllib.parse import quote

import streamlit as st

# A percent-encoded text of this length stays well inside what servers accept as one address.
MOST_PLAIN, MOST_PACKED = 4_500, 8_000
COMPRESSIBLE = 60_000  # characters: longer ones do not fit, whatever they say
BROKEN = "\ufffd"
PACKED, KEPT = "~z.", "~k."
MOST_KEPT = 200
DIGEST_LETTERS = 32


class Kept:
    """The last texts that were too long for a link, by their digests."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, text: str) -> str:
        """Keep the text; returns its digest."""
        digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]
        with self._lock:
            self._texts[digest] = text
            self._texts.move_to_end(digest)
            while len(self._texts) > MOST_KEPT:
                self._texts.popitem(last=False)
        return digest

    def get(self, digest: str) -> str:
        """Raises ValueError for one that is not here (any more)."""
        with self._lock:
            if digest not in self._texts:
                raise ValueError
            self._texts.move_to_end(digest)
            return self._texts[digest]


@st.cache_resource(max_entries=1, show_spinner=False)
def kept() -> Kept:
    """The one store that all visitors share."""
    return Kept()


def code_of(text: str) -> str:
    """The text as it stands in a link."""
    code = _short_code(text)
    return code if code is not None else f"{KEPT}{kept().put(text)}"


def is_kept_here(text: str) -> bool:
    """Whether a link to the text works on this server only."""
    return _short_code(text) is None


def text_of(code: str, most: int) -> str:
    """The text of up to `most` characters that a link names. Raises ValueError for none."""
    if code.startswith(KEPT):
        return kept().get(code.removeprefix(KEPT))
    if not code.startswith(PACKED):
        return without_halves(code[:most])
    data = code.removeprefix(PACKED)
    try:
        unpacker = zlib.decompressobj()
        packed = base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))
        text = unpacker.decompress(packed, 4 * most).decode()
    except zlib.error as error:
        raise ValueError from error
    if not unpacker.eof or len(text) > most:
        raise ValueError
    return text


def without_halves(text: str) -> str:
    """`text` with half characters (lone surrogates, which have no UTF-8) replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@lru_cache(maxsize=32)
def _short_code(text: str) -> str | None:
    """The text itself or compressed; None if neither is short enough."""
    plain = len(text) <= MOST_PLAIN and not text.startswith((PACKED, KEPT))
    if plain and len(quote(text)) <= MOST_PLAIN:
        return text
    if len(text) > COMPRESSIBLE:
        return None
    packed = base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")
    return f"{PACKED}{packed}" if len(packed) <= MOST_PACKED else None
