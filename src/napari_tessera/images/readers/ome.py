"""What the XML description of an OME-TIFF says, and whether it may be followed at all."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from xml.etree import ElementTree

from napari_tessera.core.errors import InputError, without_control

__all__ = ["check_description", "physical_sizes"]

MOST_PLANES = 1_000_000
"""Planes that a description may claim. tifffile makes a list of them before it looks for a single one."""


def check_description(path: Path, xml: str) -> None:
    """Refuse what a parser would follow at any cost, and name a file of the set that is not there."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:  # the caller finds no OME images then
        return
    elsewhere = root.find("{*}BinaryOnly")
    if elsewhere is not None:
        raise InputError(
            f"'{path}' is a part of an image that '{without_control(elsewhere.get('MetadataFile', ''))}' describes: "
            "export the image as one OME-TIFF"
        )
    claimed = max((*_claims(root), 0))
    if claimed > MOST_PLANES:
        raise InputError(
            f"'{path}' claims {claimed:,} planes, more than the {MOST_PLANES:,} that are read: its description is "
            "damaged, export it again"
        )
    _check_siblings(path, root)


def _claims(root: ElementTree.Element) -> Iterator[int]:
    """Yield the counts of planes in the description, all images together first."""
    images = root.iterfind("{*}Image/{*}Pixels")
    yield sum(prod(_whole(pixels, f"Size{axis}", 1) for axis in "ZCT") for pixels in images)
    for data in root.iterfind("{*}Image/{*}Pixels/{*}TiffData"):
        yield _whole(data, "IFD", 0) + max(_whole(data, "PlaneCount", 0), _whole(data, "NumPlanes", 0))
    for axis in "ZCT":
        for along in root.iterfind(f"{{*}}StructuredAnnotations//{{*}}ModuloAlong{axis}"):
            start, stop, step = (float(along.get(key, default)) for key, default in _MODULO)
            yield int(min(abs((stop - start) / step), 1e18)) + 1 if step else MOST_PLANES + 1


_MODULO = (("Start", "0"), ("End", "0"), ("Step", "1"))


def _check_siblings(path: Path, root: ElementTree.Element) -> None:
    own = root.get("UUID")
    others = {
        each.get("FileName", "")
        for each in root.iterfind("{*}Image/{*}Pixels/{*}TiffData/{*}UUID")
        if own is None or each.text != own
    }
    for name in sorted(others - {"", path.name}):
        if Path(name).name != name or "\\" in name:
            raise InputError(
                f"'{path}' says that planes of it are in '{without_control(name)}', which is not in its own folder: "
                "export the image again, all its files into one folder"
            )
        if name.lower() != path.name.lower() and not (path.parent / name).is_file():
            raise InputError(
                f"'{path}' is one of several files of an image, and '{without_control(name)}' is missing beside it: "
                "copy that file there, too, under this name"
            )


def physical_sizes(xml: str) -> dict[str, tuple[float | None, str]]:
    """Return the size of a voxel along X, Y and Z as the first image gives it, and its unit."""
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    if pixels is None:
        return {}
    return {
        axis: (_number(pixels.get(f"PhysicalSize{axis}")), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "ZYX"
    }


def _whole(element: ElementTree.Element, key: str, default: int) -> int:
    return int(element.get(key, default))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
