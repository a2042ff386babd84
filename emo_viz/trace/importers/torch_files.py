"""Files of torch.save, without unpickling: weights_only builds tensors and plain containers.

A file that needs anything else is refused. torch is imported when a file is read.
"""

from pathlib import Path
from typing import Any

import numpy as np

from emo_viz.trace.importers.reading import bad, opened_zip


def loaded(path: Path) -> Any:
    """The tensors and containers of a .pt file."""
    import torch

    with opened_zip(path) as archive:
        packed = any(entry.compress_size < entry.file_size for entry in archive.infolist())
    if packed:
        raise bad(path, "is a packed archive, as torch never writes one", "save it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes torch say
        raise bad(
            path,
            "cannot be read as tensors and plain containers: it is damaged, or needs unpickling, "
            "which could run code",
            "save it again without other objects",
        ) from error


def tensor_array(value: object, path: Path, what: str) -> np.ndarray:
    """A tensor as an array; refuses one that claims more numbers than it stores."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        raise bad(path, f"holds no tensor in {what}")
    value = value.detach()
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise bad(path, f"claims more numbers in {what} than it stores")
    array: np.ndarray = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    return array
