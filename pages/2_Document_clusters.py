"""Document clusters: which documents share experts, in EMO beside the standard MoE."""

import streamlit as st

from emo_viz.ui import chrome, cluster_view, clusters, reader

chrome.page("Document clusters")
data = clusters.load_data()

headline = st.container()
view = clusters.controls(data)
found = clusters.find_clusters(data, view)
with headline:
    clusters.answer(data, view, found)

rows = cluster_view.maps(data, view, found)
listed = cluster_view.documents_table(data, rows, found)
reading = st.container(border=True)
cluster_view.cluster_tables(data, found)
cluster_view.coverage(data, found)
with reading:  # last: the only part that needs the models
    reader.reader(data.documents, listed)
