"""``tessera pack``: any model whose network Tessera rebuilds, as a description and weights that run no code."""

from pathlib import Path
from typing import Annotated

import typer

from napari_tessera.cli import options, setup

__all__ = ["pack"]


def pack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's file or folder.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="YAML", help="The description's file; the weights go beside it."),
    ],
    trust: options.Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Write a model as safetensors weights and a YAML description, which open without trust anywhere."""
    network = setup.open_model(model, trust=trust)
    from napari_tessera.models.pack import pack

    for path in pack(network, output.with_suffix(".yaml"), overwrite=overwrite):
        typer.echo(str(path))
