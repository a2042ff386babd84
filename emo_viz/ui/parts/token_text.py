"""Tokens in words: the text of a token, or its bytes where they are only part of a character."""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from emo_viz.trace.absent import Absent
from emo_viz.ui.shell.words import token_label

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from emo_viz.trace.recorded import RecordedDocument

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character
CODE_LINES = 0.3
# Ends as statements and blocks end, begins as they begin, calls, assigns, or is a comment of code.
_CODE = re.compile(
    r"[;{}]\s*$|^\s*[})\]]|\)\s*:\s*$|^\s*(def|class|import|from|return|func|var|let|const|if \()\b"
    r"|\w\([^) ]*\)|\w\s*[:+-]?=\s*\S|^\s*(//|/\*|\(def|;;)|^\s*\("
    r"|^\s*#(include|if|ifdef|ifndef|else|endif|define)\b"
)
_HEX = re.compile(r"<0x([0-9A-F]{2})>")


def vocabulary_label(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> str:
    """One token of the vocabulary as a short label; its bytes if it is no whole characters."""
    text = tokenizer.decode([token_id])
    if not _is_part(tokenizer, token_id):
        return token_label(text)
    found = _bytes(str(tokenizer.convert_ids_to_tokens(token_id)))
    return token_label(text) if found is None else _bytes_label(found)


def text_labels(
    tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int], pieces: Sequence[str]
) -> list[str]:
    """Labels of a text's tokens [T]: of those that share a character, each has its bytes.

    pieces [T]: what each token shows of the text; a character of several tokens stands at its
    first one.
    """
    labels, shown_at = [], ""
    for position, (token_id, piece) in enumerate(zip(token_ids, pieces, strict=True)):
        goes_on = position + 1 < len(pieces) and not pieces[position + 1]
        part = position > 0 and (not piece or goes_on)
        shown_at = piece or shown_at
        label = vocabulary_label(tokenizer, int(token_id)) if part else token_label(piece)
        of = shown_at and part and _is_part(tokenizer, int(token_id))
        labels.append(f"{label} of {token_label(shown_at[-1])}" if of else label)
    return labels


def _is_part(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> bool:
    """Whether a token holds bytes that are no whole character."""
    return REPLACEMENT in tokenizer.decode([token_id])


def recorded_pieces(recorded: "RecordedDocument") -> list[str]:
    """What stands for each position [T] of a recorded text: its text, else its id, else its place.

    The opening token, of no text, is the first.
    """
    for part in ("token_texts", "token_ids"):
        try:
            found = getattr(recorded, part)
        except Absent:
            continue
        return [piece if isinstance(piece, str) else f"{piece} " for piece in found]
    return [f"{place} " for place in range(recorded.expert_ids.shape[1])]


def looks_like_code(text: str) -> bool:
    """Whether a text reads better in letters of one width: many of its lines look like code's."""
    lines = [line for line in text.splitlines() if line.strip()][:200]
    return len(lines) > 1 and sum(map(_is_code, lines)) >= len(lines) * CODE_LINES


def _is_code(line: str) -> bool:
    return bool(_CODE.search(line))


def _bytes_label(found: bytes) -> str:
    """Whole characters as they are and the rest as bytes: "␣⟨E0 B8⟩"."""
    text, rest = "", found
    for end in range(len(found), 0, -1):
        try:
            text, rest = found[:end].decode(), found[end:]
        except UnicodeDecodeError:
            continue
        break
    shown = token_label(text) if text else ""
    return f"{shown}⟨{rest.hex(' ').upper()}⟩" if rest else shown


def _bytes(token: str) -> bytes | None:
    """The bytes of a token as its vocabulary writes it; None if that is not known."""
    if match := _HEX.fullmatch(token):
        return bytes([int(match[1], 16)])
    letters = _byte_letters()
    if all(letter in letters for letter in token):
        return bytes(letters[letter] for letter in token)
    return None


@cache
def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level vocabularies write bytes: printable ones as themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}
