"""``tessera inspect``: what a model's file says of its network, without running anything of it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from napari_tessera.cli import options
from napari_tessera.cli.console import OUT, say, say_assumed, show_json
from napari_tessera.core.errors import without_control
from napari_tessera.core.units import format_parameters, format_voxel_size

if TYPE_CHECKING:
    from napari_tessera.images.views.interpolation import ResamplingScheme
    from napari_tessera.intensity.normalisation import Chain, Normalisation
    from napari_tessera.models.formats.base import Description, Risk
    from napari_tessera.models.spec.spec import ModelSpec


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's file or folder, or the name of a bundled one.")
    ],
    network_output: options.NetworkOutput = "",
    as_json: options.Json = False,
) -> None:
    """Show what a model's file says of its network, or why it does not open; nothing of it is run."""
    from napari_tessera.models.load import check_model, describe_model, find_risk
    from napari_tessera.models.safety.trusted_files import TrustStore

    form, description = describe_model(model, network_output=network_output)
    risk = find_risk(model)
    trusted = risk is not None and all(TrustStore().allows(file) for file in risk.files)
    check_model(model, network_output=network_output)
    if as_json:
        show_json(_as_dict(form.name, description, risk, trusted=trusted))
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("format", form.name)
    if description.architecture:
        table.add_row("network", without_control(description.architecture))
    for name, fact in _facts(description.spec).items():
        table.add_row(name, without_control(fact))
    table.add_row("opening", _opening(risk, trusted=trusted))
    OUT.print(table)
    if description.spec is None:
        say("the file does not describe its network: only running it tells channels and axes", kind="Note")
    say_assumed(description.assumed)
    for note in description.notes:
        say(note, kind="Note")


def _as_dict(name: str, description: "Description", risk: "Risk | None", *, trusted: bool) -> dict[str, Any]:
    return {
        "format": name,
        "architecture": description.architecture,
        "spec": None if description.spec is None else asdict(description.spec),
        "risk": None if risk is None else risk.does,
        "trusted": trusted,
        "assumed": list(description.assumed),
        "notes": list(description.notes),
    }


def _opening(risk: "Risk | None", *, trusted: bool) -> str:
    if risk is None:
        return "runs nothing of the file"
    files = ", ".join(without_control(Path(file).name) for file in risk.files)
    return f"{risk.does} ({files}): {'you trust it' if trusted else 'refused until you trust it, with --trust'}"


def _facts(spec: "ModelSpec | None") -> dict[str, str]:
    """Return what is known, in the order and the words of the description's own keys."""
    if spec is None:
        return {}
    from napari_tessera.session.model_summary import mirrored_axes

    rule = spec.window
    steps = f"minimum {_sides(rule.minimum)}, steps of {_sides(rule.step)}" if any(rule.step) else "no other"
    facts = {
        "name": spec.name,
        "axes": f"{spec.axes}, {spec.in_channels} channel(s) in, {spec.out_channels} out",
        "window": f"{_sides(rule.default)}; {steps}",
        "overlap": "" if spec.overlap_at() is None else f"{spec.overlap_at():g}",
        "halo": "" if spec.halo is None else f"{_sides(spec.halo)} voxels on each side",
        "mirrored axes": mirrored_axes(spec),
        "voxel size": format_voxel_size(spec.voxel_size_um) if spec.voxel_size_um else "unknown",
        "resampling": _resampling(spec.resampling),
        "crop": _crop(spec),
        "tiling": "" if spec.tiling == "monai" else "spread evenly, weighted by nnU-Net's Gaussian",
        "blend": spec.blend or "",
        "padding": _padding(spec),
        "planes of a stack": _planes(spec),
        "normalisation": "; ".join(dict.fromkeys(map(_normalisation, spec.normalisations))),
        "activation": ", ".join(dict.fromkeys(spec.activations)),
        "output": spec.output.kind,
        "network output": spec.network_output,
        "classes": ", ".join(spec.classes),
        "decoder": f"{spec.suggested_decoder.name} {format_parameters(spec.suggested_decoder.parameters)}".strip(),
        "licence": spec.licence,
        "citation": spec.citation,
        "": spec.description,
    }
    return {name: fact for name, fact in facts.items() if fact}


def _crop(spec: "ModelSpec") -> str:
    if spec.crop == "none":
        return ""
    counts = "not zero" if spec.crop_limit is None else f"above {spec.crop_limit:g}"
    return f"to what is {counts} in any channel; the rest is background"


def _padding(spec: "ModelSpec") -> str:
    padding, sides = spec.padding, spec.image_sides
    said = [] if padding == type(padding)() else [f"{padding.mode} {padding.value:g}".removesuffix(" 0")]
    said += [] if sides is None else [f"images of minimum {_sides(sides.minimum)}, steps of {_sides(sides.step)} alone"]
    return "; ".join(said)


def _planes(spec: "ModelSpec") -> str:
    said = [] if spec.plane_axis == "z" else [f"they lie along {spec.plane_axis}"]
    said += [] if spec.planes == "apart" else ["cropped and normalised as one volume"]
    return ", ".join(said)


def _resampling(scheme: "ResamplingScheme") -> str:
    """Return how images are resampled, where it is not the usual way."""
    if scheme == type(scheme)():
        return ""
    order = {0: "nearest", 1: "linear", 3: "cubic"}
    parts = [f"{order[scheme.order]}, edges {scheme.edge}"]
    if scheme.separate_above is not None:
        parts.append(f"{order[scheme.separate_order]} along an axis more than {scheme.separate_above:g} times coarser")
    if scheme.grid == "corner":
        parts.append("first voxels aligned, as in MONAI")
    if scheme.output_order is not None:
        parts.append(f"labels decided in the image's own voxels ({order[scheme.output_order]})")
    parts.append("unless switched off" if scheme.usual else "where asked for")
    return "; ".join(parts)


def _normalisation(normalisation: "Normalisation | Chain") -> str:
    return ", then ".join(f"{step.mode} {format_parameters(step.parameters)}".strip() for step in normalisation.steps)


def _sides(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))
