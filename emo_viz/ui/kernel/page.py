"""Kernel page: what the compiler made of the GPU kernels, and what a GPU found, if one did."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import streamlit as st

from emo_viz.figures import kernel as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import assets, commands
from emo_viz.ui.parts import export
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.picture import DIGITS
from emo_viz.ui.shell.words import count, escape_markdown
from model.files import read_json

REPORT, CHECK = "kernel_report.json", "kernel_check.json"
FORMAT_VERSION = 1
PARTS = {"rows", "costs", "not_measured"}
CHECK_VERSION = 2
CHECK_PARTS = {"environment", "stages", "exit_code"}
VERSIONS = ("driver", "torch", "cuda", "triton", "transformers", "python")
ARCH, SIZE, ALL_SIZES = routes.KERNEL_ARCH, routes.KERNEL_SIZE, "All sizes"
NOTHING = "–"  # in a cell of what was not measured or does not apply
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


def _path(name: str) -> Path:
    """A file on the kernels: of the assets folder if it has a report of its own, else the bundled
    one, which is as true of a pair of one's own: it is about this code."""
    own = assets.analysis_path(REPORT).exists()
    return assets.analysis_path(name) if own else assets.APP_FOLDER / "assets" / "analysis" / name


def open_report() -> dict[str, Any]:
    """The report; without a usable one the page says how to make it and ends."""
    path = _path(REPORT)
    if not path.exists():
        _nothing("The kernels were not compiled on this machine yet.")
    try:
        report = read_json(path)
    except ValueError:
        _nothing("The kernel report is damaged.")
    if report.get("format_version") != FORMAT_VERSION or PARTS - set(report):
        _nothing("The kernel report is of another version.")
    return report


def _nothing(sentence: str) -> NoReturn:
    missing.empty_state(sentence, commands.KERNEL_REPORT, of_runs=False)
    missing.end()


def open_check() -> dict[str, Any] | None:
    """What a GPU found, if someone ran the check there and its file can be read."""
    path = _path(CHECK)
    if not path.exists():
        return None
    try:
        check = read_json(path)
        whole = check.get("format_version") == CHECK_VERSION and _is_check(check)
    except ValueError:
        whole = False
    if not whole:
        st.warning(f"{CHECK} is damaged or of another version; run the check again.")
        return None
    return check


def _is_check(check: Mapping[str, Any]) -> bool:
    """Whether every part that is shown is there and of the right kind."""
    if CHECK_PARTS - set(check) or not isinstance(check["environment"], dict):
        return False
    stages = check["stages"] if isinstance(check["stages"], list) else [None]
    return all(
        isinstance(stage, dict)
        and {"name", "status", "reason", "rows"} <= set(stage)
        and isinstance(stage["rows"], list)
        and all(isinstance(row, dict) for row in stage["rows"])
        for stage in stages
    )


def answer(report: dict[str, Any], check: dict[str, Any] | None) -> None:
    """The first line: what a GPU found, else what was compiled and whether it meets its bars."""
    if check is None:
        st.markdown(f"## {_compiled(report)} None was timed on a GPU.")
    else:
        speed = _speed(check)
        verdict = _verdict(check) if _has_failed(check) or not speed else ""
        st.markdown(f"## {' '.join(filter(None, (verdict, speed)))}")


def _compiled(report: dict[str, Any]) -> str:
    rows = report["rows"]
    missed = sum(bool(row["misses"]) for row in rows)
    archs = len({row["arch"] for row in rows})
    verdict = "every one meets its static bars" if not missed else f"{missed} miss a static bar"
    return (
        f"Compiled without a GPU: {count(len(rows), 'kernel')} for {archs} architectures, "
        f"{verdict}."
    )


def _compiled_by(report: dict[str, Any]) -> str:
    return f"compiled by Triton {report.get('triton', 'of an unknown version')}"


def _device(check: Mapping[str, Any]) -> str:
    return escape_markdown(str(check["environment"].get("device", "an unknown GPU")))


def _has_failed(check: Mapping[str, Any]) -> bool:
    return any(row.get("passed") is False for row in _rows(check))


def _verdict(check: Mapping[str, Any]) -> str:
    judged = [row for row in _rows(check) if row.get("passed") is not None]
    good = sum(row["passed"] is True for row in judged)
    return f"On {_device(check)}, {good} of {count(len(judged), 'comparison')} passed."


def _speed(check: Mapping[str, Any]) -> str:
    """How fast the largest layer with even routing was, in a sentence; "" if it was not timed."""
    timed = [row for row in _timings(check) if row.get("routing") == "even"]
    most = max((row["sizes"][0] for row in timed), default=0)
    speeds = [speed for speed in figures.speedups(timed) if speed["tokens"] == most]
    rates = [r["forward_tflops"] for r in timed if r["name"] == "triton" and r["sizes"][0] == most]
    if not speeds or not rates:
        return ""
    return (
        f"On {_device(check)} a layer of {most:,} tokens runs forward at {rates[0]:.0f} TFLOP/s, "
        f"{speeds[0]['times']:.1f} times as fast as torch's grouped_mm."
    )


