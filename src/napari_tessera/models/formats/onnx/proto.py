"""ONNX files read without their weights: a copy of the graph whose large tensors have no values, from a mapped file.

An ONNX file is one message of protocol buffers, ``ModelProto``. Each field is a number and a type, and messages within
are preceded by their length, so what is large can be passed over without being read (the wire format:
https://protobuf.dev/programming-guides/encoding/, the fields: onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from napari_tessera.core.errors import ModelError

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


def read_skeleton(path: Path) -> bytes:
    """Return the file *path* without the values of tensors of more than `KEPT_BYTES`."""
    with _Mapped(path) as content:
        try:
            return b"".join(_iter_kept(content, 0, len(content), "model", DEEPEST, _Left()))
        except ValueError as error:
            raise ModelError(f"cannot read {path} as ONNX, {error}: copy, download or export it again") from error


def iter_values(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield the weights of the file *path* one after another: name, type as in onnx.proto, values.

    Only what lies in the file as bytes, among the weights of the outermost graph.
    """
    with _Mapped(path) as content:
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


class _Mapped:
    """Lends the bytes of a file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> memoryview:
        try:
            size = self._path.stat().st_size
            if size > MAX_BYTES:
                raise ModelError(f"{self._path} has {size} bytes; an ONNX file has at most {MAX_BYTES}")
            with self._path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: it is empty
            raise ModelError(f"cannot read {self._path} as ONNX: {error}") from error
        self._view = memoryview(self._map)
        return self._view

    def __exit__(self, *_: object) -> None:
        self._view.release()
        self._map.close()


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
