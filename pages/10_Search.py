"""Search: every place of a word, token, expert, document or domain; two pins side by side."""

from emo_viz.ui.search import page
from emo_viz.ui.shell import chrome

with chrome.page("Search"):
    page.show()
