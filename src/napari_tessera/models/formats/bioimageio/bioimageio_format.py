"""bioimage.io packages of formats 0.4 and 0.5: a description, weights and test tensors in a folder or a zip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.core.units import micrometres_per
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.formats.base import Description, ModelFormat, Risk, naming
from napari_tessera.models.formats.bioimageio.described_package import (
    DescribedPackage,
    Weights,
    choose_weights,
    open_network,
    open_package,
    read_description,
)
from napari_tessera.models.formats.bioimageio.processing import Postprocessing, Preprocessing
from napari_tessera.models.model import Model
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.adapters import AxesInOrder, ChannelLines
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume, refuse_embeddings
from napari_tessera.models.spec.spec import MAX_SIDE, ModelSpec, OutputKind, OutputSpec, WindowRule

# Words for which the name of a single output channel stands.
_BOUNDARY_WORDS = ("boundar", "membrane", "edge", "border", "contour")


@dataclass(frozen=True, slots=True)
class _Read:
    package: DescribedPackage
    weights: Weights
    layout: _Layout
    dtype: torch.dtype
    post: Postprocessing
    spec: ModelSpec
    notes: tuple[str, ...]


class BioimageIo(ModelFormat):
    """Packages as bioimage.io offers them for download."""

    name = "bioimage.io package"

    def risk(self, path: Path) -> Risk | None:
        """Return that TorchScript weights are a program; None for a state dict and ONNX, which are data."""
        package = open_package(path)
        description, _ = read_description(package)
        weights = choose_weights(package, description.weights)
        if not weights.runs_code:
            return None
        file = package.find(weights.files[0].source)
        return Risk("opening it runs code from its TorchScript weights, with your rights", (file,))

    def describe(self, path: Path) -> Description:
        """Return what the description in *path* says; no other file of the package is opened."""
        with naming(path):
            read = _read(path)
        return Description(read.spec, read.weights.title, read.notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the safest weights of the package *path*."""
        with naming(path):
            read = _read(path, trusted)
            layout = read.layout
            network, taken = open_network(read.package, read.weights, len(layout.in_channels), layout.spatial_dims)
        # A state dict's network has Tessera's axes already; the others may also give a list of one tensor.
        if not (layout.is_plain and read.weights.architecture):
            network = AxesInOrder(
                network, layout.order_in, layout.order_out, one_by_one=layout.one_by_one, dtype=read.dtype
            )
        if read.post.is_line:
            network = ChannelLines(network, read.post.gain, read.post.offset)
        return Model(network, read.spec, str(path), (*read.notes, *taken))


FORMAT = BioimageIo()


def _read(path: Path, trusted: TrustedFiles = NO_FILES) -> _Read:
    package = open_package(path, trusted)
    description, notes = read_description(package)
    if len(description.inputs) != 1 or len(description.outputs) != 1:
        raise ModelError(
            f"{path} has {len(description.inputs)} input and {len(description.outputs)} output tensors, but Tessera "
            f"runs networks with one of each"
        )
    taken, given = description.inputs[0], description.outputs[0]
    weights = choose_weights(package, description.weights)
    layout = _read_layout(taken, given)
    refuse_embeddings([str(given.id), *layout.out_channels], str(path))
    before, post = Preprocessing(str(path), taken), Postprocessing(str(path), given)
    if weights.architecture and not before.dtype.startswith("float"):
        raise ModelError(
            f"{path} gives its network {before.dtype}, but {weights.architecture} computes with floating-point numbers"
        )
    kind, licence = _kind_of(layout), description.license
    only = architectures.only_window(weights.architecture, weights.arguments, layout.spatial_dims)
    spec = ModelSpec(
        name=str(description.name),
        spatial_dims=layout.spatial_dims,
        in_channels=len(layout.in_channels),
        out_channels=len(layout.out_channels),
        window=WindowRule(only, (0,) * len(only), only) if only and layout.is_plain else layout.window,
        normalisation=before.normalisation,
        activation=post.activation,
        output=OutputSpec(kind),
        voxel_size_um=layout.voxel_size_um,
        classes=layout.out_channels if kind == "semantic" else (),
        halo=layout.halo,
        decoder=post.decoder,
        assumed=_assumed(before.normalisation, post, kind),
        description=str(description.description),
        licence=f"see {licence.source} in the package" if hasattr(licence, "source") else str(licence or ""),
        citation=_citation_of(description),
    )
    every = (*notes, *weights.notes, *layout.notes, *before.notes, *post.notes, *_notes_on(description))
    dtype = getattr(torch, allowed.BIOIMAGEIO_NUMBERS.names[before.dtype].removeprefix("torch."))
    return _Read(package, weights, layout, dtype, post, spec, every)


