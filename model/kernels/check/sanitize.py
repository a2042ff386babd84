"""The last stage: compute-sanitizer over the smallest cases, where it is installed and can run.

memcheck decides: an access outside of every tensor, or misaligned, is a fault. racecheck does not:
it is known to report the compiler's own reductions in shared memory as hazards (triton#7264), so
that its reports are counted, by kernel, to be read by a person.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.files import write_json

Row = dict[str, Any]
TOOL = "compute-sanitizer"
SUMMARY = re.compile(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)")
INVALID = re.compile(r"Invalid __\w+__|Misaligned")
KERNEL = re.compile(r"\b(\w+_kernel)\b")
OUTPUT_CHARACTERS = 1500
# The allocator's own pool would hide what lies past the end of a tensor.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def sanitize(device: str, cases: Sequence[Row], tool: str = "memcheck") -> Iterator[Row]:
    """One row: whether the tool ran and what it counted."""
    program = shutil.which(TOOL)
    if program is None:
        yield {"tool": tool, "ran": False, "reason": f"{TOOL} is not installed"}
        return
    with tempfile.TemporaryDirectory() as folder:
        rows, arguments = Path(folder, "rows.json"), Path(folder, "arguments.json")
        write_json(arguments, {"device": device, "cases": list(cases)})
        command = [program, "--tool", tool, "--print-limit", "20"]
        # torch asks the driver for what it may not have: no fault of a kernel.
        command += ["--report-api-errors", "no"] if tool == "memcheck" else []
        command += [sys.executable, "-m"]
        command += ["model.kernels.check.child", "model.kernels.check.numbers:compare"]
        run = subprocess.run(
            [*command, str(rows), str(arguments)],
            capture_output=True,
            text=True,
            env=os.environ | ENVIRONMENT,
            check=False,
        )
    yield {"tool": tool} | judge(tool, run.stdout + run.stderr)


def judge(tool: str, output: str) -> Row:
    """What a tool's output says; without a summary it did not get to the end."""
    counts = [int(count) for count in SUMMARY.findall(output)]
    if not counts:
        words = output.strip()[-OUTPUT_CHARACTERS:] or "it printed nothing"
        return {"ran": False, "reason": f"{tool} did not get to its end: {words}"}
    # Only what it says of our kernels: torch's are not the question here.
    lines = [line for line in output.splitlines() if " at " in line]
    kernels = Counter(name for line in lines for name in KERNEL.findall(line))
    found: Row = {"ran": True, "reports": sum(counts), "kernels": dict(kernels)}
    if tool == "memcheck":
        found["passed"] = not INVALID.search(output)
    return found | ({"output": output[-OUTPUT_CHARACTERS:]} if sum(counts) else {})
