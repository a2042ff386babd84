"""python -m tests.kernels.compiled FILE: the kernels' report, compiled as far as that can tell.

While the kernels' files and Triton are those that the bundled GPU check and report are of, a
compiler can only repeat itself: every TENTH kernel is compiled anew, and the rows of the others
are the bundled report's. Else all are compiled, as `python -m model.kernels.report` does.
"""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import triton

from model.kernels import plans, report
from model.kernels.check.prepare import source_digest

ANALYSIS = Path(__file__).parents[2] / "assets" / "analysis"
TENTH = 10
JOBS = max(1, (os.cpu_count() or 1) - 1)


def bundled() -> dict | None:
    """The bundled report, if it is of these kernels and this Triton."""
    found = json.loads((ANALYSIS / "kernel_report.json").read_text())
    checked = json.loads((ANALYSIS / "kernel_check.json").read_text())["environment"]["source"]
    return found if (checked, found["triton"]) == (source_digest(), triton.__version__) else None


def main(path: Path) -> None:
    """Write the report, with the places of the rows that were compiled now as `anew`."""
    kernels = [kernel for arch in plans.ARCHITECTURES for kernel in report.shipped(arch)]
    known = bundled()
    if known is None:
        made = report.build(plans.ARCHITECTURES, JOBS) | {"anew": list(range(len(kernels)))}
    else:
        anew = range(0, len(kernels), TENTH)
        with ProcessPoolExecutor(JOBS) as pool:
            rows = pool.map(report.examine, [kernels[at] for at in anew])
        made = known | {"rows": known["rows"].copy(), "anew": list(anew)}
        for at, row in zip(anew, rows, strict=True):
            made["rows"][at] = row
        assert [row["arch"] for row in made["rows"]] == [kernel.arch for kernel in kernels]
        made["costs"] = report.cost_summary()
    path.write_text(json.dumps(made))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
