"""What a derived file was made from, and whether that is still what lies here.

Traces, token clusters, maps and curves are each made by a command from checkpoints and documents.
A file says the digests of these; when one of them is replaced, `stale` says which files are of
the old one. What a file does not say (those of earlier versions say less) is unknown, not stale.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from emo_viz.analysis.runs import from_version_1, label_of, runs_in
from model.files import FileState, file_state, weights_digest

if TYPE_CHECKING:
    from emo_viz.trace import Trace

MEND = "run `make assets`"
SHOWN = 6  # letters of a digest: enough to tell two apart


@dataclass(frozen=True)
class Weights:
    """A checkpoint's name and the digest of its weights."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Origins:
    """Digests of what something was made from; None or absent where it is not known.

    models: by run id. documents, calibration: `documents_digest`.
    """

    models: Mapping[str, Weights] = field(default_factory=dict)
    documents: str | None = None
    calibration: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; what is unknown is left out."""
        models = {run: vars(weights) for run, weights in self.models.items()}
        texts = {"documents": self.documents, "calibration": self.calibration}
        return {"models": models} | {name: digest for name, digest in texts.items() if digest}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Origins":
        """What a file says in "models", "documents", "calibration"; what it lacks is unknown."""
        models = {
            str(run): Weights(str(weights["name"]), str(weights["sha256"]))
            for run, weights in dict(fields.get("models") or {}).items()
        }
        return cls(models, _text(fields.get("documents")), _text(fields.get("calibration")))


def version_1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of format version 1 says of its origins, with the models by run id."""
    return {**fields, "models": from_version_1(dict(fields.get("models") or {}))}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def stale(what: str, made_from: Origins, present: Origins, mend: str = MEND) -> list[str]:
    """A sentence for everything that `what` (in the plural: "The curves") was made from and that
    is another now; none where nothing differs or where either side is unknown."""
    found = [
        f"{what} were made with another {label_of(run)} checkpoint ({old.name} "
        f"{_short(old.sha256)}, now {present.models[run].name} "
        f"{_short(present.models[run].sha256)}); {mend}."
        for run, old in made_from.models.items()
        if run in present.models and present.models[run].sha256 != old.sha256
    ]
    for name in ("documents", "calibration"):
        old_digest, now = getattr(made_from, name), getattr(present, name)
        if old_digest and now and old_digest != now:
            texts = "documents" if name == "documents" else "calibration documents"
            found.append(
                f"{what} were made with other {texts} ({_short(old_digest)}, now {_short(now)}); "
                f"{mend}."
            )
    return found


def _short(digest: str) -> str:
    return f"{digest[:SHOWN]}\u2026"


def documents_digest(documents: pd.DataFrame) -> str:
    """SHA-256 of the columns id, domain and text of documents, in their order."""
    columns = (map(str, documents[name]) for name in ("id", "domain", "text"))
    return _digest_of(zip(*columns, strict=True))


def _digest_of(rows: Iterable[tuple[str, ...]]) -> str:
    state = hashlib.sha256()
    for row in rows:  # escaped by JSON: half a character has no UTF-8, and no two rows look alike
        state.update(json.dumps(row).encode() + b"\n")
    return state.hexdigest()


def present_origins(
    checkpoints: Mapping[str, Path], documents: Path | None = None, calibration: Path | None = None
) -> Origins:
    """What lies here now: checkpoint folders by run id, and Parquet files of documents.

    What is missing or cannot be read is unknown; whoever needs it says so. Files are read again
    only when their size or time has changed.
    """
    models = {run: _weights(folder) for run, folder in checkpoints.items()}
    return Origins(
        {run: weights for run, weights in models.items() if weights},
        _file_digest(documents),
        _file_digest(calibration),
    )


def assets_origins(root: Path) -> Origins:
    """`present_origins` of a folder that is laid out as assets/ is."""
    documents = root / "documents"
    return present_origins(
        {run.id: run.checkpoint for run in runs_in(root) if run.checkpoint},
        documents / "documents.parquet",
        documents / "calibration.parquet",
    )


def _weights(folder: Path) -> Weights | None:
    try:
        return Weights(folder.resolve().name, weights_digest(folder))
    except (ValueError, OSError):
        return None


def _file_digest(path: Path | None) -> str | None:
    try:
        return _cached(file_state(path)) if path else None
    except (ValueError, OSError, KeyError, pa.ArrowException):  # of bytes that are no text
        return None


@lru_cache(maxsize=16)
def _cached(file: FileState) -> str:
    """The state is the key: a file that is replaced is read again."""
    return documents_digest(pd.read_parquet(file.path, columns=["id", "domain", "text"]))


def of_trace(trace: "Trace", run: str) -> Origins:
    """What a trace was recorded from, as the run of this id, as far as its source knew.

    It holds the documents themselves, unless their texts or domains are absent.
    """
    model = trace.manifest.model
    weights = Weights(model.name, model.checkpoint_sha256)
    whole = trace.has("text") and trace.has("domain")
    return Origins(
        {run: weights} if model.checkpoint_sha256 else {},
        documents_digest(trace.documents) if whole else None,
    )
