"""What the GPU kernels of the expert layer are on paper, and what nobody has measured."""

import streamlit as st

from emo_viz.ui import chrome, kernel_view

with chrome.page("Kernel"):
    report = kernel_view.open_report()
    check = kernel_view.open_check()
    kernel_view.answer(report, check)
    arch, size = kernel_view.controls(report)
    kernel_view.roofline(report, arch)
    kernel_view.mask(report, arch)
    st.subheader("Every kernel that ships")
    kernel_view.table(report, arch, size)
    kernel_view.measured(check)
    kernel_view.not_measured(report, check)
