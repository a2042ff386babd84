"""A checkpoint of the Hugging Face hub, fetched file by file: how far it is, and a way to stop.

What has arrived stays in the Hugging Face cache: a fetch that was stopped goes on where it was.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from emo_viz.runs.progress import Report
from emo_viz.server import assets
from emo_viz.server.jobs import Cancelled
from model.files import weight_files

MEGABYTE = 1_000_000  # what is reported in: a checkpoint has more bytes than anybody can read


def fetch(name: str, report: Report) -> Path:
    """Fetch what of a checkpoint is not in the cache; returns its folder there.

    report(megabytes that are here, of all): what it raises ends the fetch. Raises ValueError, one
    sentence, if the hub cannot be asked or does not have it.
    """
    from model.families.opening import FILES

    try:
        report(0, 0)
        return _fetch(name, list(FILES), report)
    except Cancelled:
        raise
    except Exception as error:  # the hub's errors, and those of whatever transport it has
        if (here := _whole(name)) is not None:  # without network what is in the cache will do
            return here
        reason = type(error.__cause__ or error).__name__
        raise ValueError(
            f"{name} is no folder here and could not be had from the Hugging Face hub "
            f"({reason}); check the name and the network, or copy it to a folder."
        ) from error


def _whole(name: str) -> Path | None:
    """Its folder in the cache, if all of its weights are there."""
    folder = assets.local_checkpoint(name)
    try:
        return folder if folder and weight_files(folder) else None
    except ValueError:
        return None


def _fetch(name: str, patterns: list[str], report: Report) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    files: Any = snapshot_download(name, allow_patterns=patterns, dry_run=True)
    arrived, total = 0, sum(file.file_size for file in files)
    for file in files:
        before = arrived

        def more(size: float, before: int = before) -> None:
            nonlocal arrived
            arrived = min(before + file.file_size, arrived + int(size))  # noqa: B023 (used at once)
            report(arrived // MEGABYTE, total // MEGABYTE)

        if file.will_download:
            hf_hub_download(name, file.filename, revision=file.commit_hash, tqdm_class=_bar(more))
        arrived = before + file.file_size
        report(arrived // MEGABYTE, total // MEGABYTE)
    return Path(snapshot_download(name, allow_patterns=patterns))  # nothing is left to fetch


def _bar(more: Callable[[float], None]) -> Any:
    """A class of progress bars, as the hub's downloads take one, that draws nothing."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **(named | {"disable": True}))
            more(named.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            more(n or 0)

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire, which come packed: the others are counted."""

    return Bar
