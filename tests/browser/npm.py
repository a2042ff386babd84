"""What npm brings for the browser tests, as package-lock.json says: axe-core and fonts.

python tests/browser/npm.py    installs it, and prints where it is
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "node_modules"
NO_NPM = "npm is missing: install Node.js 20 for the browser tests that need axe-core or a font."
AXE = "axe-core/axe.min.js"
# Of the machines that the tests run on, not all have fonts for these.
FONTS = {
    script: f"@fontsource/noto-sans-{script}/files/noto-sans-{script}-{script}-400-normal.woff2"
    for script in ("devanagari", "tamil", "thai")
}


def installed(file: str) -> Path:
    """Where a package's file is, installed by npm if it was not; RuntimeError in one sentence if
    not."""
    path = FOLDER / file
    if path.exists():
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(NO_NPM)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0 or not path.exists():
        raise RuntimeError(f"{file} could not be installed: {done.stderr.strip()[-500:]}")
    return path


def _main() -> None:
    try:
        for file in (AXE, *FONTS.values()):
            print(installed(file))
    except RuntimeError as error:  # every other test runs without it
        print(error, file=sys.stderr)


if __name__ == "__main__":
    _main()
