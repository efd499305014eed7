"""MONAI bundles, folders and zips: read as data with a table of allowed names, never through MONAI's own parser."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import lcm, prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import Blend
from napari_tessera.core.units import format_sides
from napari_tessera.engine.geometry.grid import Padding, PadMode
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.models.formats.base import Description, ModelFormat, Risk, naming
from napari_tessera.models.formats.monai_bundle.bundle import (
    MARKER,
    MAX_CHANNELS,
    Bundle,
    load_network,
    open_bundle,
)
from napari_tessera.models.formats.monai_bundle.config import LARGEST_SIDE
from napari_tessera.models.formats.monai_bundle.post_transforms import Postprocessing, read_postprocessing
from napari_tessera.models.formats.monai_bundle.pre_transforms import Preprocessing, read_preprocessing
from napari_tessera.models.model import Model
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.adapters import AxesInOrder
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume
from napari_tessera.models.spec.spec import ModelSpec, OutputSpec, PlaneAxis, WindowRule

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component, Config

# MONAI's defaults.
DEFAULT_OVERLAP, DEFAULT_SIGMA = 0.25, 0.125
# What changes where and how fast a result is computed, and not the result.
_HARMLESS = frozenset(
    ("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh", "buffer_steps")
) | {"buffer_dim"}
_READ = frozenset(("roi_size", "overlap", "mode", "sigma_scale", "padding_mode", "cval", "spatial_dim", "with_coord"))
_MULTIPLE = re.compile(r"(?:(\d{1,6})\*n|n\*(\d{1,6}))(?:\+(\d{1,6}))?")
_POWER = re.compile(r"(\d{1,6})\*\*p(\*n)?")


class MonaiBundle(ModelFormat):
    """Folders and zips with ``configs/metadata.json``, as MONAI's Model Zoo and ``monai.bundle`` write them."""

    name = "MONAI bundle"

    def risk(self, path: Path) -> Risk | None:
        """Return None where the network is built from the reviewed table, else that its TorchScript is a program."""
        with naming(path):
            bundle = open_bundle(path)
        if bundle.architecture is not None:
            return None
        script = bundle.choice.script
        file = bundle.package.locate(script)
        return Risk(f"opening it runs code from its {script}, with your rights", (file,))

    def describe(self, path: Path) -> Description:
        """Return what the metadata and the inference configuration say."""
        with naming(path):
            bundle = open_bundle(path)
            spec, notes, _ = _describe(bundle)
        name = bundle.choice.script if bundle.architecture is None else bundle.architecture[0]
        return Description(spec, name, notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the bundle."""
        with naming(path):
            bundle = open_bundle(path, trusted)
            spec, notes, order = _describe(bundle)
            network, taken = load_network(bundle)
        if order != spec.axes:
            network = AxesInOrder.turned(network, order)
        return Model(network, spec, str(path), (*notes, *taken))


FORMAT = MonaiBundle()


def _describe(bundle: Bundle) -> tuple[ModelSpec, tuple[str, ...], str]:
    """Return the description of the bundle's network, with its axes in image order, notes, and its own order."""
    config, metadata = bundle.config, bundle.metadata
    dims, inputs, outputs, notes = _find_sizes(bundle)
    inferer = _read_inferer(config, dims)
    of_volumes = inferer.plane_dim is not None
    before = read_preprocessing(config, key=metadata.image_key, channels=inputs, spatial_dims=3 if of_volumes else dims)
    post = read_postprocessing(config, key=metadata.prediction_key, out_channels=outputs)
    if of_volumes and post.drops_parts:
        raise ModelError(
            f"{config.label}: the 'postprocessing' drops connected parts of volumes, but its SliceInferer runs slices, "
            f"which Tessera decodes one by one: take it out of the file, and do it to the labels yourself"
        )
    if of_volumes and before.resampling is not None:
        before.refuse_spacing("resamples volumes, and Tessera would resample the slices of its SliceInferer alone")
    name, arguments = bundle.architecture or ("", {})
    steps = _network_steps(name.rpartition(".")[2], arguments, dims)
    window, said = _find_window(
        metadata.spatial_shape, inferer, steps, only=architectures.only_window(name, arguments, dims)
    )
    names = [metadata.channel_names.get(str(number), "") for number in range(outputs)]
    classes = tuple(names) if all(names) else ()
    # One channel by itself is objects against background.
    is_alone = outputs == 1 and post.activation != "softmax" and not post.is_decided_by("argmax")
    plane_axis = before.order[inferer.plane_dim] if inferer.plane_dim is not None else ""
    order, axes = (axes.replace(plane_axis, "") for axes in (before.order, "zyx"[-len(before.order) :]))
    size = tuple(before.voxel_size_um[axis] for axis in axes if axis in before.voxel_size_um)
    turn = [order.index(axis) for axis in axes]
    window = WindowRule(*(tuple(sides[i] for i in turn) for sides in (window.default, window.step, window.minimum)))
    # Connected parts may reach into what was padded by then, unlike into what the inferer pads.
    spares = inferer.padding == Padding() and not post.drops_parts
    spec = ModelSpec(
        name=metadata.name or PurePosixPath(bundle.package.root).name or bundle.package.path.stem,
        spatial_dims=dims,
        in_channels=inputs,
        out_channels=outputs,
        window=window,
        normalisation=before.steps.normalisation,
        activation=post.activation,
        output=OutputSpec("foreground" if is_alone else "semantic"),
        voxel_size_um=size if len(size) == dims else None,
        resampling=_resampling(before, post),
        crop="none" if before.crop_above is None else "above",
        crop_above=before.crop_above or 0.0,
        classes=classes,
        planes="together" if of_volumes else "apart",
        plane_axis=cast("PlaneAxis", plane_axis or "z"),
        overlap=inferer.overlap,
        blend=inferer.blend,
        padding=inferer.padding,
        image_sides=before.image_sides(axes, window.default if spares else (0,) * dims),
        decoder=post.decoder,
        assumed=tuple(_iter_assumed(config, post, classes, inferer, window)),
        description=metadata.description,
        licence=metadata.licence,
        citation=metadata.citation,
    )
    if order != axes:
        before.notes.append(
            f"The network has its axes as {', '.join(order)}, so windows are turned from {', '.join(axes)} on their "
            f"way in and back on their way out."
        )
    if keys := config.expressions():
        more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
        shown = ", ".join(key[:40] for key in keys[:8])
        post.notes.append(f"Expressions in the configuration are never run; they are in {shown}{more}.")
    every = (*bundle.notes, *notes, *before.notes, *said, *inferer.notes, *post.notes)
    return spec, every, "".join(spec.axes[axes.index(axis)] for axis in order)


def _iter_assumed(
    config: Config, post: Postprocessing, classes: Sequence[str], inferer: _Inferer, window: WindowRule
) -> Iterator[str]:
    if "preprocessing" not in config.content:
        yield from assume("normalisation")
    if post.decoder is None and post.activation == "none":
        yield from assume("activation")
    if post.decoder is None and not classes:
        yield "output is by its number of channels: one for each class, or one for objects"
    if inferer.whole and any(window.step):
        sides = format_sides(window.default)
        yield f"window is {sides}, as {inferer.whole}: one as large as the image gives the bundle's own result"


def _resampling(before: Preprocessing, post: Postprocessing) -> ResamplingScheme:
    if before.resampling is None:
        return ResamplingScheme()
    # The way back is interpolated as the way there.
    order = None if post.output_order is None else min(post.output_order, before.resampling.order)
    return replace(before.resampling, output_order=order, output_activated=post.output_activated)


def _find_sizes(bundle: Bundle) -> tuple[int, int, int, list[str]]:
    """Return spatial dimensions, input and output channels, the network's own before the metadata's; and notes."""
    metadata, notes = bundle.metadata, []
    said = {
        "spatial_dims": len(metadata.spatial_shape) if len(metadata.spatial_shape) in (2, 3) else None,
        "in_channels": metadata.in_channels,
        "out_channels": metadata.out_channels,
    }
    own = _own_sizes(*bundle.architecture) if bundle.architecture else {}
    for key, value in own.items():
        if said[key] is not None and said[key] != value:
            notes.append(f"The metadata says {key} {said[key]}, but the network has {value}, which counts.")
    sizes = {key: own.get(key, value) for key, value in said.items()}
    missing = [key for key, value in sizes.items() if value is None]
    if missing:
        raise ModelError(
            f"{bundle.package.label(MARKER)} says nothing of {', '.join(missing)}: its "
            f"network_data_format needs num_channels and spatial_shape of the image and the prediction"
        )
    return sizes["spatial_dims"] or 0, sizes["in_channels"] or 0, sizes["out_channels"] or 0, notes


def _own_sizes(name: str, arguments: dict[str, Any]) -> dict[str, int]:
    known = inspect.signature(architectures.network_class(name)).parameters
    sizes = {key: arguments.get(key, known[key].default) for key in ("spatial_dims", "in_channels", "out_channels")}
    for key, value in sizes.items():
        most = 3 if key == "spatial_dims" else MAX_CHANNELS  # lists as long as these are made before any weights are
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(
                f"the network {name} needs a whole number from 1 to {most} as its {key}, not {str(value)[:40]!r}"
            )
    return sizes


@dataclass(frozen=True, slots=True)
class _Inferer:
    """How the bundle runs its network over a volume."""

    # Its windows, voxels, in the network's order; None for an axis taken whole, empty if nothing is said.
    roi_size: tuple[int | None, ...] = ()
    overlap: float | None = None
    notes: tuple[str, ...] = ()
    blend: Blend | None = None
    padding: Padding = field(default_factory=Padding)
    whole: str = ""  # why it gives the network whole images, of every axis or of some; empty: it does not
    # The axis of a volume, in the bundle's order, whose slices a network of two axes runs over; None: it runs over
    # images of its own number of axes.
    plane_dim: int | None = None


def _read_inferer(config: Config, spatial_dims: int) -> _Inferer:
    """Return what the key ``inferer`` says."""
    found = config.component(config.content.get("inferer"), "inferer")
    if found is None and config.follow(config.content.get("inferer"), "inferer") is not None:
        raise ModelError(f"{config.label}: 'inferer' describes no inferer: write one with a _target_ there")
    if found is None or found.literal("_disabled_", False):
        return _Inferer(whole="nothing names an inferer" if config.content else "")
    if not found.is_monai or found.name not in allowed.MONAI_INFERERS.names:
        known = ", ".join(allowed.MONAI_INFERERS.names)
        raise _unusable(found, f"it is '{found.target[:80]}', but Tessera runs networks as {known} do")
    if found.name == "SimpleInferer":
        return _Inferer(whole="the bundle runs its network over whole images (SimpleInferer)")
    other = sorted(set(found.named) - _HARMLESS - _READ)
    if other or found.literal("with_coord", False):
        raise _unusable(found, f"it has {(*other, 'with_coord')[0][:40]}, which Tessera does not do")
    sides, notes = _roi_size(found, spatial_dims)
    overlap = _same(found, "overlap", DEFAULT_OVERLAP)
    if not 0 <= overlap < 1:
        raise _unusable(found, f"its overlap is {overlap:g}, which is no fraction from 0 to below 1")
    return _Inferer(
        sides,
        overlap,
        notes,
        _blend(found),
        _padding(found),
        "the roi_size of the inferer takes axes of images whole" if None in sides else "",
        _plane_dim(found, spatial_dims),
    )


def _unusable(inferer: Component, reason: str) -> ModelError:
    return ModelError(
        f"{inferer.config.label}: '{inferer.where}' cannot be carried out, as {reason}: change it in the file"
    )


def _roi_size(inferer: Component, spatial_dims: int) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    roi = inferer.literal("roi_size", None)
    sides = [roi] * spatial_dims if isinstance(roi, int) else roi if isinstance(roi, list) else []
    if len(sides) != spatial_dims:
        return (), (f"The roi_size {str(roi)[:40]} of the inferer does not suit {spatial_dims} axes.",)
    # MONAI takes an axis whole where its side is none or not above 0.
    return tuple(side if type(side) is int and 0 < side <= LARGEST_SIDE else None for side in sides), ()


def _same(inferer: Component, argument: str, usual: float) -> float:
    value = inferer.literal(argument, usual)
    many = value if isinstance(value, list) and value else [value]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in many):
        raise _unusable(inferer, f"its {argument} is {str(value)[:40]}, which is no number")
    if len(set(many)) > 1:
        raise _unusable(inferer, f"its {argument} is {str(many)[:60]}, but Tessera has one for all axes")
    return float(many[0])


