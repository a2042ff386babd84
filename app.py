"""Home page of EMO Viz. Run: python -m streamlit run app.py"""

from emo_viz.ui.home import page
from emo_viz.ui.shell import chrome

with chrome.page("Overview"):
    page.show()
