"""Damage with structure, as Hypothesis strategies: of JSON, Parquet, NumPy, safetensors, any bytes.

Random bytes alone test little but the first check of a parser. What is drawn here mostly stays
readable: a field lost or of another type, a number no count can have, a name that leads elsewhere.
"""

import copy
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BOM = b"\xef\xbb\xbf"
NAMES = ["../outside/secret.json", "../../outside", "/dev/null", "..", ".", "", "a\0b", "x" * 300]
TEXTS = [*NAMES, " ", "\ud83d", "\u0000", "nan", "-1", "1e999", "\u202e\n\n", "null", "é" * 3]
NUMBERS = [0, -1, 1, 3, 2**31, -(2**63), 10**30, 0.5, 1e308, float("nan"), float("inf")]
NESTED = [[], {}, [[[]]], {"a": {"b": [None]}}, [1, "a", None], [{}], [[0, 1], [1]], {"0": 0}]
JUNK = [None, True, False, *NUMBERS, *TEXTS, *NESTED]
MOST_PLACES = 400


def places(content: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of every value inside of nested lists and objects."""
    found = list(_places(content))
    return found[:: 1 + len(found) // MOST_PLACES]


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


@st.composite
def mutated_json(draw: st.DrawFn, content: Any) -> Any:
    """The content with one or two values lost, renamed, replaced, repeated or wrapped."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 2))):
        known = places(content)
        if known:
            _mutate_value(draw, *draw(st.sampled_from(known).map(_Quiet)).place)
    return content


class _Quiet:
    """Keeps whole documents out of what Hypothesis prints of a failure."""

    def __init__(self, place: tuple[Any, Any]) -> None:
        self.place = place

    def __repr__(self) -> str:
        return f"at {self.place[1]!r}"


def _mutate_value(draw: st.DrawFn, container: Any, key: Any) -> None:
    kind = draw(st.sampled_from(["junk"] * 4 + ["near", "drop", "rename", "wrap", "repeat"]))
    if kind == "drop":
        del container[key]
    elif kind == "rename" and isinstance(container, dict):
        container[draw(st.sampled_from(TEXTS))] = container.pop(key)
    elif kind == "wrap":
        container[key] = draw(st.sampled_from([[container[key]], {"a": container[key]}]))
    elif kind == "repeat" and isinstance(container, list):
        container.insert(0, copy.deepcopy(container[key]))
    elif kind == "near":
        container[key] = draw(st.sampled_from(_near(container[key])))
    else:
        container[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))


def _near(value: Any) -> list[Any]:
    """Values of the kind that a slip of the hand makes of this one."""
    if isinstance(value, bool) or value is None:
        return [not value, str(value), int(bool(value))]
    if isinstance(value, int | float):
        return [value + 1, value - 1, -value, value * 2, str(value), float(value), value * 1000]
    if isinstance(value, str):
        return [value.upper(), value + " ", value[:-1], f"../{value}", f"/{value}", [value]]
    return [value[:-1] if isinstance(value, list) else list(value), str(value)]


@st.composite
def json_bytes(draw: st.DrawFn, content: Any) -> bytes:
    """A JSON file: mutated values in good JSON mostly, else good values in a damaged file."""
    if draw(st.integers(0, 3)):
        return json.dumps(draw(mutated_json(content))).encode()
    return draw(damaged_text(json.dumps(content)))


