"""Tokens that only continue a character, as small fields below it, for texts drawn in the browser.

A text is a `.strip` of `.token`s, of which such a token is `.rest` and empty. CSS goes after a
component's own style and JS before its own script, which calls `makeFields(strip)` once the tokens
are in it; then `faceOf(token)` is what shows a token and `tokenAt(event)` the one that is meant.
"""

from pathlib import Path

CSS, JS = (Path(__file__).with_suffix(kind).read_text(encoding="utf-8") for kind in (".css", ".js"))
