"""Which windows a MONAI bundle's network takes: from its metadata, its inferer, and its own down-sampling."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import lcm, prod
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import Blend
from napari_tessera.engine.geometry.grid import Padding, PadMode
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.spec import WindowRule

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component, Config

# MONAI's defaults.
DEFAULT_OVERLAP, DEFAULT_SIGMA = 0.25, 0.125
# What changes where and how fast a result is computed, and not the result.
_HARMLESS = frozenset(
    ("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh", "buffer_steps")
) | {"buffer_dim"}
_READ = frozenset(("roi_size", "overlap", "mode", "sigma_scale", "padding_mode", "cval", "spatial_dim", "with_coord"))
LARGEST_SIDE = 100_000
_MULTIPLE = re.compile(r"(?:(\d{1,6})\*n|n\*(\d{1,6}))(?:\+(\d{1,6}))?")
_POWER = re.compile(r"(\d{1,6})\*\*p(\*n)?")


@dataclass(frozen=True, slots=True)
class Inferer:
    """How the bundle runs its network over a volume.

    Parameters
    ----------
    roi_size
        Its windows, voxels, in the network's order; None for an axis taken whole, empty if nothing is said.
    overlap
        Fraction of a window; None if nothing is said.
    notes
        What is not taken over.
    blend, padding
        How it weights windows, None if nothing is said, and what it pads smaller images with.
    whole
        Why it gives the network whole images, of every axis or of some; empty: it does not.
    plane_dim
        The spatial axis of a volume, in the bundle's order, whose slices a network of two axes runs over; None: it
        runs over images of its own number of axes.
    """

    roi_size: tuple[int | None, ...] = ()
    overlap: float | None = None
    notes: tuple[str, ...] = ()
    blend: Blend | None = None
    padding: Padding = field(default_factory=Padding)
    whole: str = ""
    plane_dim: int | None = None


def read_inferer(config: Config, spatial_dims: int) -> Inferer:
    """Return what the key ``inferer`` says."""
    found = config.component(config.content.get("inferer"), "inferer")
    if found is None and config.follow(config.content.get("inferer"), "inferer") is not None:
        raise ModelError(f"{config.label}: 'inferer' describes no inferer: write one with a _target_ there")
    if found is None or found.literal("_disabled_", False):
        return Inferer(whole="nothing names an inferer" if config.content else "")
    if not found.is_monai or found.name not in allowed.MONAI_INFERERS.names:
        known = ", ".join(allowed.MONAI_INFERERS.names)
        raise _unusable(found, f"it is '{found.target[:80]}', but Tessera runs networks as {known} do")
    if found.name == "SimpleInferer":
        return Inferer(whole="the bundle runs its network over whole images (SimpleInferer)")
    other = sorted(set(found.named) - _HARMLESS - _READ)
    if other or found.literal("with_coord", False):
        raise _unusable(found, f"it has {(*other, 'with_coord')[0][:40]}, which Tessera does not do")
    sides, notes = _roi_size(found, spatial_dims)
    return Inferer(
        sides,
        _overlap(found),
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
    return tuple(map(_side, sides)), ()


def _same(inferer: Component, argument: str, usual: float) -> float:
    """Return the one number that an argument gives for all axes."""
    value = inferer.literal(argument, usual)
    many = value if isinstance(value, list) and value else [value]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in many):
        raise _unusable(inferer, f"its {argument} is {str(value)[:40]}, which is no number")
    if len(set(many)) > 1:
        raise _unusable(inferer, f"its {argument} is {str(many)[:60]}, but Tessera has one for all axes")
    return float(many[0])


def _overlap(inferer: Component) -> float:
    overlap = _same(inferer, "overlap", DEFAULT_OVERLAP)
    if not 0 <= overlap < 1:
        raise _unusable(inferer, f"its overlap is {overlap:g}, which is no fraction from 0 to below 1")
    return overlap


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


def _side(value: Any) -> int | None:
    """Return a side as a number; MONAI takes an axis whole where it is none or not above 0."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value <= LARGEST_SIDE else None


def network_steps(name: str, arguments: dict[str, Any], spatial_dims: int) -> tuple[int, ...]:
    """Return, per axis of the network, what its windows must be multiples of: how far it scales down."""
    per_level: Any = ()
    if name in ("UNet", "AttentionUnet", "DynUNet"):
        per_level = arguments.get("strides", ())
    elif name == "SegResNet":
        levels = arguments.get("blocks_down", (1, 2, 2, 4))
        per_level = [2] * (len(levels) - 1 if isinstance(levels, list | tuple) else 0)
    elif name == "FlexibleUNet":
        per_level = [2] * 5
    elif name in ("BasicUNet", "VNet"):
        per_level = [2] * 4
    elif name == "SwinUNETR":
        per_level = [arguments.get("patch_size", 2)] * 5
    if not isinstance(per_level, list | tuple):  # building the network will say what is wrong with it
        per_level = ()
    return tuple(prod(_on_axis(level, axis) for level in per_level) for axis in range(spatial_dims))


def _on_axis(value: Any, axis: int) -> int:
    side = value[axis] if isinstance(value, list | tuple) and axis < len(value) else value
    return side if isinstance(side, int) and 1 <= side <= LARGEST_SIDE else 1


def find_window(
    shape: list[Any], inferer: Inferer, steps: tuple[int, ...], *, only: tuple[int, ...] | None = None
) -> tuple[WindowRule, list[str]]:
    """Return the rule for windows, in the network's order, and what of it could not be taken over.

    Parameters
    ----------
    shape
        The ``spatial_shape`` of the bundle's metadata: numbers, "*", "16*n", "2**p*n"; may be empty.
    inferer
        What the bundle runs its network with.
    steps
        From `network_steps`.
    only
        The only window that the network takes; None if it takes several.
    """
    if only is not None:
        roi_size = list(inferer.roi_size)
        differs = any(roi and roi != side for roi, side in zip(roi_size, only, strict=False))
        note = f"The roi_size {roi_size} of the inferer is not taken over: the network takes only {list(only)}."
        return WindowRule(only, (0,) * len(only), only), [note] if differs else []
    dims, notes = len(steps), []
    asked = shape if len(shape) == dims else ["*"] * dims
    if len(shape) not in (0, dims):
        notes.append(f"The spatial_shape {str(shape)[:60]} of the metadata does not suit {dims} axes.")
    rules, sides, said = [], [], inferer.roi_size or ((None,) * dims)
    for value, step, roi in zip(asked, steps, said, strict=True):
        rule, side, note = _rule(value, step)
        if roi and (roi < rule[0] or (roi - rule[0]) % rule[1]):  # MONAI does not look at the metadata
            rule, note = (
                (step, step),
                f"The spatial_shape {asked} of the metadata does not suit the inferer.",
            )
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
