"""Kernel page: what the compiler made of the GPU kernels, and what a GPU found, if one did."""

import json
from typing import Any, NoReturn

import pandas as pd
import streamlit as st

from emo_viz.figures import kernel as figures
from emo_viz.figures.theme import chart_config
from emo_viz.ui import assets, chrome, links
from emo_viz.ui.text import count, escape_markdown

REPORT, CHECK = "kernel_report.json", "kernel_check.json"
FORMAT_VERSION = 1
PARTS = {"rows", "costs", "not_measured"}
CHECK_PARTS = {"device", "torch", "numerics", "determinism", "races", "timing"}
ARCH, SIZE, ALL_SIZES = "kernel_arch", "kernel_size", "All sizes"
COLUMNS = {
    "kernel": "Kernel",
    "size": "Layer (hidden / width)",
    "element": "Type",
    "tile": "Tile",
    "warps": "Warps",
    "registers": "Registers",
    "stack": "Stack (bytes)",
    "spills": "Spills",
    "shared_kib": "Shared memory (KiB)",
    "occupancy": "Resident threads",
    "tensor_op": "Tensor-core operation",
    "async_loads": "Asynchronous loads",
    "gflop": "GFLOP",
    "megabytes": "MB moved",
    "microseconds": "Roofline (µs)",
    "misses": "Bars missed",
}


def open_report() -> dict[str, Any]:
    """The bundled report; without a usable one the page says how to make it and ends."""
    path = assets.analysis_path(REPORT)
    if not path.exists():
        _nothing("The kernels were not compiled on this machine yet.")
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        _nothing("The kernel report is damaged.")
    known = isinstance(report, dict) and report.get("format_version") == FORMAT_VERSION
    if not known or PARTS - set(report):
        _nothing("The kernel report is of another version.")
    return report


def _nothing(sentence: str) -> NoReturn:
    chrome.empty_state(sentence, f"python -m model.kernels.report --json assets/analysis/{REPORT}")
    st.stop()


def open_check() -> dict[str, Any] | None:
    """What a GPU found, if someone ran the check there and its file can be read."""
    path = assets.analysis_path(CHECK)
    if not path.exists():
        return None
    try:
        check = json.loads(path.read_text(encoding="utf-8"))
        whole = set(check) >= CHECK_PARTS
    except (ValueError, TypeError):
        whole = False
    if not whole:
        st.warning(f"{CHECK} is damaged or of another version; run the check again.")
        return None
    return dict(check)


def answer(report: dict[str, Any], check: dict[str, Any] | None) -> None:
    """The first line: what was compiled, whether it meets its bars, and what a GPU says to it."""
    rows = report["rows"]
    missed = sum(bool(row["misses"]) for row in rows)
    archs = len({row["arch"] for row in rows})
    verdict = "every one meets its static bars" if not missed else f"{missed} miss a static bar"
    timed = "None was timed on a GPU." if check is None else _numerics(check)
    st.markdown(
        f"#### Compiled without a GPU: {count(len(rows), 'kernel')} for {archs} architectures, "
        f"{verdict}. {timed}"
    )


def _numerics(check: dict[str, Any]) -> str:
    good = sum(row["passed"] for row in check["numerics"])
    cases = count(len(check["numerics"]), "numeric case")
    return f"On {escape_markdown(check['device'])}, {good} of {cases} are within their bars."


def controls(report: dict[str, Any]) -> tuple[str, str]:
    """Architecture and layer size."""
    archs = list(report["costs"]["machines"])
    names = {arch: machine["name"] for arch, machine in report["costs"]["machines"].items()}
    sizes = [ALL_SIZES, *dict.fromkeys(row["size"] for row in report["rows"])]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        arch = links.choice(
            st,
            "Architecture",
            archs,
            ARCH,
            default=archs[min(1, len(archs) - 1)],
            format_func=lambda arch: f"{arch} ({names[arch]})",
        )
        size = links.select(st, "Layer", sizes, SIZE, width=220)
    return str(arch), str(size)


def roofline(report: dict[str, Any], arch: str) -> None:
    """The training kernels of the 1B/14B layer under one machine's roof."""
    rows = [row for row in report["rows"] if row["arch"] == arch and row["flops"]]
    machine, tokens = report["costs"]["machines"][arch], report["costs"]["tokens"]
    words = ", ".join(f"{r['kernel']} {r['flops'] / r['bytes']:.0f}" for r in rows)
    st.plotly_chart(
        figures.roofline(rows, machine, tokens),
        key="kernel_roofline",
        config=chart_config("kernel roofline"),
        alt=f"FLOP a byte of each kernel at {tokens:,} tokens: {words}.",
    )
    costs = report["costs"]
    st.caption(
        f"1B/14B layer (hidden 2048, width 1024, 8 of 128 experts), {tokens:,} tokens, even "
        f"routing, bf16. The forward pass moves {costs['forward_over_bound']:.2f} times the least "
        f"possible bytes, the backward pass {costs['backward_over_bound']:.2f} times; "
        f"{costs['saved_bytes_per_token']:,.0f} bytes a token are kept between them. Peak rates "
        "are those of the data sheet."
    )


