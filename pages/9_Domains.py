"""Domains: which experts they share and would keep, and how evenly experts are used."""

from emo_viz.ui.domains import page
from emo_viz.ui.shell import chrome

with chrome.page("Domains"):
    page.show()