@st.composite
def damaged_text(draw: st.DrawFn, text: str) -> bytes:
    """The text in other bytes: cut, empty, in another encoding, nested too deep, never ending."""
    whole = text.encode("utf-8", "surrogatepass")
    number = b"9" * 5000
    ways = {
        "with a byte order mark": BOM + whole,
        "cut": whole[: draw(st.integers(0, len(whole)))],
        "empty": b"",
        "white": b" \n",
        "UTF-16": text.encode("utf-16", "surrogatepass"),
        "Latin-1": b"\xe9" + whole,
        "nested": b"[" * 100_000,
        "nested object": b'{"a":' * 100_000,
        "twice": whole + whole,
        "with zeros": whole.replace(b",", b"\0,", 1),
        "a long number": whole.replace(b"1", number, 1),
        "a number": number,
        "a list": b"[" + whole + b"]",
        "null": b"null",
        "a word": b'"word"',
        "not a number": whole.replace(b"1", b"NaN", 1),
    }
    return ways[draw(st.sampled_from(sorted(ways)))]


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """Any file cut short, empty, with bits turned or a block of zeros, longer, or quite another."""
    at = draw(st.integers(0, len(whole)))
    ways = {
        "cut": whole[:at],
        "empty": b"",
        "block": whole[:at] + bytes(min(64, len(whole) - at)) + whole[at + 64 :],
        "longer": whole + b"more",
        "twice": whole + whole,
        "text": b"not what it says",
        "headless": whole[at:],
    }
    way = draw(st.sampled_from(["bits", *sorted(ways)]))
    if way != "bits":
        return ways[way]
    turned = bytearray(whole)
    for bit in draw(st.lists(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=6)):
        turned[bit // 8] ^= 1 << bit % 8
    return bytes(turned)


@st.composite
def damaged_safetensors(draw: st.DrawFn, whole: bytes) -> bytes:
    """Weights whose header says something else, or whose bytes are damaged or not finite."""
    length = struct.unpack("<Q", whole[:8])[0]
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    way = draw(st.sampled_from(["header"] * 4 + ["bytes", "length", "not finite", "zeros"]))
    if way == "bytes":
        return draw(damaged_bytes(whole))
    if way == "length":
        claimed = draw(st.sampled_from([0, 1, length - 1, length + 8, 2**40, 2**64 - 1]))
        return struct.pack("<Q", claimed) + whole[8:]
    if way == "header":
        content = draw(mutated_json(header) | tensor_said_otherwise(header))
        header_bytes = json.dumps(content).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(header_bytes)) + header_bytes + data
    return whole[: 8 + length] + (b"\xff" if way == "not finite" else b"\0") * len(data)


@st.composite
def tensor_said_otherwise(draw: st.DrawFn, header: dict[str, Any]) -> dict[str, Any]:
    """A header in which one tensor has another type, shape, place or name."""
    header = copy.deepcopy(header)
    name = draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
    tensor = header[name]
    way = draw(st.sampled_from(["dtype", "shape", "turned", "place", "name", "gone"]))
    if way == "dtype":
        tensor["dtype"] = draw(st.sampled_from(["F32", "F64", "I16", "U8", "BOOL", "F8_E4M3", ""]))
    elif way == "shape":
        tensor["shape"] = [*tensor["shape"], 1]
    elif way == "turned":
        tensor["shape"] = tensor["shape"][::-1]
    elif way == "place":
        tensor["data_offsets"] = [0, tensor["data_offsets"][1] - tensor["data_offsets"][0]]
    elif way == "name":
        header[name.replace("0", draw(st.sampled_from(["1", "99", "-1", "0" * 30])))] = tensor
    else:
        del header[name]
    return header


@st.composite
def damaged_table(draw: st.DrawFn, table: pa.Table) -> bytes:
    """A Parquet file with one or two of its columns changed, or with damaged bytes."""
    for _ in range(draw(st.integers(1, 2))):
        if table.num_columns:
            table = _changed_table(draw, table)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue() if draw(st.integers(0, 3)) else draw(damaged_bytes(sink.getvalue()))


COLUMNS = {
    "integers": lambda n: pa.array(range(n), pa.int64()),
    "large": lambda n: pa.array([2**62 - i for i in range(n)], pa.int64()),
    "negative": lambda n: pa.array([-1] * n, pa.int32()),
    "floats": lambda n: pa.array([i + 0.5 for i in range(n)]),
    "not numbers": lambda n: pa.array([float("nan")] * n),
    "infinite": lambda n: pa.array([float("inf")] * n),
    "booleans": lambda n: pa.array([i % 2 == 0 for i in range(n)]),
    "nulls": lambda n: pa.nulls(n),
    "null strings": lambda n: pa.nulls(n, pa.string()),
    "empty": lambda n: pa.array([""] * n),
    "spaces": lambda n: pa.array([" \n "] * n),
    "alike": lambda n: pa.array(["same"] * n),
    "words": lambda n: pa.array([f"word {i}" for i in range(n)]),
    "names": lambda n: pa.array([NAMES[i % len(NAMES)] for i in range(n)]),
    "bytes": lambda n: pa.array([b"\xff\xfe"] * n),
    "lists": lambda n: pa.array([["a", "b"]] * n),
    "objects": lambda n: pa.array([{"a": 1}] * n),
    "times": lambda n: pa.array(range(n), pa.timestamp("us")),
    "categories": lambda n: pa.array([f"c{i % 2}" for i in range(n)]).dictionary_encode(),
}


