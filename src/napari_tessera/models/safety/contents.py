"""What a file holds, whatever its name: told by its first bytes and, of a zip, by the names of its files."""

from __future__ import annotations

import codecs
from enum import Enum
from pathlib import Path

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety.archive import names_in_zip

HEAD_BYTES = 32
# Every zip begins so, or with the mark of an empty one.
_ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06")
# An ONNX file begins with its version as field 1; then comes one of these fields of onnx.proto's ModelProto: producer,
# its version, domain, version of the model, text, graph, operators, metadata.
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"
_MOST_ONNX_VERSIONS = 64


class Content(Enum):
    """Kinds of content; the value is what people call one."""

    SCRIPT = "a TorchScript archive"
    EXPORTED = "an exported program"
    ONNX = "an ONNX graph"
    SAFETENSORS = "safetensors weights"
    WEIGHTS = "weights that torch.save wrote"
    PICKLE = "a pickle"
    ZIP = "a zip"
    CUT_ZIP = "a zip without its end"
    HDF5 = "an HDF5 file"
    EMPTY = "no bytes"
    WEB_PAGE = "a web page"
    LFS_POINTER = "a pointer of Git LFS"
    OTHER = "a file of another kind"


# Of kinds that begin alike, whatever follows, in lower case.
_STARTS = {
    b"\x89hdf": Content.HDF5,
    b"<!doctype html": Content.WEB_PAGE,
    b"<html": Content.WEB_PAGE,
    b"version https://git-lfs": Content.LFS_POINTER,
}


def look(path: Path) -> Content:
    """Return what the file *path* holds; nothing of it is unpacked."""
    try:
        size = path.stat().st_size
        if not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path} is no file, but a pipe or a device, which may never end: copy it to a file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        return Content.EMPTY
    if head.startswith(_ZIP_MARKS):
        names = names_in_zip(path)
        return Content.CUT_ZIP if names is None else _of_zip(names)
    text = head.lower().removeprefix(codecs.BOM_UTF8).lstrip()
    for start, content in _STARTS.items():
        if text.startswith(start):
            return content
    # Before what two or three bytes tell: here they are those of a length.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return Content.SAFETENSORS
    # Protocols 2 to 5 of pickle. What torch wrote before 1.6 begins so, too.
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Content.PICKLE
    if len(head) > 2 and head[0] == 0x08 and 0 < head[1] < _MOST_ONNX_VERSIONS and head[2] in _ONNX_FIELDS:
        return Content.ONNX
    return Content.OTHER


def _of_zip(names: frozenset[str]) -> Content:
    # Everything that torch writes lies in one folder.
    inside = {name.partition("/")[2] for name in names}
    if {"constants.pkl", "data.pkl"} <= inside and any(name.startswith("code/") for name in inside):
        return Content.SCRIPT
    if (
        "archive_format" in inside
        or "models/model.json" in inside
        or "serialized_exported_program.json" in inside | names
    ):
        return Content.EXPORTED
    if "data.pkl" in inside:
        return Content.WEIGHTS
    return Content.ZIP


# Why what holds it is no whole model file, and what to do.
_NO_MODEL = {
    Content.EMPTY: "is empty: copy or download it again",
    Content.CUT_ZIP: "was cut short, as its last part is missing: copy or download it again",
    Content.WEB_PAGE: "is a web page, as downloads that need a password or are gone leave: get it again",
    Content.LFS_POINTER: "is a pointer of Git LFS in the place of the file itself: run 'git lfs pull'",
    Content.HDF5: "is an HDF5 file, such as Keras writes, which Tessera does not open: export it to ONNX",
}


def expect(path: Path, wanted: Content, remedy: str) -> None:
    """Raise unless the file *path* holds what is *wanted*."""
    found = look(path)
    refuse_no_model(found, str(path))
    if found is not wanted:
        raise ModelError(f"{path} is no {wanted.value.partition(' ')[2]}, but {found.value}: {remedy}")


def refuse_no_model(content: Content, label: str) -> None:
    """Raise if *content* is that of no whole model file."""
    if (reason := _NO_MODEL.get(content)) is not None:
        raise ModelError(f"{label} {reason}")
