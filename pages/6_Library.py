"""Library: the runs that are here, how others are added, and what is recorded and measured."""

from emo_viz.ui.library import page
from emo_viz.ui.shell import chrome

with chrome.page("Library"):
    page.show()
