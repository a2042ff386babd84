"""Experts: what each is used for, and what breaks without it."""

from emo_viz.ui.experts import page
from emo_viz.ui.shell import chrome

with chrome.page("Experts"):
    page.show()
