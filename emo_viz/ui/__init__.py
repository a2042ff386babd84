"""What the pages share; the only package, with pages/ and app.py, that imports streamlit."""
