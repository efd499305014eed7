"""ONNX files read without their weights: the graph, whose large tensors have no values, and the files beside it.

An ONNX file is one message of protocol buffers, ``ModelProto``. Each field is a number and a type, and messages within
are preceded by their length, so what is large can be passed over without being read (the wire format:
https://protobuf.dev/programming-guides/encoding/, the fields: onnx.proto).
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec as find_library
from math import prod
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError, first_line
from napari_tessera.models.safety.archive import is_file

if TYPE_CHECKING:
    from napari_tessera.models.networks.training_mode import Operation

INSTALL = "install it with: pip install 'napari-tessera[onnx]'"
# Shapes are computed from the values of small tensors, such as the factors of a resize.
KEPT_BYTES = 65_536
# protobuf's own limit; larger networks keep their weights in files beside it.
MAX_BYTES = 2**31 - 1
# What a graph of any network takes beside its weights: bytes, and fields, which are read one by one.
MAX_SKELETON_BYTES, MAX_FIELDS = 200_000_000, 2_000_000
# protobuf's own limit for messages within messages.
DEEPEST = 100

# Types on the wire; 3 and 4 are groups, which onnx.proto has none of.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Fields of TensorProto that hold its values, and the one with their bytes.
_RAW_DATA = 9
_VALUES = frozenset({4, 5, 6, 7, _RAW_DATA, 10, 11})
# The fields, by message, that lead to tensors: number to message. A tensor itself is `_TENSOR`.
_TENSOR = "tensor"
_WAYS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph", 20: "training", 25: "function"},
        "training": {1: "graph", 2: "graph"},
        "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
        "function": {7: "node", 11: "attribute"},
        "node": {5: "attribute"},
        "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
        "sparse": {1: _TENSOR, 2: _TENSOR},
    }
)
# Bytes of one number, by onnx.TensorProto.DataType; those of less than a byte are packed and not in here.
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
# Of a size in a file.
MOST_DIGITS = 20


def library(name: str, *, needed_now: bool = True) -> Any:
    """Return a library; None where it is there but not *needed_now*, as importing takes a while."""
    try:
        if needed_now:
            return import_module(name)
        if find_library(name) is None:
            raise ImportError(name)
    except (ImportError, ValueError) as error:  # ValueError: it is marked as not to be had
        raise ModelError(f"ONNX graphs need the library {name}, which is not there: {INSTALL}") from error
    return None


def read_whole_graph(path: Path) -> Any:
    """Return the graph at *path* with the values that lie in the file itself, checked as `read_graph` does."""
    read_graph(path)
    return library("onnx").load(str(path), load_external_data=False)


def read_graph(path: Path) -> Any:
    """Return the graph at *path* without the values of its weights; what lies in other files is checked to be there."""
    onnx = library("onnx")
    library("onnxruntime", needed_now=False)
    content = read_skeleton(path)
    try:
        graph = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf has a class of its own for each kind
        raise ModelError(
            f"cannot read {path} as ONNX, it may be damaged ({first_line(error)}): get it again"
        ) from error
    if not graph.graph.node or not graph.graph.output or not graph.opset_import:
        raise ModelError(f"{path} holds no graph: it may be cut short, or no ONNX file")
    check_external(graph, path)
    return graph


def walk_graphs(model: Any) -> Iterator[Any]:
    """Yield the graph of *model* and those that branches and loops of it hold."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [
            inner for node in graph.node for each in node.attribute for inner in (each.g, *each.graphs) if inner.node
        ]


def iter_operations(model: Any) -> Iterator[Operation]:
    """Yield the operations of *model*, and whether they train; onnxruntime drops nothing, whatever a dropout says."""
    for graph in walk_graphs(model):
        for node in graph.node:
            yield node.op_type, {each.name: each.i for each in node.attribute if each.name == "training_mode"}


def external_files(model: Any) -> set[str]:
    """Return the names of the files that *model* takes tensors from, as they stand in it."""
    return {entry.value for entry in _iter_locations(model)}


def rename_external_files(model: Any, names: Mapping[str, str]) -> None:
    """Have *model* take its tensors from the files *names*, by the names that stood in it."""
    for entry in _iter_locations(model):
        entry.value = names[entry.value]


def _iter_locations(model: Any) -> Iterator[Any]:
    for tensor in _external_tensors(model):
        yield from (entry for entry in tensor.external_data if entry.key == "location")


def check_external(model: Any, path: Path) -> None:
    """Check that all that *model*, which is the file *path*, takes from other files is there, in its folder."""
    for tensor in _external_tensors(model):
        _check_tensor(path, tensor)


def _external_tensors(model: Any) -> list[Any]:
    external = 1  # onnx.TensorProto.EXTERNAL
    tensors = [tensor for graph in walk_graphs(model) for tensor in graph.initializer]
    for graph in walk_graphs(model):
        tensors += [part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)]
        tensors += [held for node in graph.node for each in node.attribute for held in (each.t, *each.tensors)]
    for function in model.functions:
        tensors += [held for node in function.node for each in node.attribute for held in (each.t, *each.tensors)]
    return [tensor for tensor in tensors if tensor.data_location == external]


