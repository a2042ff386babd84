"""Careful readers: a claimed size is checked against the bytes that are there before it is used.

Nothing is unpickled. Each raises ValueError, one sentence that names the file.
"""

import base64
import binascii
import gzip
import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any, Literal, overload

import numpy as np

from model.files import read_text

NPY_MAGIC = b"\x93NUMPY"
MAX_LINE = 1 << 28
MAX_JSON = 1 << 30
# What an archive may hold beside 32 times its own size: ids are small numbers and pack well.
UNPACKED = 1 << 28
MAX_LAYERS = 4096
# More experts than any model has, and few enough that a table of counts stays small.
MAX_EXPERTS = 1 << 16
MAX_TABLE = 1 << 24  # layers x experts


def bad(path: Path, why: str, mend: str = "export it again") -> ValueError:
    """The one sentence for a file that cannot be used."""
    return ValueError(f"{path} {why}; {mend}.")


def times(number: int, what: str) -> str:
    """1 place, 2 places."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def listed(layers: Sequence[int] | np.ndarray) -> str:
    """layer 3; layers 0, 1 and 5."""
    names = [str(layer) for layer in layers]
    if len(names) > 8:
        names = [*names[:8], f"{len(names) - 8} more"]
    if len(names) == 1:
        return f"layer {names[0]}"
    return f"layers {', '.join(names[:-1])} and {names[-1]}"


def read_npy(path: Path) -> np.ndarray:
    """An .npy file of numbers as a read-only map of the file."""
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _npy_header(file)
            start, size = file.tell(), path.stat().st_size
    except OSError as error:
        raise bad(path, f"cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, EOFError) as error:
        raise bad(path, "is not an .npy file of numbers") from error
    if prod(shape) * dtype.itemsize != size - start:
        raise bad(path, "has another size than its header says: it is cut short", "copy it again")
    if 0 in shape:
        return np.empty(shape, dtype)
    order: Literal["C", "F"] = "F" if fortran else "C"
    array: np.ndarray = np.memmap(
        path, dtype=dtype, mode="r", offset=start, shape=shape, order=order
    )
    return array


def npy_bytes(data: bytes, path: Path, what: str) -> np.ndarray:
    """An array of numbers out of the bytes of an .npy file; what: where in `path` they stood."""
    stream = io.BytesIO(data)
    try:
        shape, fortran, dtype = _npy_header(stream)
    except (ValueError, EOFError) as error:
        raise bad(path, f"holds no .npy array of numbers in {what}") from error
    rest = data[stream.tell() :]
    if prod(shape) * dtype.itemsize != len(rest):
        raise bad(path, f"has another size in {what} than its header says: it is cut short")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"unknown .npy version {version}")
    try:
        shape, fortran, dtype = readers[version](stream)
    except (TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError) as error:
        raise ValueError(str(error)) from error
    if dtype.kind not in "biuf" or any(length < 0 for length in shape):
        raise ValueError(f"arrays of {dtype} are not read")
    return shape, fortran, dtype


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; refuses one that unpacks to far more than it holds."""
    room = UNPACKED + 32 * path.stat().st_size
    arrays = {}
    with opened_zip(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > room:
                raise bad(path, f"would unpack to more than {room >> 20} MiB")
            room -= entry.file_size
            data = _unpacked(archive, entry, path)
            arrays[entry.filename.removesuffix(".npy")] = npy_bytes(
                data, path, repr(entry.filename)
            )
    return arrays


def opened_zip(path: Path) -> zipfile.ZipFile:
    """A zip archive, to be used in a `with`."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise bad(path, "is a damaged zip archive", "copy it again") from error


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> bytes:
    """One member's bytes, never more than it claims."""
    faults = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
    try:
        with archive.open(entry) as file:
            return file.read(entry.file_size)
    except faults as error:  # NotImplementedError is a RuntimeError
        raise bad(path, f"has a damaged member {entry.filename!r}", "copy it again") from error


def base64_bytes(text: str, path: Path, what: str) -> bytes:
    """The bytes behind a base64 text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad(path, f"holds no valid base64 in {what}: it is cut short or altered") from error


def int_array(value: object, path: Path, what: str, dims: int) -> np.ndarray:
    """Nested lists (or an array) of whole numbers as int32 with `dims` axes."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise bad(path, f"is ragged in {what}: its lists differ in length") from error
    if array.size == 0:
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu" or array.ndim != dims:
        raise bad(
            path,
            f"holds {array.ndim} axes of {array.dtype} in {what}",
            f"{dims} of whole numbers are expected",
        )
    if array.size and (int(array.max()) >= 1 << 31 or int(array.min()) < -(1 << 31)):
        raise bad(path, f"holds a number in {what} that is too large for an id")
    return array.astype(np.int32)


def float_array(value: object, path: Path, what: str, dims: int) -> np.ndarray:
    """Nested lists (or an array) of numbers as float32 with `dims` axes."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise bad(path, f"is ragged in {what}: its lists differ in length") from error
    if (array.size and array.dtype.kind not in "iuf") or array.ndim != dims:
        raise bad(
            path,
            f"holds {array.ndim} axes of {array.dtype} in {what}",
            f"{dims} of numbers are expected",
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def whole(record: dict[str, Any], key: str, path: Path, below: int = 1 << 31) -> int:
    """A whole number 0 <= n < below out of a record."""
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
        raise bad(path, f"has {key} = {str(value)[:40]!r}", f"0 to {below - 1} is expected")
    return value


def check_table(path: Path, layers: int, experts: int) -> None:
    """Refuse a model of more layers and experts than any has, before a table of them is made."""
    if layers > MAX_LAYERS or experts > MAX_EXPERTS or layers * experts > MAX_TABLE:
        raise bad(path, f"tells of {experts} experts in {layers} layers, more than any model has")


def check_cells(path: Path, cells: int, held: int) -> None:
    """Refuse a sparse file whose table would be far larger than what it holds."""
    if cells > 64 * held + (1 << 20):
        raise bad(path, f"names {cells} slots of experts and fills almost none of them")


def gzip_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl.gz file."""
    try:
        with gzip.open(path) as file:
            for number, (_, line) in enumerate(_lines(file, path), 1):
                yield _object(line, path, f"line {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise bad(path, "is a damaged gzip file", "copy it again") from error


def _lines(file: Any, path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each line that is not blank."""
    offset = 0
    while line := file.readline(MAX_LINE):
        if len(line) >= MAX_LINE:
            raise bad(path, f"has a line of more than {MAX_LINE >> 20} MiB")
        if line.strip():
            yield offset, line
        offset += len(line)


def _object(line: bytes, path: Path, what: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise bad(path, f"holds no valid JSON in {what}: it is cut short or altered") from error
    if not isinstance(record, dict):
        raise bad(path, f"holds no JSON object in {what}")
    return record


class Records(Sequence[dict[str, Any]]):
    """The JSON objects of a file: one a line, or one object, or one list of objects.

    Of a file with one a line only the places are kept, and a line is read when it is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole: list[dict[str, Any]] | None = None
        self._offsets: list[int] = []
        self._last: tuple[int, dict[str, Any]] | None = None
        if first_object(path) is None:
            self._whole = _whole_json(path)
        else:
            with path.open("rb") as file:
                self._offsets = [offset for offset, _ in _lines(file, path)]

    def __len__(self) -> int:
        return len(self._offsets) if self._whole is None else len(self._whole)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self._whole is not None:
            return self._whole[index]
        last = self._last
        if last is None or last[0] != index:
            with self.path.open("rb") as file:
                file.seek(self._offsets[index])
                line = file.readline(MAX_LINE)
            last = self._last = index, _object(line, self.path, f"record {index + 1}")
        return last[1]


def first_object(path: Path) -> dict[str, Any] | None:
    """The object on the first line that is not blank, None if that line is not one object."""
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                if line.strip():
                    record = json.loads(line.decode("utf-8-sig"))
                    return record if isinstance(record, dict) else None
    except OSError as error:
        raise bad(path, f"cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, RecursionError):
        return None
    return None


def _whole_json(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > MAX_JSON:
        raise bad(
            path, f"is one JSON text of more than {MAX_JSON >> 20} MiB", "write one object a line"
        )
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad(path, "is not valid JSON, in one piece or line by line") from error
    records = content if isinstance(content, list) else [content]
    if not records or not all(isinstance(record, dict) for record in records):
        raise bad(path, "is not a JSON object or a list of them")
    return records
