"""One small file of what training and evaluation need of a corpus, for a machine without Parquet.

The training split is cut to a number of tokens, and of the held-out split the documents that
measure a model are kept (`model.data.heldout`), with what they are for and how much of each was
seen in training. `unpack` makes a corpus folder of it: `TokenShard.open` and `held_out` read it.
"""

import json
import lzma
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.heldout import held_out
from model.data.shards import Ids, TokenShard, digest_files, read_manifest
from model.files import check_new_file, new_file, new_folder, write_json

# Two bytes a token: the coder keeps statistics for each of them apart.
FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 1 << 26,
        "lc": 3,
        "lp": 1,
        "pb": 1,
    }
]


def pack(
    corpus: Path, out: Path, train_tokens: int, evaluated: int = 12, calibration: int = 12
) -> dict[str, Any]:
    """Write the file `out` (.tar.xz), all or nothing; returns the manifest of what is in it.

    Raises ValueError for a corpus that is missing or damaged, or if `out` cannot be written.
    """
    check_new_file(out)
    train = TokenShard.open(corpus, "train")
    kind = train.tokens.dtype
    documents = max(1, int(np.searchsorted(train.offsets, train_tokens, side="right")) - 1)
    heldout = held_out(corpus, evaluated, calibration)
    with new_folder(out.with_name(out.name + ".folder")) as folder:
        _write_split(
            folder,
            "train",
            [train.document(place) for place in range(documents)],
            {"domain": train.index["domain"].iloc[:documents].tolist()},
            kind,
        )
        if documents < len(train):  # what is seen is seen in the tokens that are packed
            seen = _seen(folder, [each.tokens for each in heldout], kind)
        else:
            seen = [each.seen for each in heldout]
        columns: dict[str, list[Any]] = {
            name: [getattr(each, name) for each in heldout] for name in ("id", "domain", "role")
        }
        columns["seen"] = [round(share, 4) for share in seen]
        _write_split(folder, "heldout", [each.tokens for each in heldout], columns, kind)
        manifest = _finish(folder, corpus)
        _compress(folder, out)
    shutil.rmtree(out.with_name(out.name + ".folder"))
    return manifest


def _seen(folder: Path, documents: list[NDArray[np.int64]], kind: "np.dtype[Ids]") -> list[float]:
    from model.data.seen import seen_shares

    return seen_shares(np.fromfile(folder / "train.bin", kind), documents)


def _write_split(
    folder: Path,
    split: str,
    documents: list[Any],
    columns: dict[str, list[Any]],
    kind: "np.dtype[Ids]",
) -> None:
    np.concatenate(documents).astype(kind).tofile(folder / f"{split}.bin")
    lengths = [len(tokens) for tokens in documents]
    np.save(folder / f"{split}.offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    write_json(folder / f"{split}.index.json", columns, indent=None)


def _finish(folder: Path, corpus: Path) -> dict[str, Any]:
    """Tokenizer and manifest: the packed corpus is one of its own, with its own digest."""
    shutil.copytree(corpus / "tokenizer", folder / "tokenizer")
    given = read_manifest(corpus)
    counts = {
        split: {
            "tokens": int(np.load(folder / f"{split}.offsets.npy")[-1]),
            "documents": len(np.load(folder / f"{split}.offsets.npy")) - 1,
        }
        for split in ("train", "heldout")
    }
    kept = ("format", "format_version", "tokenizer", "settings")
    manifest = {name: given[name] for name in kept if name in given}
    manifest |= {"packed_from": given.get("digest"), "splits": counts}
    manifest["digest"] = digest_files(folder)
    write_json(folder / "manifest.json", manifest)
    return manifest


def _compress(folder: Path, out: Path) -> None:
    with (
        new_file(out) as temporary,
        lzma.open(temporary, "wb", filters=FILTERS) as raw,
        tarfile.open(fileobj=raw, mode="w") as archive,
    ):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, path.relative_to(folder).as_posix(), filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Equal contents give equal files: without times and owners."""
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry


def unpack(file: Path, out: Path) -> Path:
    """Make the corpus folder `out` of a packed file, all or nothing; one of the same file stays.

    Raises ValueError if the file is missing or damaged, or `out` is something else.
    """
    mark = out / "packed.json"
    wanted = {"bytes": file.stat().st_size if file.is_file() else None}
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == wanted:
        return out
    if out.exists():
        raise ValueError(f"{out} is there already; name a folder that is not.")
    with new_folder(out) as folder:
        try:
            with tarfile.open(file, "r:xz") as archive:
                archive.extractall(folder, filter="data")
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
            raise ValueError(
                f"{file} is no packed corpus, or damaged; pack or copy it again."
            ) from error
        write_json(folder / "packed.json", wanted)
    return out