def _blend(inferer: Component) -> Blend:
    mode = inferer.literal("mode", "constant")
    if mode not in ("constant", "gaussian"):
        raise _unusable(inferer, f"its mode is {str(mode)[:40]}, but MONAI knows constant and gaussian")
    if mode == "gaussian" and (sigma := _same(inferer, "sigma_scale", DEFAULT_SIGMA)) != DEFAULT_SIGMA:
        raise _unusable(inferer, f"its sigma_scale is {sigma:g}, but the Gaussian of Tessera has {DEFAULT_SIGMA:g}")
    return Blend(mode)


def _padding(inferer: Component) -> Padding:
    mode, value = inferer.literal("padding_mode", "constant"), inferer.number("cval", 0.0)
    if mode not in tuple(PadMode):
        raise _unusable(inferer, f"its padding_mode is {str(mode)[:40]}, but MONAI knows {', '.join(PadMode)}")
    # Only a constant has a value, in MONAI, too.
    return Padding(PadMode(mode), (value or 0.0) if mode == PadMode.CONSTANT else 0.0)


def _plane_dim(inferer: Component, spatial_dims: int) -> int | None:
    if inferer.name != "SliceInferer":
        return None
    place = inferer.literal("spatial_dim", 0)
    if spatial_dims != 2 or isinstance(place, bool) or place not in (0, 1, 2):
        raise ModelError(
            f"{inferer.config.label}: '{inferer.where}' is a SliceInferer with spatial_dim {str(place)[:40]} for a "
            f"network of {spatial_dims} axes, but it needs a network of 2, and 0, 1 or 2"
        )
    return int(place)


