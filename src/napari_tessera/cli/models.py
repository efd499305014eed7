"""``tessera models``: the networks that come with Tessera."""

import json

import typer
from rich.text import Text

from napari_tessera.cli import options
from napari_tessera.cli.console import OUT
from napari_tessera.units import format_voxel_size

__all__ = ["models"]


def models(as_json: options.Json = False) -> None:
    """List the networks that come with Tessera."""
    from napari_tessera.models.load import bundled_models
    from napari_tessera.models.spec_file import read_model_file

    specs = {name: read_model_file(path).to_spec() for name, path in bundled_models().items()}
    if as_json:
        found = [
            {"name": name, "spatial_dims": spec.spatial_dims, "voxel_size_um": spec.voxel_size_um}
            | {"description": spec.description, "licence": spec.licence}
            for name, spec in specs.items()
        ]
        typer.echo(json.dumps(found, indent=1))
        return
    for name, spec in specs.items():
        voxel_size = format_voxel_size(spec.voxel_size_um) if spec.voxel_size_um else "any size"
        window = " x ".join(map(str, spec.window.default))
        OUT.print(Text(name, style="bold"))
        OUT.print(
            f"{spec.spatial_dims}D, voxels of {voxel_size}, window {window}, decoder {spec.suggested_decoder.name}\n"
            f"{spec.description}",
            markup=False,
        )
