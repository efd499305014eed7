"""What is said of a program: by a description in a file of its name beside it, or inside its own file, or by shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import MAX_BYTES
from napari_tessera.engine.loop.several_outputs import Shapes, choose_output, list_outputs
from napari_tessera.models.safety.archive import read_entry
from napari_tessera.models.spec.model_file import parse_model_file, read_model_file

if TYPE_CHECKING:
    from zipfile import ZipFile

    from napari_tessera.models.spec.model_file import ModelFile
    from napari_tessera.models.spec.spec import ModelSpec

# The name of a description inside an archive of torch's.
EXTRA_FILE = "tessera.yaml"


def read_extra(archive: ZipFile, path: Path) -> bytes:
    """Return the description inside torch's *archive*, which is the file *path*; nothing where there is none."""
    name = next((n for n in archive.namelist() if n.endswith(f"/extra/{EXTRA_FILE}")), None)
    if name is None:
        return b""
    return read_entry(archive, name, label=f"{EXTRA_FILE} inside {path}", limit=MAX_BYTES)


def find_spec(path: Path, text: str | bytes, where: str) -> ModelSpec | None:
    """Return what the description that `find_description` finds stands for; raises as it does."""
    file = find_description(path, text, where)
    return None if file is None else file.spec


def find_description(path: Path, text: str | bytes, where: str) -> ModelFile | None:
    """Return ``<stem>.yaml`` beside *path*, else *text*, which lies *where*; None if neither is there."""
    beside = path.with_suffix(".yaml")
    if not beside.exists() and not text:
        return None
    file = read_model_file(beside) if beside.exists() else parse_model_file(text, where)
    if file.program is not None or file.around:
        source, key = beside if beside.exists() else where, "around" if file.around else "program"
        raise ModelError(
            f"{source} has the key '{key}', which only a description that is opened itself may have: name {path.name} "
            f"there as its program, and open it"
        )
    return file


def pick_output(path: Path, outputs: Shapes, name: str, *, out_channels: int | None, window: Sequence[int]) -> str:
    """Return which of the *outputs* of the graph in *path* is used: *name*, or if empty the one that is it for sure."""
    if not name:
        try:
            return choose_output(outputs, out_channels=out_channels, window=window)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    if name not in outputs:
        raise ModelError(f"{path} has no output '{name}': it gives {list_outputs(outputs)}")
    return name


Sizes = tuple[int, int, int]
"""What a graph says of its spatial dimensions, its input and its output channels."""


def check_sizes(path: Path, spec: ModelSpec, sizes: Sizes) -> ModelSpec:
    """Return *spec*, which describes the graph in *path*, if it says of channels and axes what the graph does."""
    told = (spec.spatial_dims, spec.in_channels, spec.out_channels)
    if told != sizes:
        raise ModelError(
            f"the description '{spec.name}' of {path} says {told[0]}D, {told[1]} channels in and {told[2]} out, but "
            f"the graph is {sizes[0]}D with {sizes[1]} in and {sizes[2]} out"
        )
    return spec
