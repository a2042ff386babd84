"""What a GPU found of the expert layer's kernels, what they are on paper, what nobody measured."""

import streamlit as st

from emo_viz.ui.kernel import page
from emo_viz.ui.shell import chrome

with chrome.page("Kernel"):
    report = page.open_report()
    check = page.open_check()
    page.answer(report, check)
    page.measured(check)
    if check is not None:
        st.subheader("On paper")
    arch, size = page.controls(report)
    page.roofline(report, arch)
    page.mask(report, arch)
    st.subheader("Every kernel that ships")
    page.table(report, arch, size)
    page.not_measured(report, check)
