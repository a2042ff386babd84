"""Home page of EMO Viz. Run: python -m streamlit run app.py"""

from emo_viz.ui import chrome, home

with chrome.page("EMO Viz"):
    home.show()