def _changed_table(draw: st.DrawFn, table: pa.Table) -> pa.Table:
    at = draw(st.integers(0, table.num_columns - 1))
    name, rows = table.column_names[at], table.num_rows
    way = draw(
        st.sampled_from(["column"] * 4 + ["drop", "rename", "hole", "rows", "no rows", "one"])
    )
    if way == "column":
        made = COLUMNS[draw(st.sampled_from(sorted(COLUMNS)))](rows)
        return table.set_column(at, name, made)
    if way == "hole" and rows:
        values = table.column(at).to_pylist()
        values[draw(st.integers(0, rows - 1))] = None
        return table.set_column(at, name, pa.array(values, table.column(at).type))
    if way == "rename":
        new = draw(st.sampled_from(["", name.upper(), f"{name} ", "index", "text", "id"]))
        return table.rename_columns(
            [new if i == at else n for i, n in enumerate(table.column_names)]
        )
    if way == "rows":
        return pa.concat_tables([table, table])
    if way in ("no rows", "one"):
        return table.slice(0, int(way == "one"))
    return table.remove_column(at)


@st.composite
def damaged_array(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    """An array of another type, shape or content."""
    ways = {
        "one less": array[:-1] if array.ndim else array,
        "none": array[:0] if array.ndim else array,
        "flat": array.reshape(-1),
        "deeper": array[None],
        "turned": array.T,
        "scalar": np.array(3),
        "words": np.full(array.shape, "word"),
        "complex": np.full(array.shape, 1j),
    }
    if array.dtype.kind in "fiu":
        ways |= {"negative": -array.astype(np.float64), "zeros": array * 0}
        ways |= {"NaN": np.full(array.shape, np.nan), "large": np.full(array.shape, 2**40)}
    return ways[draw(st.sampled_from(sorted(ways)))]


def _saved(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


@st.composite
def damaged_npz(draw: st.DrawFn, whole: bytes) -> bytes:
    """An .npz file with another description, an array changed, lost or pickled, or bad bytes."""
    with np.load(io.BytesIO(whole)) as file:
        arrays = {name: file[name] for name in file.files}
    way = draw(st.sampled_from(["info"] * 3 + ["array", "array", "drop", "pickle", "bytes"]))
    if way == "bytes":
        return draw(damaged_bytes(whole))
    if way == "info":
        info = draw(json_bytes(json.loads(str(arrays["info"]))))
        arrays["info"] = np.array(info.decode("utf-8", "replace"))
    else:
        name = draw(st.sampled_from(sorted(arrays)))
        changed = {
            "drop": lambda: None,
            "pickle": lambda: np.array([Pickled()], dtype=object),
            "array": lambda: draw(damaged_array(arrays[name])),
        }[way]()
        arrays = {n: a for n, a in (arrays | {name: changed}).items() if a is not None}
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


class Pickled:
    """Leaves a file behind if it is ever unpickled, which nothing may do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("unpickled", "w")


@st.composite
def damaged_file(draw: st.DrawFn, path: Path) -> bytes:
    """What may stand in a file of this name instead of what does."""
    whole = path.read_bytes()
    if path.suffix == ".json":
        return draw(json_bytes(json.loads(whole)))
    if path.suffix == ".parquet":
        return draw(damaged_table(pq.ParquetFile(io.BytesIO(whole)).read()))
    if path.suffix == ".npz":
        return draw(damaged_npz(whole))
    if path.suffix == ".npy" and draw(st.booleans()):
        return _saved(draw(damaged_array(np.load(io.BytesIO(whole)))))
    if path.suffix == ".safetensors":
        return draw(damaged_safetensors(whole))
    return draw(damaged_bytes(whole))


@st.composite
def damaged_value(draw: st.DrawFn, text: str) -> str:
    """A value of an address: cut off, mistyped, in other letters, doubled, or quite another."""
    at = draw(st.integers(0, len(text)))
    sign = draw(st.sampled_from(list("0,;=&%-_~.+ \n\0\u202e\ud83d<'\"é٣𝟛")))
    ways = {
        "cut": text[:at],
        "tail": text[at:],
        "longer": text[:at] + sign + text[at:],
        "changed": text[:at] + sign + text[at + 1 :],
        "twice": text + text,
        "listed": f"{text},{text}",
        "upper": text.swapcase(),
        "wide": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        "quoted": text.encode("utf-8", "backslashreplace").hex("%"),
        "endless": text * 20_000,
    }
    way = draw(st.sampled_from(["junk", *sorted(ways)]))
    return draw(st.sampled_from(TEXTS)) if way == "junk" else ways[way]