def mask(report: dict[str, Any], arch: str) -> None:
    """What a mask of fewer experts saves, by the lower bound of bytes and FLOPs."""
    savings = [row for row in report["costs"]["mask_savings"] if row["arch"] == arch]
    name, experts = report["costs"]["machines"][arch]["name"], max(r["kept"] for r in savings)
    most = max(savings, key=lambda row: row["times"])
    st.plotly_chart(
        figures.mask_savings(savings, experts, name),
        key="kernel_mask",
        config=chart_config("kernel mask"),
        alt=(
            f"The greatest saving is {most['times']:.1f} times, with {most['kept']} experts at "
            f"{most['tokens']:,} tokens; at one token there is none."
        ),
    )
    st.caption(
        "One token reads its 8 experts with a mask or without: at batch one a subset saves memory, "
        "not time. Roofline of one layer's weights, inputs and outputs; routing even within the "
        "subset."
    )


def table(report: dict[str, Any], arch: str, size: str) -> None:
    """All kernels of one architecture."""
    rows = [
        row for row in report["rows"] if row["arch"] == arch and size in (ALL_SIZES, row["size"])
    ]
    shown = pd.DataFrame(rows)
    shown["shared_kib"] = shown["shared"] / 1024
    shown["gflop"] = shown["flops"].astype(float) / 1e9
    shown["megabytes"] = shown["bytes"].astype(float) / 1e6
    shown["microseconds"] = shown["roofline_seconds"].astype(float) * 1e6
    shown["misses"] = ["; ".join(missed) for missed in shown["misses"]]
    number = st.column_config.NumberColumn(format="%.0f")
    formats: dict[str, Any] = {
        COLUMNS[name]: number for name in ("shared_kib", "gflop", "megabytes", "microseconds")
    }
    formats[COLUMNS["occupancy"]] = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        shown[list(COLUMNS)].rename(columns=COLUMNS),
        hide_index=True,
        column_config=formats,
        key="kernel_table",
        alt=f"Registers, shared memory, occupancy and roofline of {len(rows)} kernels",
    )


def measured(check: dict[str, Any] | None) -> None:
    """What a GPU found, if someone ran the check there."""
    if check is None:
        return
    st.subheader(f"Measured on {escape_markdown(check['device'])}")
    same = sum(row["passed"] for row in check["determinism"])
    st.markdown(
        f"{_numerics(check)} {same} of {count(len(check['determinism']), 'layer')} give the same "
        f"bits in every run. {_races(check['races'])}"
    )
    st.dataframe(
        _timing(check["timing"]),
        hide_index=True,
        key="kernel_timing",
        alt="Milliseconds of each implementation by layer and number of tokens",
    )
    st.caption(
        f"Medians in bf16, torch {escape_markdown(check['torch'])}; a ratio above 1 is slower than "
        "the Triton kernels of this repository."
    )


def _races(races: dict[str, Any]) -> str:
    if not races["ran"]:
        return f"Races were not looked for: {escape_markdown(races['reason'])}."
    found = [name for name in ("racecheck", "memcheck") if not races[name]["passed"]]
    return f"compute-sanitizer found faults in {' and '.join(found) or 'neither of two checks'}."


def _timing(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row an implementation and layer, with its forward time over that of "triton"."""
    ours = {tuple(r["sizes"]): r.get("forward_ms") for r in rows if r["name"] == "triton"}
    shown = []
    for row in rows:
        tokens, experts, top_k, hidden, width = row["sizes"]
        forward, reference = row.get("forward_ms"), ours.get(tuple(row["sizes"]))
        peak = row.get("peak_bytes")
        shown.append(
            {
                "Tokens": tokens,
                "Layer": f"{hidden} / {width}, {top_k} of {experts}",
                "Implementation": row["name"],
                "Forward (ms)": forward,
                "Forward, triton = 1": forward / reference if forward and reference else None,
                "Forward and backward (ms)": row.get("forward_backward_ms"),
                "Peak memory (MiB)": peak / 2**20 if peak else None,
                "Failed with": row.get("error", ""),
            }
        )
    return pd.DataFrame(shown).round(3)


def not_measured(report: dict[str, Any], check: dict[str, Any] | None) -> None:
    """What compiling cannot tell, in plain words, and the command that finds out."""
    if check is None:
        st.subheader("What was not measured")
    else:
        st.subheader("What compiling alone did not tell")
    st.markdown("\n".join(f"- {line}" for line in report["not_measured"]))
    if check is None:
        st.markdown("On a machine with a GPU, one command answers these:")
    else:
        st.markdown("The section above answers these for its GPU; for another one:")
    command = f"python -m model.kernels.check --out assets/analysis/{CHECK}"
    st.code(command, language="bash", wrap_lines=True)
