"""The training histories that are here: analysis/training-*.npz of the assets, of the user's own
pairs, and what else lies in the user's folder."""

from contextlib import suppress
from pathlib import Path

from emo_viz.analysis.training_history import PATTERN, History, read_history
from emo_viz.server import assets, caches, home, pairs

OWN = "training"  # of the user's folder


def paths() -> list[Path]:
    """The files, bundled ones first, each once: the assets folder may be a listed one too."""
    listed = [pair for pair in pairs.listed().values() if isinstance(pair, pairs.Pair)]
    places = [folder / "analysis" for folder in (assets.root(), *(one.folder for one in listed))]
    with suppress(ValueError):  # there may be no place for what is the user's own
        places.append(home.folder() / OWN)
    once = dict[Path, Path]()
    for place in places:
        once.setdefault(place.resolve(), place)
    return [path for place in once.values() for path in _in(place)]


def _in(place: Path) -> list[Path]:
    return sorted(place.glob(PATTERN)) if place.is_dir() else []


def is_bundled(path: Path) -> bool:
    """Whether a file is of the assets, not the user's own."""
    return path.parent == assets.root() / "analysis"


def key(path: Path) -> str:
    """What changes with the file: caches of it go by this."""
    return assets.content(path)


def read(path: Path) -> History:
    """A history, read once for all visitors. Raises ValueError if it cannot be read."""
    return _read(str(path), key(path))


@caches.for_all(8)
def _read(path: str, content: str) -> History:
    return read_history(Path(path))
