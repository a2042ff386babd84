"""Document clusters: which tokens and documents share experts."""

from emo_viz.ui.clusters import page
from emo_viz.ui.shell import chrome

with chrome.page("Document clusters"):
    page.show()
