"""What a folder of `python -m emo_viz analyse` is of: its runs, their trainings, the corpus."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from emo_viz.analysis.runs import safe_id
from model.files import read_json, write_json

FILE = "pair.json"
FORMAT, FORMAT_VERSION = "emo-viz-pair", 1


@dataclass(frozen=True)
class Sources:
    """ids: of the runs, EMO first. runs: the folder of each one's training. name: what the ids
    begin with."""

    name: str
    ids: tuple[str, ...]
    runs: tuple[Path, ...]
    corpus: Path

    def command(self, out: Path) -> str:
        """The command that makes everything of them in `out`, or goes on making it."""
        runs = " ".join(shlex.quote(str(run)) for run in self.runs)
        corpus, where = shlex.quote(str(self.corpus)), shlex.quote(str(out))
        return (
            f"python -m emo_viz analyse --runs {runs} --corpus {corpus} --out {where} "
            f"--name {shlex.quote(self.name)}"
        )


def write_sources(folder: Path, sources: Sources) -> None:
    """Write it down in the folder, with absolute paths."""
    said = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": sources.name,
        "ids": list(sources.ids),
        "runs": [str(run.absolute()) for run in sources.runs],
        "corpus": str(sources.corpus.absolute()),
    }
    write_json(folder / FILE, said)


def read_sources(folder: Path) -> Sources:
    """Raises ValueError, one sentence, where there is none that can be read."""
    path = folder / FILE
    said = read_json(path)
    if said.get("format") != FORMAT or said.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path} is not of pair format {FORMAT_VERSION}; analyse the runs again.")
    try:
        name, corpus = map(_text, (said["name"], said["corpus"]))
        ids, runs = (tuple(map(_text, said[key])) for key in ("ids", "runs"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; analyse the runs again.") from error
    safe = all(run == safe_id(run) for run in ids)
    if not safe or len(ids) not in (1, 2) or len({*ids}) < len(ids) or len(ids) != len(runs):
        raise ValueError(f"{path} is damaged; analyse the runs again.")
    return Sources(name, ids, tuple(map(Path, runs)), Path(corpus))


def _text(value: object) -> str:
    """Raises TypeError for what is no name and no path."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError(value)
    return value
