"""What the README tells a reader to type exists: make targets, modules, files."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```[ \t]*(\w*)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
SHELL = ("", "bash", "sh", "shell", "console")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
PROGRAMS = ("make", "python", "git", "cd", "torchrun", "pytest", "pip", "streamlit")


def shell_lines(text: str) -> list[str]:
    """The commands in the fenced shell blocks, without prompts, comments and continuations."""
    blocks = [body for language, body in FENCE.findall(text) if language in SHELL]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [shlex.join(words) for words in commands if words]


def problem(command: str, targets: set[str]) -> str | None:
    """Why a command cannot work in this repository, or None."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    program = words[0].rsplit("/", 1)[-1]
    if program not in PROGRAMS:
        return f"{program} is not a program that the README may ask for"
    if program == "make":
        goals = set(words[1:])
        return None if goals <= targets else f"the Makefile has no {goals - targets}"
    if "-m" in words:
        return _module_problem(words[words.index("-m") + 1])
    missing = [word for word in words[1:] if word.endswith(".py") and not (ROOT / word).exists()]
    return f"there is no {missing[0]}" if missing else None


def _module_problem(module: str) -> str | None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    return None if found else f"there is no module {module}"


README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))


def test_readme_starts_with_the_two_commands():
    commands = shell_lines(README)
    assert "make app" in commands
    assert "make test" in commands


@pytest.mark.parametrize("command", shell_lines(README))
def test_command_of_the_readme_exists(command: str):
    assert problem(command, TARGETS) is None


@pytest.mark.parametrize(
    "command",
    ["make nonsense", "python -m model.nonsense", "python -m nonsense.x", "python no.py", "emo"],
)
def test_a_command_that_does_not_exist_is_found(command: str):
    assert problem(command, TARGETS) is not None


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", README))
def test_file_that_the_readme_links_exists(target: str):
    assert (ROOT / target).exists()
