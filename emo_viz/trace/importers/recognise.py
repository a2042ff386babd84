"""Which tool wrote a file or folder, told by its content."""

from pathlib import Path
from typing import Any

from emo_viz.trace.importers.counts import csv_columns
from emo_viz.trace.importers.folders import is_emo_folder
from emo_viz.trace.importers.gguf import MAGIC as GGUF_MAGIC
from emo_viz.trace.importers.reading import NPY_MAGIC, Records, bad, first_object, opened_zip
from emo_viz.trace.importers.routed_experts import is_response
from emo_viz.trace.importers.tokens import TRACES

ZIP_MAGIC = b"PK\x03\x04"
PARQUET_MAGIC = b"PAR1"
PICKLE_MAGIC = b"\x80"
GZIP_MAGIC = b"\x1f\x8b"
HEAD = 1 << 16
KNOWN = "a routing file of a tool in the list of emo_viz.trace.importers is expected"


def recognised(path: Path) -> str:
    """The kind of a file or folder, one of `READERS`.

    Raises ValueError if it is none, or needs unpickling.
    """
    if path.is_dir():
        return _folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise bad(path, f"cannot be read ({error.strerror})", "check the path") from error
    if not head:
        raise bad(path, "is empty", KNOWN)
    magics = {NPY_MAGIC: "array", GGUF_MAGIC: "imatrix", PARQUET_MAGIC: "flame"}
    for magic, kind in magics.items():
        if head.startswith(magic):
            return kind
    if head.startswith(ZIP_MAGIC):
        return _zip(path)
    if head.startswith(PICKLE_MAGIC):
        raise bad(path, "is a pickle, which could run code", "export tensors, JSON or .npy instead")
    if head.startswith(GZIP_MAGIC):
        raise bad(path, "is packed with gzip", "unpack it first")
    return _text(path, head)


def _folder(path: Path) -> str:
    if is_emo_folder(path):
        return "emo"
    if any(path.glob(TRACES)):
        return "megatron"
    if any(path.glob("layer*.parquet")):
        return "flame"
    raise bad(path, "is a folder of no known form", KNOWN)


def _zip(path: Path) -> str:
    with opened_zip(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "array"
    raise bad(path, "is a zip archive of no known form", KNOWN)


def _text(path: Path, head: bytes) -> str:
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        record = first_object(path)
        kind = _json(Records(path)[0] if record is None else record)
        if kind:
            return kind
        raise bad(path, "is JSON of no known form", KNOWN)
    lines = head.decode("utf-8-sig", "replace").splitlines()
    first = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    if csv_columns(first):
        return "csv"
    raise bad(path, "is a file of no known form", KNOWN)


def _json(record: dict[str, Any]) -> str | None:
    signs = {
        "moe-atlas": {"activations", "token_strs"},
        "olmoe": {"exp_ids", "input_ids"},
        "megatron": {"top_indices", "layer"},
    }
    for kind, keys in signs.items():
        if keys <= record.keys():
            return kind
    if is_response(record):
        return "responses"
    return "flame" if "indices" in record else None