def _check_tensor(path: Path, tensor: Any) -> None:
    """Raise unless *tensor*, whose values are in another file, lies within one beside *path*."""
    told = Counter(entry.key for entry in tensor.external_data)
    twice = [key for key, times in told.items() if times > 1]
    if twice:
        raise ModelError(f"{path} says twice of '{tensor.name[:80]}' what its {twice[0][:80]} is: that is refused")
    said = {entry.key: entry.value for entry in tensor.external_data}
    name = said.get("location", "")
    size = _size_beside(path, name)
    numbers = {key: said.get(key) or "0" for key in ("offset", "length")}
    if not all(value.isascii() and value.isdecimal() and len(value) <= MOST_DIGITS for value in numbers.values()):
        raise ModelError(f"{path} says of '{tensor.name[:80]}' that it lies at {str(numbers)[:80]}, which are no sizes")
    offset, length = int(numbers["offset"]), int(numbers["length"])
    wanted = prod(tensor.dims) * ITEM_BYTES.get(tensor.data_type, 0)
    if length and length < wanted:
        raise ModelError(f"{path} says that '{tensor.name[:80]}' has {length} bytes, but its shape needs {wanted}")
    if offset + max(length, wanted) > size:
        raise ModelError(
            f"{path} takes '{tensor.name[:80]}' from byte {offset} to {offset + max(length, wanted)} of '{name}', but "
            f"that has {size} bytes, so it was cut short or is another file: copy or download it again"
        )


def _size_beside(path: Path, name: str) -> int:
    folder = path.parent.resolve()
    # A backslash parts folders on Windows alone; no exporter writes one.
    inside = "\\" not in name and not PurePosixPath(name).is_absolute()
    if not name or not inside or "\0" in name or not (folder / name).resolve().is_relative_to(folder):
        raise ModelError(f"{path} takes weights from {name[:200]!r}, which is not in its folder: that is refused")
    if not is_file(folder / name):
        raise ModelError(f"{path} takes weights from '{name[:200]}', which is missing: put it beside the file")
    return (folder / name).stat().st_size


def read_skeleton(path: Path) -> bytes:
    """Return the file *path* without the values of tensors of more than `KEPT_BYTES`."""
    with _mapped(path) as content:
        try:
            return b"".join(_iter_kept(content, 0, len(content), "model", DEEPEST, _Left()))
        except ValueError as error:
            raise ModelError(f"cannot read {path} as ONNX, {error}: copy, download or export it again") from error


def iter_values(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield the weights of the file *path* one after another: name, type as in onnx.proto, values.

    Only what lies in the file as bytes, among the weights of the outermost graph.
    """
    with _mapped(path) as content:
        for field, start, stop, _ in _iter_fields(content, 0, len(content)):
            if field == 7:
                yield from _iter_weights(content, start, stop)


def _iter_weights(content: memoryview, start: int, stop: int) -> Iterator[tuple[str, int, bytes]]:
    for field, inner, end, _ in _iter_fields(content, start, stop):
        if field != 5:
            continue
        name, kind, values = "", 0, b""
        for part, first, last, _ in _iter_fields(content, inner, end):
            if part == 2:
                kind = _varint(content, first, last)[0]
            elif part == 8:
                name = bytes(content[first:last]).decode("utf-8", "replace")
            elif part == _RAW_DATA:
                values = bytes(content[first:last])
        yield name, kind, values


@dataclass
class _Left:
    """How many bytes and fields may still be kept."""

    n_bytes: int = MAX_SKELETON_BYTES
    n_fields: int = MAX_FIELDS

    def take(self, n_bytes: int) -> None:
        self.n_bytes, self.n_fields = self.n_bytes - n_bytes, self.n_fields - 1
        if min(self.n_bytes, self.n_fields) < 0:
            raise ValueError(
                f"its graph has more than {MAX_SKELETON_BYTES} bytes or {MAX_FIELDS} fields beside its weights"
            )


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"{path} has {size} bytes; an ONNX file has at most {MAX_BYTES}")
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise ModelError(f"cannot read {path} as ONNX: {error}") from error
    with content, memoryview(content) as view:
        yield view


def _iter_kept(content: memoryview, start: int, stop: int, message: str, levels: int, left: _Left) -> Iterator[bytes]:
    """Yield the parts of one message that are kept, and count them down."""
    if levels == 0:
        raise ValueError(f"its graphs lie more than {DEEPEST} deep in each other")
    for field, first, last, begin in _iter_fields(content, start, stop):
        is_long = content[begin] & 7 == _LENGTH
        if message == _TENSOR:
            if field in _VALUES and last - first > KEPT_BYTES:
                continue
        elif is_long and (inner := _WAYS[message].get(field)) is not None:
            left.take(0)
            kept = b"".join(_iter_kept(content, first, last, inner, levels - 1, left))
            yield _encoded(field << 3 | _LENGTH) + _encoded(len(kept)) + kept
            continue
        left.take(last - begin)
        yield bytes(content[begin:last])


def _iter_fields(content: memoryview, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of the message from *start* to *stop*: number, where its value lies, and where it begins."""
    while start < stop:
        key, first = _varint(content, start, stop)
        kind = key & 7
        if kind == _VARINT:
            last = _varint(content, first, stop)[1]
        elif kind == _LENGTH:
            length, first = _varint(content, first, stop)
            last = first + length
        elif kind in (_FIXED64, _FIXED32):
            last = first + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError("it is no message of protocol buffers")
        if last > stop:
            raise ValueError("it ends too early, so it was cut short or is no ONNX file")
        yield key >> 3, first, last, start
        start = last


def _varint(content: memoryview, start: int, stop: int) -> tuple[int, int]:
    """Return the number at *start*, seven bits to a byte and the lowest first, and where it ends."""
    value = 0
    for place, position in enumerate(range(start, min(start + 10, stop))):
        byte = content[position]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + 1
    raise ValueError("it ends too early, so it was cut short or is no ONNX file")


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
