"""Which windows a MONAI bundle's network takes: from its metadata, its inferer, and its own down-sampling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import lcm, prod
from typing import TYPE_CHECKING, Any

from napari_tessera.errors import ModelError
from napari_tessera.models import allowed
from napari_tessera.models.spec import WindowRule

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component, Config

__all__ = ["Inferer", "find_window", "network_steps", "read_inferer"]

# MONAI's default.
DEFAULT_OVERLAP = 0.25
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
    plane_dim
        The spatial axis of a volume, in the bundle's order, whose slices a network of two axes runs over; None: it
        runs over images of its own number of axes.
    """

    roi_size: tuple[int | None, ...] = ()
    overlap: float | None = None
    notes: tuple[str, ...] = ()
    plane_dim: int | None = None


def read_inferer(config: Config, spatial_dims: int) -> Inferer:
    """Return what the key ``inferer`` says.

    Raises
    ------
    ModelError
        If what Tessera needs of it is not literal, or it slices volumes as MONAI would not.
    """
    found = config.component(config.content.get("inferer"), "inferer") if "inferer" in config.content else None
    if found is None:
        return Inferer()
    if not found.is_monai or found.name not in allowed.MONAI_INFERERS.names:
        return Inferer(notes=(f"The inferer {found.target[:80]} is not taken over: Tessera works window by window.",))
    roi = found.literal("roi_size", None)
    sides = [roi] * spatial_dims if isinstance(roi, int) else roi if isinstance(roi, list) else []
    notes = []
    if len(sides) != spatial_dims:
        notes.append(f"The roi_size {str(roi)[:40]} of the inferer does not suit {spatial_dims} axes.")
        sides = []
    overlap, said = _overlap(found)
    notes += [*said, *_notes_on(found)]
    return Inferer(tuple(_side(side) for side in sides), overlap, tuple(notes), _plane_dim(found, spatial_dims))


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


def _overlap(inferer: Component) -> tuple[float, list[str]]:
    value = inferer.literal("overlap", DEFAULT_OVERLAP)
    many = value if isinstance(value, list) and value else [value]
    if not all(isinstance(one, int | float) and 0 <= one < 1 for one in many):
        return DEFAULT_OVERLAP, [f"The overlap {str(value)[:40]} of the inferer is not a fraction from 0 to below 1."]
    differ = [f"The inferer has one overlap per axis, {many}; Tessera takes the largest."] if len(set(many)) > 1 else []
    return float(max(many)), differ


def _notes_on(inferer: Component) -> list[str]:
    """Return what of the inferer is a setting of a run, and so not the model's."""
    batch, mode = inferer.literal("sw_batch_size", 1), inferer.literal("mode", "constant")
    notes = [
        f"The inferer has sw_batch_size {str(batch)[:20]} and mode {str(mode)[:20]}; a run takes those of its settings "
        f"(sw_batch_size, blend)."
    ]
    for argument, usual in (("sigma_scale", 0.125), ("padding_mode", "constant"), ("cval", 0)):
        value = inferer.literal(argument, usual)
        if value != usual:
            notes.append(f"The inferer has {argument} {str(value)[:40]}, which is not taken over: Tessera has {usual}.")
    return notes


def network_steps(name: str, arguments: dict[str, Any], spatial_dims: int) -> tuple[int, ...]:
    """Return, per axis of the network, what its windows must be multiples of: how far it scales down.

    Parameters
    ----------
    name
        The class without its module.
    arguments
        Those it is built with.
    spatial_dims
        2 or 3.
    """
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
        said = list(inferer.roi_size)
        differs = any(roi and roi != side for roi, side in zip(said, only, strict=False))
        note = f"The roi_size {said} of the inferer is not taken over: the network takes only {list(only)}."
        return WindowRule(only, (0,) * len(only), only), [note] if differs else []
    dims, notes = len(steps), []
    asked = shape if len(shape) == dims else ["*"] * dims
    if len(shape) not in (0, dims):
        notes.append(f"The spatial_shape {str(shape)[:60]} of the metadata does not suit {dims} axes.")
    rules, sides = [], []
    for value, step in zip(asked, steps, strict=True):
        rule, side, note = _rule(value, step)
        rules.append(rule)
        sides.append(side)
        notes += [note] if note else []
    free = WindowRule.free(dims).default
    wanted = [
        roi or side or usual for roi, side, usual in zip(inferer.roi_size or [None] * dims, sides, free, strict=True)
    ]
    minimum, multiple = tuple(rule[0] for rule in rules), tuple(rule[1] for rule in rules)
    bare = WindowRule(minimum, multiple, minimum)
    default = tuple(bare.nearest(axis, side)[-1] for axis, side in enumerate(wanted))
    if inferer.roi_size and any(roi and roi != side for roi, side in zip(inferer.roi_size, default, strict=True)):
        notes.append(
            f"The roi_size {list(inferer.roi_size)} of the inferer does not suit the network, so it is rounded up."
        )
    return WindowRule(default, multiple, minimum), notes


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
