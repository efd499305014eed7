"""``tessera models``: the networks that come with Tessera, and the user's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from napari_tessera.cli import options
from napari_tessera.cli.console import OUT, show_json, write_line
from napari_tessera.core.errors import ModelError, without_control
from napari_tessera.core.units import format_bytes, format_voxel_size

if TYPE_CHECKING:
    from napari_tessera.models.spec.spec import ModelSpec


def models(as_json: options.Json = False) -> None:
    """List the networks that come with Tessera, and those in your own folder of models; none is opened."""
    from napari_tessera.models.folder import models_folder, stored_bytes, user_models
    from napari_tessera.models.load import bundled_models

    found = {**user_models(), **bundled_models()}  # a bundled name wins, as it does for --model
    facts = {name: _look(path) for name, path in found.items()}
    sizes = {name: stored_bytes(path) for name, path in found.items()}
    if as_json:
        show_json([{"name": name, "bytes": sizes[name], **_plain(*fact)} for name, fact in facts.items()])
        return
    for name, (form, spec, problem) in facts.items():
        OUT.print(Text.assemble((without_control(name), "bold"), f"  {format_bytes(sizes[name])}"))
        OUT.print(problem or _line(form, spec))
    write_line(f"Your own: put files or folders into {models_folder()}")


_Facts = tuple[str, "ModelSpec | None", str]


def _look(path: Path) -> _Facts:
    """Return the format, the description and what is wrong with a model."""
    from napari_tessera.models.load import describe_model

    try:
        form, description = describe_model(path)
    except ModelError as error:
        return "", None, str(error)
    return form.name, description.spec, ""


def _plain(form: str, spec: "ModelSpec | None", problem: str) -> dict[str, Any]:
    known = {"format": form, "problem": problem}
    if spec is None:
        return known
    return known | {
        "spatial_dims": spec.spatial_dims,
        "voxel_size_um": spec.voxel_size_um,
        "description": spec.description,
        "licence": spec.licence,
    }


def _line(form: str, spec: "ModelSpec | None") -> str:
    if spec is None:
        return f"{form}; only running it tells more"
    voxel_size = format_voxel_size(spec.voxel_size_um) if spec.voxel_size_um else "any size"
    window = " x ".join(map(str, spec.window.default))
    facts = f"{spec.spatial_dims}D, voxels of {voxel_size}, window {window}, decoder {spec.suggested_decoder.name}"
    return f"{form}: {facts}" + (f"\n{spec.description}" if spec.description else "")
