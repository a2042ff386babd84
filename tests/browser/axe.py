"""axe-core, which finds what keeps people with a screen reader, a keyboard or weak sight out.

python tests/browser/axe.py    installs the version of package-lock.json, and prints where it is
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "node_modules" / "axe-core" / "axe.min.js"
NO_NPM = "npm is missing: install Node.js 20 for the accessibility tests, which need axe-core."
SERIOUS = ("serious", "critical")
# Held as well, though axe counts them as moderate.
ALSO = ("page-has-heading-one", "heading-order")


def installed() -> Path:
    """Where axe-core is, installed by npm if it was not; RuntimeError in one sentence if not."""
    if SCRIPT.exists():
        return SCRIPT
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(NO_NPM)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0 or not SCRIPT.exists():
        raise RuntimeError(f"axe-core could not be installed: {done.stderr.strip()[-500:]}")
    return SCRIPT


def violations(page: Page, exclude: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with the page as it stands now, a line for each element.

    exclude: CSS selectors of what is left out.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    context = {"exclude": [[selector] for selector in exclude]} if exclude else {}
    found: list[dict[str, Any]] = page.evaluate(
        "async (context) => (await axe.run({include: [['html']], ...context}, "
        "{resultTypes: ['violations']})).violations",
        context,
    )
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]}: {node['failureSummary']}"
        for one in found
        if one["impact"] in SERIOUS or one["id"] in ALSO
        for node in one["nodes"]
    ]


def _main() -> None:
    try:
        print(installed())
    except RuntimeError as error:  # every other test runs without it
        print(error, file=sys.stderr)


if __name__ == "__main__":
    _main()
