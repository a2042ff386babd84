"""The process of one stage: python -m model.kernels.check.child MODULE:FUNCTION ROWS ARGUMENTS

Calls the function with the arguments of one JSON file and writes its rows into another, anew after
each of them, so that a process that dies leaves what it had.
"""

import faulthandler
import importlib
import sys
from pathlib import Path

from model.files import read_json, write_json


def main(entry: str, result: Path, arguments: Path) -> None:
    """Run one stage to its end."""
    faulthandler.enable()
    module, name = entry.split(":")
    rows = []
    for row in getattr(importlib.import_module(module), name)(**read_json(arguments)):
        rows.append(row)
        write_json(result, {"rows": rows}, indent=None)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
