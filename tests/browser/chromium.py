"""The Chromium that the browser tests and the screenshots use.

python tests/browser/chromium.py    finds one, or installs one, and prints where it is
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",  # Chromium refuses to run as root (containers, CI) with its sandbox on
    "--js-flags=--no-opt --no-maglev",  # a visit is too short for them: a sixth of its time
    "--process-per-site",  # a tab of the same context finds what the one before has compiled
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL by software; later builds do not fall back by themselves
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find() -> str | None:
    """Path of an installed Chromium or Chrome, else of Playwright's own, else None."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    with sync_playwright() as playwright:
        bundled = playwright.chromium.executable_path
    return bundled if Path(bundled).exists() else None


def install() -> None:
    """Install Chromium: Debian's where we may, else Playwright's for this user."""
    root = _root_prefix()
    if root is not None and _is_debian() and _apt(root):
        return
    libraries = [] if root is None else ["--with-deps"]
    playwright = [sys.executable, "-m", "playwright"]
    subprocess.run([*playwright, "install", *libraries, "chromium"], check=True)


def _root_prefix() -> list[str] | None:
    """What to put before a command that needs root: [], ["sudo", ...], or None if we may not."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive"]
    if (
        shutil.which("sudo")
        and subprocess.run([*sudo, "true"], capture_output=True).returncode == 0
    ):
        return sudo
    return None


def _is_debian() -> bool:
    release = Path("/etc/os-release")
    return release.exists() and "ID=debian" in release.read_text().split()


def _apt(root: list[str]) -> bool:
    get = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    commands = ([*get, "update"], [*get, "install", "-y", "chromium"])
    return all(subprocess.run(command).returncode == 0 for command in commands)


def _main() -> None:
    if find() is None:
        try:
            install()
        except subprocess.CalledProcessError:
            sys.exit(
                "No Chromium could be installed: install Chromium or Chrome and run this again."
            )
    print(find())


if __name__ == "__main__":
    _main()
