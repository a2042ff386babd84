"""Training: the curves of runs, also while they go on, and how routing came to be."""

from emo_viz.ui.shell import chrome
from emo_viz.ui.training import page

with chrome.page("Training"):
    page.show()
