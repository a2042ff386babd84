"""The check as lines of text: what was compared, what was timed, the verdict last."""

from collections.abc import Iterator, Sequence
from typing import Any

from model.kernels.check import stages
from model.kernels.check.stages import Outcome, Row

VERDICTS = {
    stages.PASSED: "Everything passed.",
    stages.WRONG: "Something is WRONG: see the rows marked FAILED.",
    stages.INCOMPLETE: "Nothing wrong was found, but not everything ran: see the stages above.",
}


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Failures first, then times, then one line a stage, then the verdict."""
    outcomes: Sequence[Outcome] = result["stages"]
    rows = [row for outcome in outcomes for row in outcome["rows"]]
    for outcome in outcomes:
        yield from (
            f"FAILED {outcome['name']}: {_name(row)} {_worst(row)}"
            for row in outcome["rows"]
            if row.get("passed") is False
        )
    yield from _kernels([row for row in rows if "kernel" in row])
    yield from _layers([row for row in rows if "graph" in row])
    yield from (_sanitizer(row) for row in rows if "tool" in row)
    yield ""
    facts = result["environment"]
    names = ("device", "driver", "torch", "cuda", "triton", "transformers", "python", "source")
    yield ", ".join(f"{name} {facts[name]}" for name in names if facts.get(name))
    yield from (stages.sentence(outcome) for outcome in outcomes)
    yield f"{_verdict(result['exit_code'], outcomes)} (exit code {result['exit_code']})"


def _verdict(exit_code: int, outcomes: Sequence[Outcome]) -> str:
    """In a sentence. Passing needs no optional stage; what was not done is named."""
    undone = [outcome["name"] for outcome in outcomes if outcome["status"] != stages.FINISHED]
    if exit_code == stages.PASSED and undone:
        names = ", ".join(undone)
        return f"All that was done passed; not done: {names}. Give more --minutes for them."
    return VERDICTS[exit_code]


def _name(row: Row) -> str:
    shown = ("sizes", "dtype", "gates", "weights", "routing", "call", "save", "what", "tool")
    return " ".join(str(row[name]) for name in shown if row.get(name) is not None)


def _worst(row: Row) -> str:
    """The outputs that are above the bar."""
    found = row.get("errors", {})
    return ", ".join(f"{name} {error:.1e}" for name, error in found.items())


def _kernels(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield f"\n{'tokens':>7} {'routing':8}{'kernel':20}{'ms':>9}{'TFLOP/s':>9}{'GB/s':>7}"
    for row in rows:
        rates = "".join(
            f"{row[name]:{width}.0f}"
            for name, width in (("tflops", 9), ("gb_per_s", 7))
            if name in row
        )
        yield (f"{row['sizes'][0]:7} {row['routing']:8}{row['kernel']:20}{row['ms']:9.3f}{rates}")


def _layers(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield (
            f"\n{'tokens':>7} {'routing':8}{'implementation':26}{'forward':>9}{'TFLOP/s':>9}"
            f"{'both':>9}{'TFLOP/s':>9}{'peak GiB':>9}"
        )
    for row in rows:
        start = f"{row['sizes'][0]:7} {row['routing']:8}{row['name']:26}"
        if "error" in row:
            yield f"{start} {row['error'][:100]}"
            continue
        peak = f"{row['peak_bytes'] / 2**30:9.1f}" if row.get("peak_bytes") else ""
        yield (
            f"{start}{row['forward_ms']:9.3f}{row['forward_tflops']:9.0f}"
            f"{row['forward_backward_ms']:9.3f}{row['forward_backward_tflops']:9.0f}{peak}"
        )


def _sanitizer(row: Row) -> str:
    if not row["ran"]:
        return f"{row['tool']}: {row['reason'].splitlines()[0]}"
    kernels = ", ".join(f"{name} {count}" for name, count in row["kernels"].items())
    return f"{row['tool']}: {row['reports']} reports{f' ({kernels})' if kernels else ''}"
