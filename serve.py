"""The app, warmed up as its server starts. Run: python -m streamlit run serve.py"""

import streamlit as st

from emo_viz.server import warm

app = st.App("app.py", lifespan=warm.lifespan)
