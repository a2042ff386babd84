"""Reads the shards that several processes wrote, and runs nothing that stands in them.

torch.distributed.checkpoint pickles its index (.metadata) and its plain values; a pickle can name
any function. Here it can name what such an index is made of, and files of its own folder.
"""

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from model.files import inside
from model.train.checkpoint import Damaged

INDEX_CLASSES = (
    *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties"),
    *("BytesStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
)
PATHS = ("PosixPath", "WindowsPath")
ALLOWED = {
    *(("torch.distributed.checkpoint.metadata", name) for name in INDEX_CLASSES),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    # Where it was written; later Pythons keep the class in a module of its own.
    *((module, kind) for module in ("pathlib", "pathlib._local") for kind in PATHS),
}


def read_shards(state: dict[str, Any], folder: Path) -> None:
    """Fill `state` from the shards in `folder`, each process what it holds.

    Raises Damaged, on all processes, if they are missing or damaged.
    """
    reader = ShardReader(folder)
    try:
        reader.read_metadata()
    except Exception as error:  # whatever a damaged pickle leads to; torch would log all of it
        raise Damaged(f"{folder} is damaged: its .metadata cannot be read") from error
    try:
        alone = not dist.is_initialized()
        with warnings.catch_warnings():  # which says that one process reads; it is meant to
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(state, storage_reader=reader, planner=_Planner(), no_dist=alone)
    except CheckpointException as error:
        raise Damaged(f"{folder} is damaged: its shards cannot be read") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an index")


class ShardReader(FileSystemReader):
    """torch's reader, with an index that can name nothing but its own parts and files."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index of the checkpoint. Raises UnpicklingError or ValueError if it is no such."""
        with Path(self._get_metadata_path(kwargs.get("rank"))).open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("this is no index of a checkpoint")
        for item in (metadata.storage_data or {}).values():
            inside(Path(self.path), item.relative_path)
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """A plain value: numbers, strings and lists of such."""
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)