def _network_steps(name: str, arguments: dict[str, Any], spatial_dims: int) -> tuple[int, ...]:
    """Return, per axis of the network, what its windows must be multiples of: how far it scales down."""
    levels = arguments.get("blocks_down", (1, 2, 2, 4))
    per_level: Any = {
        **dict.fromkeys(("UNet", "AttentionUnet", "DynUNet"), arguments.get("strides", ())),
        **dict.fromkeys(("BasicUNet", "VNet"), [2] * 4),
        "FlexibleUNet": [2] * 5,
        "SegResNet": [2] * (len(levels) - 1 if isinstance(levels, list | tuple) else 0),
        "SwinUNETR": [arguments.get("patch_size", 2)] * 5,
    }.get(name, ())
    if not isinstance(per_level, list | tuple):  # building the network will say what is wrong with it
        per_level = ()
    return tuple(prod(_on_axis(level, axis) for level in per_level) for axis in range(spatial_dims))


def _on_axis(value: Any, axis: int) -> int:
    side = value[axis] if isinstance(value, list | tuple) and axis < len(value) else value
    return side if isinstance(side, int) and 1 <= side <= LARGEST_SIDE else 1


def _find_window(
    shape: list[Any], inferer: _Inferer, steps: tuple[int, ...], *, only: tuple[int, ...] | None = None
) -> tuple[WindowRule, list[str]]:
    """Return the rule for windows, in the network's order, and what of it could not be taken over.

    *shape* is the ``spatial_shape`` of the metadata: numbers, "*", "16*n", "2**p*n"; may be empty. *only* is the one
    window that the network takes; None if it takes several.
    """
    if only is not None:
        roi_size = list(inferer.roi_size)
        differs = any(roi and roi != side for roi, side in zip(roi_size, only, strict=False))
        note = f"The roi_size {roi_size} of the inferer is not taken over: the network takes only {list(only)}."
        return WindowRule(only, (0,) * len(only), only), [note] if differs else []
    dims, notes = len(steps), list[str]()
    asked = shape if len(shape) == dims else ["*"] * dims
    if len(shape) not in (0, dims):
        notes.append(f"The spatial_shape {str(shape)[:60]} of the metadata does not suit {dims} axes.")
    rules, sides, said = [], [], inferer.roi_size or ((None,) * dims)
    for value, step, roi in zip(asked, steps, said, strict=True):
        rule, side, note = _rule(value, step)
        if roi and (roi < rule[0] or (roi - rule[0]) % rule[1]):  # MONAI does not look at the metadata
            rule, note = (step, step), f"The spatial_shape {asked} of the metadata does not suit the inferer."
        rules.append(rule)
        sides.append(side)
        notes += [note] if note else []
    free = WindowRule.free(dims).default
    wanted = [roi or side or usual for roi, side, usual in zip(said, sides, free, strict=True)]
    minimum, multiple = tuple(rule[0] for rule in rules), tuple(rule[1] for rule in rules)
    bare = WindowRule(minimum, multiple, minimum)
    default = tuple(bare.nearest(axis, side)[-1] for axis, side in enumerate(wanted))
    if any(roi and roi != side for roi, side in zip(said, default, strict=True)):
        raise ModelError(
            f"the inferer of the bundle has the roi_size {list(said)}, but Tessera runs its network with multiples of "
            f"{list(steps)} alone, by how far it scales down: write {list(default)} in its place"
        )
    return WindowRule(default, multiple, minimum), list(dict.fromkeys(notes))


def _rule(value: Any, step: int) -> tuple[tuple[int, int], int | None, str]:
    """Return (minimum, step), the side if it is a fixed one, and a note, for one axis of ``spatial_shape``."""
    text = str(value)[:40].replace(" ", "")
    if text.isdecimal() and 0 < int(text) <= LARGEST_SIDE:
        return (step, step), int(text), ""
    if text == "*":
        return (step, step), None, ""
    multiple, power = _MULTIPLE.fullmatch(text), _POWER.fullmatch(text)
    if multiple is not None:
        factor, added = int(multiple[1] or multiple[2]), int(multiple[3] or 0)
        if factor and added:
            return (factor + added, factor), None, ""
        if factor:
            return (lcm(factor, step),) * 2, None, ""
    if power is not None and int(power[1]):
        joint = lcm(int(power[1]), step)
        note = "" if power[2] else f"The metadata asks for powers, {text}; Tessera takes multiples of {joint}."
        return (joint, joint), None, note
    return (step, step), None, f"The side '{text}' of the metadata's spatial_shape is not understood."