def _assumed(normalisation: object, post: Postprocessing, kind: OutputKind) -> tuple[str, ...]:
    unsaid = ["normalisation"] if normalisation == Normalisation() else []
    if post.activation == "none" and post.decoder is None:
        unsaid.append("activation")
    meaning = f"output is {kind}, by the names of its channels, as bioimage.io does not say what an output means"
    return (*assume(*unsaid), meaning)


def _kind_of(layout: _Layout) -> OutputKind:
    if len(layout.out_channels) > 1:
        return "semantic"
    name = layout.out_channels[0].lower()
    return "boundary" if any(word in name for word in _BOUNDARY_WORDS) else "foreground"


def _citation_of(description: Any) -> str:
    """Return what to cite, or who made it where nothing is said."""
    cited = [
        " ".join(f"{entry.text} {f'https://doi.org/{entry.doi}' if entry.doi else entry.url or ''}".split())
        for entry in description.cite
    ]
    return "; ".join(cited) or ", ".join(str(author.name) for author in description.authors)


def _notes_on(description: Any) -> tuple[str, ...]:
    found = []
    if getattr(description, "run_mode", None) is not None:
        found.append(f"Its run mode '{description.run_mode.name}' is not taken over.")
    foreign = sorted((getattr(description.config, "model_extra", None) or {}).keys())
    if foreign:
        found.append(f"What its 'config' says to other programs is not taken over: {', '.join(foreign)}.")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Layout:
    spatial_dims: int
    in_channels: tuple[str, ...]  # names; one where a tensor has no channel axis
    out_channels: tuple[str, ...]
    window: WindowRule
    halo: tuple[int, ...] | None
    voxel_size_um: tuple[float, ...] | None  # in image order; None if not every axis says
    order_in: str  # axes of the network's tensors, a letter each: b, c, z, y, x
    order_out: str
    one_by_one: bool  # a batch is always of one window
    notes: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the network takes and gives (B, C, *spatial) in image order."""
        plain = f"bc{'zyx'[-self.spatial_dims :]}"
        return self.order_in == self.order_out == plain and not self.one_by_one


def _read_layout(taken: Any, given: Any) -> _Layout:
    order_in, order_out = _letters("input", taken), _letters("output", given)
    spatial = "".join(axis for axis in "zyx" if axis in order_in)
    if spatial not in ("zyx", "yx") or {*order_out} - {"b", "c"} != set(spatial):
        raise ModelError(
            f"it has the axes {order_in} in and {order_out} out, but Tessera needs y and x, or z, y and x, in both"
        )
    axes_in = dict(zip(order_in, taken.axes, strict=True))
    axes_out = dict(zip(order_out, given.axes, strict=True))
    for letter in spatial:
        _refuse_other_size(letter, axes_in[letter], axes_out[letter])
    halos = [int(getattr(axes_out[letter], "halo", 0) or 0) for letter in spatial]
    window, notes = _window(spatial, [axes_in[letter] for letter in spatial], halos)
    voxel_size, unit_notes = _voxel_size([axes_in[letter] for letter in spatial])
    names_in, names_out = (
        tuple(map(str, axes["c"].channel_names)) if "c" in axes else ("",) for axes in (axes_in, axes_out)
    )
    if len(names_in) > 1:
        notes += (f"The input channels are, in this order: {', '.join(names_in)}.",)
    if getattr(taken, "pad", None) is not None:
        notes += ("Its padding of the input is not taken over: Tessera pads as its settings say.",)
    return _Layout(
        spatial_dims=len(spatial),
        in_channels=names_in,
        out_channels=names_out,
        window=window,
        halo=tuple(halos) if any(halos) else None,
        voxel_size_um=voxel_size,
        order_in=order_in,
        order_out=order_out,
        one_by_one=axes_in["b"].size == 1,
        notes=notes + unit_notes,
    )


def _letters(kind: str, tensor: Any) -> str:
    what, letters = f"{kind} '{tensor.id}'", ""
    for axis in tensor.axes:
        letter = {"batch": "b", "channel": "c"}.get(axis.type, str(axis.id))
        if axis.type not in ("batch", "channel", "space") or (axis.type == "space" and letter not in set("zyx")):
            raise ModelError(
                f"the {what} has the axis '{axis.id}' of type {axis.type}, but Tessera knows batch, channel "
                f"and the spaces z, y and x"
            )
        letters += letter
    if "b" not in letters or len(set(letters)) < len(letters):
        raise ModelError(f"the {what} has the axes {letters}, but it needs a batch and each axis once")
    return letters


def _refuse_other_size(letter: str, axis_in: Any, axis_out: Any) -> None:
    """Raise unless the output's size is the input's: windows are stitched voxel by voxel."""
    size = axis_out.size
    if isinstance(size, int):
        same = size == axis_in.size
    else:
        # A reference gives: its axis's size x that axis's scale / the own scale + offset.
        same_as = {str(axis_in.id), str(getattr(axis_in.size, "axis_id", axis_in.id))}
        same = size.offset == 0 and axis_out.scale == axis_in.scale and str(size.axis_id) in same_as
    if not same:
        raise ModelError(
            f"the output's size along {letter} is not the input's ({size} for {axis_in.size}), but Tessera "
            f"stitches outputs of the window's size: such a network cannot be used"
        )


def _window(spatial: str, axes: Sequence[Any], halos: Sequence[int]) -> tuple[WindowRule, tuple[str, ...]]:
    """Return the rule: a fixed side, ``min + n * step``, or that of the axis that a side refers to."""
    by_id = {str(axis.id): axis for axis in axes}
    usual = WindowRule.free(len(spatial)).default[0]  # to begin with, where the rule leaves a choice
    rules, notes = [], []
    for letter, axis, halo in zip(spatial, axes, halos, strict=True):
        size = axis.size
        _refuse_huge(letter, size, halo)
        if hasattr(size, "axis_id"):
            other = by_id.get(str(size.axis_id))
            if other is None or size.offset != 0 or other.scale != axis.scale:
                raise ModelError(
                    f"the input's size along {letter} hangs on another axis ({size}), which Tessera cannot "
                    f"offer: only sides that are equal"
                )
            notes.append(f"The window's side along {letter} must equal that along {size.axis_id}.")
            size = other.size
            _refuse_huge(letter, size, halo)
        if isinstance(size, int):
            rules.append((size, 0, size))
            continue
        # What is left between the halos must be something, so that windows can cover the volume with it.
        least = size.min + max(0, -(-(2 * halo + 1 - size.min) // size.step)) * size.step
        steps = max(0, round((usual - least) / size.step))
        rules.append((least + steps * size.step, size.step, least))
    default, step, minimum = (tuple(numbers) for numbers in zip(*rules, strict=True))
    return WindowRule(default, step, minimum), tuple(notes)


def _refuse_huge(letter: str, size: Any, halo: int) -> None:
    # A reference to another axis has no numbers of its own.
    of_rule = {"size.min": size.min, "size.step": size.step} if hasattr(size, "step") else {}
    said = {"size": size} if isinstance(size, int) else of_rule
    for key, number in {**said, "halo": halo}.items():
        if number > MAX_SIDE:
            raise ModelError(
                f"the {key} along {letter} is {str(number)[:40]}, but it must be at most {MAX_SIDE} voxels"
            )


def _voxel_size(axes: Sequence[Any]) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    scales = [f"{axis.scale:g} {axis.unit or 'of no unit'}" for axis in axes]
    units = [micrometres_per(axis.unit or "") for axis in axes]
    if all(units):
        return tuple(axis.scale * unit for axis, unit in zip(axes, units, strict=True)), ()
    if any(axis.unit is not None or axis.scale != 1 for axis in axes):
        return None, (f"Its voxel size is not taken over: the axes say {', '.join(scales)}.",)
    return None, ()