def _timings(check: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of whole layers that were timed."""
    rows = _rows(check, "graph", "name", "sizes")
    return [row for row in rows if isinstance(row.get("forward_ms"), float)]


def _rows(check: Mapping[str, Any], *needed: str) -> list[dict[str, Any]]:
    """Rows of all stages that have these fields."""
    return [row for stage in check["stages"] for row in stage["rows"] if set(needed) <= set(row)]


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
        config=CHART_CONFIG,
        alt=f"FLOP a byte of each kernel at {tokens:,} tokens: {words}.",
    )
    export.offer(
        "kernel roofline",
        charts={"Roofline": "kernel_roofline"},
        tables={"Kernels of the 1B/14B layer": lambda: pd.DataFrame(rows)},
        shown=f"{_compiled_by(report)}; 1B/14B layer, {tokens:,} tokens",
        apart={SIZE},
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
        config=CHART_CONFIG,
        alt=(
            f"The greatest saving is {most['times']:.1f} times, with {most['kept']} experts at "
            f"{most['tokens']:,} tokens; at one token there is none."
        ),
    )
    export.offer(
        "kernel mask savings",
        charts={"What a mask saves": "kernel_mask"},
        tables={"What a mask saves": lambda: pd.DataFrame(savings)},
        shown="lower bound of bytes and FLOPs, 1B/14B layer",
        apart={SIZE},
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
    st.caption(_compiled(report))
    st.dataframe(
        shown[list(COLUMNS)].rename(columns=COLUMNS),
        hide_index=True,
        column_config=formats,
        placeholder=NOTHING,
        key="kernel_table",
        alt=f"Registers, shared memory, occupancy and roofline of {len(rows)} kernels",
    )
    export.offer(
        "kernels",
        tables={"Kernels": lambda: shown[list(COLUMNS)].rename(columns=COLUMNS)},
        shown=_compiled_by(report),
    )


def measured(check: dict[str, Any] | None) -> None:
    """What a GPU found, if someone ran the check there."""
    if check is None:
        return
    st.subheader(f"Measured on {_device(check)}")
    st.markdown(" ".join([_verdict(check), *_unfinished(check), *_sanitized(check)]))
    failed = [row for row in _rows(check) if row.get("passed") is False]
    if failed:
        st.warning("\n".join(["Not passed:", "", *(f"- {_named(row)}" for row in failed)]))
    _speeds(check)
    tables = {
        "kernel_times": _kernels(_rows(check, "kernel", "ms", "sizes")),
        "kernel_timing": _layers(_rows(check, "graph", "name", "sizes")),
    }
    for key, shown in tables.items():
        what = "kernel" if key == "kernel_times" else "implementation"
        if len(shown):
            alt = f"Milliseconds and TFLOP/s of each {what} by number of tokens and routing"
            st.dataframe(
                shown,
                hide_index=True,
                key=key,
                alt=alt,
                column_config=_measured_columns(),
                column_order=_in_sight(shown),
                placeholder=NOTHING,
            )
    export.offer(
        "measured kernels",
        charts={"Times as fast": "kernel_speeds"} if figures.speedups(_timings(check)) else {},
        tables={
            "Kernels": lambda: tables["kernel_times"],
            "Layers": lambda: tables["kernel_timing"],
        },
        shown=_measured_by(check["environment"]),
        apart={ARCH, SIZE},
    )
    _how(check)


def _measured_by(facts: Mapping[str, Any]) -> str:
    """ "NVIDIA H200; torch 2.11.0, triton 3.6.0; kernels 0c4270ca6005": the last is the digest of
    their source."""
    device = str(facts.get("device", "an unknown GPU"))
    source = f"kernels {str(facts['source'])[:DIGITS]}" if facts.get("source") else ""
    return "; ".join(filter(None, [device, _versions(facts), source]))


def _versions(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {facts[name]}" for name in VERSIONS if facts.get(name))


def _how(check: Mapping[str, Any]) -> None:
    facts = check["environment"]
    versions = escape_markdown(_versions(facts))
    with st.expander("How it was measured"):
        st.markdown(
            f"Medians in bf16, one layer; {versions}. Up to 256 tokens are timed "
            "as a CUDA graph. **Over triton**: the forward time over that of the Triton kernels of "
            "this repository; above 1 is slower. Routing is even, skewed, or kept: only 16 experts "
            "live. A layer is its hidden size / width of an expert, experts of a token of all."
        )


def _measured_columns() -> dict[str, Any]:
    """Of both tables: short names, units in them, thousands apart."""

    def number(label: str, form: str, width: int) -> Any:
        return st.column_config.NumberColumn(label, format=form, width=width)

    return {
        "Tokens": number("Tokens", "localized", 66),
        "Routing": st.column_config.TextColumn(width=68),
        "Implementation": st.column_config.TextColumn(width=140),
        "Time (ms)": number("Time (ms)", "%.3f", 86),
        "TFLOP/s": number("TFLOP/s", "localized", 76),
        "GB/s": number("GB/s", "localized", 76),
        "Forward (ms)": number("Forward (ms)", "%.3f", 100),
        "Forward TFLOP/s": number("TFLOP/s", "localized", 70),
        "Forward, triton = 1": number("Over triton", "%.2f", 88),
        "Forward and backward (ms)": number("With backward (ms)", "%.3f", 138),
        "Forward and backward TFLOP/s": number("TFLOP/s", "localized", 70),
        "Peak memory (MiB)": number("Peak (MiB)", "localized", 86),
        "Layer": st.column_config.TextColumn(width=150),
    }


def _in_sight(shown: pd.DataFrame) -> list[str]:
    """What is the same in nearly all rows comes last, and what nothing has is left out."""
    last = [name for name in ("Layer", "Failed with") if name in shown and shown[name].any()]
    return [str(name) for name in shown if name not in ("Layer", "Failed with")] + last


def _speeds(check: Mapping[str, Any]) -> None:
    """The layer beside torch's own, by the number of tokens."""
    speeds = figures.speedups(_timings(check))
    if not speeds:
        return
    words = ", ".join(f"{s['tokens']:,} ({s['routing']}): {s['times']:.1f}" for s in speeds)
    st.plotly_chart(
        figures.measured_speedups(speeds, str(check["environment"].get("device", "a GPU"))),
        key="kernel_speeds",
        config=CHART_CONFIG,
        alt=f"Times as fast as grouped_mm by number of tokens and routing: {words}.",
    )


def _unfinished(check: Mapping[str, Any]) -> list[str]:
    """A sentence on each stage that did not get to its end."""
    return [
        escape_markdown(
            f"{str(stage['name']).capitalize()}: {stage['status']} ({stage['reason']})."
        )
        for stage in check["stages"]
        if stage["status"] != "finished"
    ]


def _sanitized(check: Mapping[str, Any]) -> list[str]:
    """A sentence on each of compute-sanitizer's tools."""
    found = []
    for row in _rows(check, "tool", "ran"):
        tool = escape_markdown(str(row["tool"]))
        if row["ran"]:
            found.append(f"{tool}: {count(int(row.get('reports', 0)), 'report')}.")
        else:
            reason = escape_markdown(str(row.get("reason", "no reason")))
            found.append(f"{tool} did not run: {reason}.")
    return found


def _named(row: Mapping[str, Any]) -> str:
    """What tells a row apart, and its errors."""
    told = ("sizes", "dtype", "gates", "weights", "routing", "call", "save", "what", "tool")
    words = [str(row[name]) for name in told if row.get(name) is not None]
    words += [f"{name} {error:.1e}" for name, error in dict(row.get("errors", {})).items()]
    return escape_markdown(" ".join(words))


def _kernels(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a kernel, number of tokens and routing."""
    shown = [
        {
            "Tokens": row["sizes"][0],
            "Routing": row.get("routing"),
            "Kernel": row["kernel"],
            "Time (ms)": row["ms"],
            "TFLOP/s": row.get("tflops"),
            "GB/s": row.get("gb_per_s"),
        }
        for row in rows
    ]
    return pd.DataFrame(shown).round({"Time (ms)": 3, "TFLOP/s": 0, "GB/s": 0})


def _layers(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row an implementation, layer and routing, with its forward time over that of "triton"."""

    def layer(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return (*row["sizes"], row.get("routing"))

    ours = {layer(row): row.get("forward_ms") for row in rows if row["name"] == "triton"}
    shown = []
    for row in rows:
        tokens, experts, top_k, hidden, width = row["sizes"]
        forward, reference = row.get("forward_ms"), ours.get(layer(row))
        peak = row.get("peak_bytes")
        shown.append(
            {
                "Tokens": tokens,
                "Routing": row.get("routing"),
                "Layer": f"{hidden} / {width}, {top_k} of {experts}",
                "Implementation": row["name"],
                "Forward (ms)": forward,
                "Forward TFLOP/s": row.get("forward_tflops"),
                "Forward, triton = 1": forward / reference if forward and reference else None,
                "Forward and backward (ms)": row.get("forward_backward_ms"),
                "Forward and backward TFLOP/s": row.get("forward_backward_tflops"),
                "Peak memory (MiB)": peak / 2**20 if peak else None,
                "Failed with": row.get("error", ""),
            }
        )
    rounded = {"Forward TFLOP/s": 0, "Forward and backward TFLOP/s": 0, "Peak memory (MiB)": 0}
    return pd.DataFrame(shown).round(rounded).round(3)


def not_measured(report: dict[str, Any], check: dict[str, Any] | None) -> None:
    """What compiling cannot tell, in plain words, and the command that finds out."""
    if check is None:
        st.subheader("What was not measured")
        st.markdown("\n".join(f"- {line}" for line in report["not_measured"]))
        st.markdown("On a machine with a GPU, one command answers these:")
    else:
        st.subheader("On another GPU")
        st.markdown(
            "Compiling alone tells nothing of speed, of races or of what a compiler gets wrong: "
            f"the first section does for {_device(check)}, and this command for another GPU."
        )
    st.code(commands.KERNEL_CHECK, language=None, wrap_lines=True)
