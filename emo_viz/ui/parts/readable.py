"""Text that can be read whatever colour it stands on, for components that are drawn in the browser.

READABLE_JS goes before a component's own script; there, `readable(fill, element)` is the colour of
text on `fill` (#rrggbb or rgba(), over the page's background as `element` has it): the theme's own
where that has a contrast of 4.5, else black or white, of which one always has.
"""

from pathlib import Path

READABLE_JS = Path(__file__).with_name("readable.js").read_text(encoding="utf-8")
