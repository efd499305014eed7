"""What a MONAI bundle does before its network, read from a reviewed list of transforms; none is ever made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import lcm
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.models.formats.monai_bundle.config import LARGEST_SIDE, base_name, check_key, key_of
from napari_tessera.models.formats.monai_bundle.intensity_transforms import READERS, Steps
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.spec import WindowRule

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component, Config

MM_IN_UM = 1000.0
# Which axis the letters of an orientation code mean.
_AXIS_OF_LETTER = {"R": "x", "L": "x", "A": "y", "P": "y", "S": "z", "I": "z"}
# Readers that give arrays as they are stored, and MONAI's others, which give x first, as it does where none is named.
_STORED_ORDER = ("numpyreader", "wsireader")
_X_FIRST = ("", "itkreader", "nibabelreader", "nrrdreader", "nvimgcodecpydicomreader", "pilreader", "pydicomreader")
# A class of MONAI by its name, alone or in an expression, which is read and not run.
_CLASS = re.compile(r"(?:\$\s*)?(?:monai\.data\.(?:\w+\.)?)?([A-Za-z]+Reader|[a-z]+reader)\s*")
_NEUTRAL, _REFUSED = (row.names for row in (allowed.MONAI_NEUTRAL, allowed.MONAI_REFUSED))
# What of Spacing decides on its grid and values; `diagonal` and `recompute_affine` do not, `align_corners` only names
# the coordinates that its positions in voxels are given in.
_SPACING_DEFAULTS = {"padding_mode": "border", "scale_extent": False, "min_pixdim": None, "max_pixdim": None}
_ORDERS = {"bilinear": 1, "nearest": 0}
# The one function of foreground that is read, and not run.
_ABOVE = re.compile(r"\$\s*lambda (\w{1,20})\s*:\s*\1\s*>\s*(-?\d{1,10}(?:\.\d{1,10})?)\s*")
_POSITIVE = ("monai.transforms.utils.is_positive", "monai.transforms.is_positive")
_AT_RANDOM, _UNKNOWN = "changes images at random", "is none that Tessera does"


@dataclass(frozen=True, slots=True)
class Pad:
    """A transform that pads images: to sides of at least so many voxels, and to multiples of so many, by axis."""

    transform: Component
    least: dict[str, int]
    multiple: dict[str, int]
    steps_before: int  # of intensities
    is_plain: bool  # it adds zeros on both sides, as the inferer does where images are smaller than its window


@dataclass
class Preprocessing:
    """What happens before the network."""

    order: str  # the network's spatial axes, such as ``xyz``
    steps: Steps
    voxel_size_um: dict[str, float] = field(default_factory=dict)  # by the name of the axis; empty if unknown
    crop_above: float | None = None  # what the voxels of the box that the network sees are above; None: it sees all
    resampling: ResamplingScheme | None = None  # None: images are left as they are, unless somebody asks for it
    spacing: Component | None = None  # what sets the voxel size
    steps_before: int = 0  # of intensities, before that
    pads: list[Pad] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Decide whether intensities are normalised before images are resampled, where that makes a difference."""
        if self.resampling is None or self.steps.is_line(0, self.steps_before):
            return
        if self.steps.is_line(self.steps_before, None):
            self.resampling = replace(self.resampling, normalise_first=True)
            return
        self.refuse_spacing("stands between transforms of intensities, and Tessera resamples before all or after all")

    def image_sides(self, axes: str, spared: Sequence[int]) -> WindowRule | None:
        """Return the sides, along *axes*, of images that no transform pads; None: no images are.

        Of a network of planes *axes* are those of planes. To sides of *spared* voxels, images are padded with zeros
        after all other steps in any case; 0: to none.
        """
        least, multiple = dict.fromkeys(axes, 1), dict.fromkeys(axes, 1)
        for pad in self.pads:
            is_last = pad.is_plain and pad.steps_before == self.steps.count
            if not is_last and axes != "zyx"[-len(self.order) :]:
                raise _refusal(pad.transform, "pads volumes, of which Tessera takes slices")
            for axis, side in zip(axes, spared, strict=True):
                if not (is_last and pad.least[axis] == side):
                    least[axis] = max(least[axis], pad.least[axis])
                multiple[axis] = lcm(multiple[axis], pad.multiple[axis])
        step = tuple(multiple[axis] for axis in axes)
        minimum = tuple(-(-least[axis] // multiple[axis]) * multiple[axis] for axis in axes)
        return None if set(minimum) == {1} else WindowRule(minimum, step, minimum)

    def refuse_spacing(self, reason: str) -> None:
        """Raise `ModelError`: values would be others than MONAI's, and not only at borders."""
        assert self.spacing is not None
        raise _refusal(self.spacing, reason)

    def leave_size(self, reason: str) -> None:
        """Leave images at their own voxel size, and say why."""
        self.resampling = None
        self.notes.append(f"The Spacing of the bundle is not carried out: {reason}. Give it images of its voxel size.")


def read_preprocessing(config: Config, *, key: str, channels: int, spatial_dims: int) -> Preprocessing:
    """Return what *config* does to the image called *key*, which has *channels*."""
    found = Preprocessing("zyx"[-spatial_dims:], Steps(channels))
    if "preprocessing" not in config.content:
        return found
    transforms = config.components(config.content["preprocessing"], "preprocessing")
    for one in transforms:
        if not one.is_monai:
            raise ModelError(
                f"{config.label}: '{one.where}' is '{one.target}', which is no transform of MONAI; Tessera runs no "
                f"code of a bundle, so what the network is to be given is unknown"
            )
    key, copies = _image_key(transforms, key, config.label), set[str]()
    for one in transforms:
        name = base_name(one.name, {**TRANSFORMS, **_NEUTRAL, **_REFUSED})
        check_key(one, key, copies, changes=name not in _NEUTRAL)
        transform = one.on(key)
        if transform is None:
            continue
        _check_type(found, transform)
        if name in TRANSFORMS:
            TRANSFORMS[name](found, transform)
        elif name not in _NEUTRAL:
            raise _refusal(transform, _REFUSED.get(name, _AT_RANDOM if name.startswith("Rand") else _UNKNOWN))
    found.settle()
    return found


def _image_key(transforms: list[Component], said: str, label: str) -> str:
    """Return the key of the image: what is loaded, where that is said, has to be it, or become it."""
    loading = [one for one in transforms if base_name(one.name, TRANSFORMS) == "LoadImage"]
    made = {str(name) for one in transforms for name in one.makes()}
    return said if said in made else key_of(said, loading or transforms, label=label)


def _check_type(found: Preprocessing, transform: Component) -> None:
    """Refuse a type without fractions where there may be some; of an image of whole numbers it changes nothing."""
    if transform.is_float:
        return
    said = str(transform.of_key("dtype", as_written=True))[:40]
    reads = base_name(transform.name, {**TRANSFORMS, **_NEUTRAL}) in READERS
    if reads or found.steps.count or found.voxel_size_um or found.resampling is not None:
        raise _refusal(transform, f"makes numbers of the type {said}, and Tessera keeps fractions")
    found.notes.append(
        f"The type {said} of {transform.name} is not taken over: whole numbers that it holds stay the same, but "
        f"Tessera neither rounds nor wraps others."
    )


def _refusal(transform: Component, reason: str) -> ModelError:
    return transform.error(
        f"{reason}, and without it the network would be given something else: do it to your images yourself and take "
        f"it out of the file"
    )


def _read_load(found: Preprocessing, transform: Component) -> None:
    order = "zyx"[-len(found.order) :]
    found.order = order if _is_stored_order(transform) else order[::-1]
    if transform.raw.get("converter") is not None:
        found.notes.append(f"The function 'converter' of {transform.name} is not taken over.")


def _is_stored_order(transform: Component) -> bool:
    """Whether the reader of *transform* gives axes as they are stored, and not x first."""
    reader = _resolved(transform, transform.raw.get("reader"))
    if isinstance(reader, list) and reader:
        reader = _resolved(transform, reader[-1])  # the one that MONAI tries first
    made = transform.config.component(reader, f"{transform.where}::reader") if isinstance(reader, dict) else None
    arguments, said = (transform, str(reader or "")) if made is None else (made, made.target)
    match = _CLASS.fullmatch(said)
    name = match[1].lower() if match else said
    if name not in (*_X_FIRST, *_STORED_ORDER) or not arguments.literal("swap_ij", True):
        raise _refusal(transform, f"reads images by {said[:60]}, whose order of axes Tessera does not know")
    is_reversed = arguments.literal("reverse_indexing", name == "pilreader")
    if name == "pilreader":
        return not is_reversed
    if name in _STORED_ORDER:
        return True
    # Either makes the order of C of what is x first by itself, where the reader has it.
    has_index = name in ("", "nrrdreader") and arguments.literal("index_order", "F") == "C"
    return has_index or (name in ("", "itkreader") and bool(is_reversed))


def _resolved(transform: Component, reader: Any) -> Any:
    """Return *reader*, or what it refers to; a class that an expression names stays a text."""
    is_reference = isinstance(reader, str) and reader.startswith("@")
    return transform.config.follow(reader, f"{transform.where}::reader") if is_reference else reader


def _read_orientation(found: Preprocessing, transform: Component) -> None:
    codes = transform.literal("axcodes", "")
    order = "".join(_AXIS_OF_LETTER.get(letter, "?") for letter in str(codes).upper())
    if sorted(order) == sorted(found.order):
        found.order = order
        found.notes.append(
            f"The bundle turns its images to {codes}; Tessera orders the axes accordingly, but does not flip them."
        )
    else:
        found.notes.append(f"The orientation {str(codes)[:20]} of the preprocessing is not taken over.")


def _check_unpadded(found: Preprocessing) -> None:
    if found.pads:
        raise _refusal(found.pads[0].transform, "pads images before another transform changes their size")


def _read_spacing(found: Preprocessing, transform: Component) -> None:
    _check_unpadded(found)
    if found.resampling is not None or found.voxel_size_um:
        found.leave_size("there are two of them")
        return
    try:
        pixdim = transform.literal("pixdim", None)
        arguments = (name for name, usual in _SPACING_DEFAULTS.items() if _differs(transform, name, usual))
        unusual = next((f"{name} {str(transform.literal(name, None))[:40]}" for name in arguments), "")
        mode = transform.of_key("mode", "bilinear")
    except ModelError as error:  # a network runs without: the user knows the voxel size of the image
        found.notes.append(f"The voxel size of the bundle is not taken over: {error}.")
        return
    sides = pixdim if isinstance(pixdim, list) else [pixdim]
    if not sides or not all(isinstance(side, int | float) and side > 0 for side in sides):
        # MONAI leaves axes of 0 or less as the image has them.
        found.leave_size(f"its pixdim {str(pixdim)[:40]} is not one length above 0 per axis")
        return
    # As MONAI does: the last one stands for all that are missing, and more than there are axes are left out.
    sides = [*sides, *sides[-1:] * len(found.order)][: len(found.order)]
    # By name, because a later Orientationd may still turn the axes.
    found.voxel_size_um = {axis: side * MM_IN_UM for axis, side in zip(found.order, sides, strict=True)}
    found.steps_before, found.spacing = found.steps.count, transform
    if unusual or mode not in _ORDERS:
        found.leave_size(f"it has {unusual or f'the mode {str(mode)[:40]}'}, which Tessera does not do")
        return
    found.resampling = ResamplingScheme(_ORDERS[mode], antialias=False, edge="repeat", grid="corner", usual=True)


def _read_crop(found: Preprocessing, transform: Component) -> None:
    _check_unpadded(found)
    limit = _foreground_above(transform.raw.get("select_fn"))
    above = None if limit is None else found.steps.raw_limit(limit)
    reasons = {
        "by another image": transform.literal("source_key", None) != transform.of_key("keys", []),
        "by a function that is no 'lambda x: x > 0' with another number": limit is None,
        "by intensities that only the image itself tells": limit is not None and above is None,
        "of images at another voxel size": bool(found.voxel_size_um),
        "twice": found.crop_above is not None,
        "with a margin": _differs(transform, "margin", 0),
        "to multiples of a number": _differs(transform, "k_divisible", 1),
        "by some of the channels": transform.literal("channel_indices", None) is not None,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise _refusal(transform, f"cuts images to a part {reason}")
    found.crop_above = above


def _foreground_above(function: Any) -> float | None:
    """Return the number that foreground is above; None where the *function* is not like MONAI's own."""
    if function is None:
        return 0.0
    if not isinstance(function, str):
        return None
    match = _ABOVE.fullmatch(function)
    is_positive = function.removeprefix("$").strip() in _POSITIVE
    return 0.0 if is_positive else None if match is None else float(match[2])


def _differs(transform: Component, argument: str, usual: Any) -> bool:
    value = transform.literal(argument, usual)
    return any(one != usual for one in (value if isinstance(value, list) else [value]))


def _read_pad(found: Preprocessing, transform: Component) -> None:
    divides = transform.name.startswith("DivisiblePad")
    value = transform.literal("k" if divides else "spatial_size", None)
    sides = value if isinstance(value, list) else [value]
    sides = sides * len(found.order) if len(sides) == 1 else sides
    if len(sides) != len(found.order) or not all(isinstance(side, int) and side <= LARGEST_SIDE for side in sides):
        raise _refusal(transform, f"pads images to {str(value)[:40]}, which is not one whole number per axis")
    # MONAI leaves axes of 0 or less as the image has them.
    by_axis = {axis: max(side, 1) for axis, side in zip(found.order, sides, strict=True)}
    none = dict.fromkeys(found.order, 1)
    usual = {"mode": "constant", "method": "symmetric", "value": 0, "constant_values": 0}
    found.pads.append(
        Pad(
            transform,
            least=none if divides else by_axis,
            multiple=by_axis if divides else none,
            steps_before=found.steps.count,
            is_plain=not any(_differs(transform, argument, one) for argument, one in usual.items()),
        )
    )


def _read_intensities(found: Preprocessing, transform: Component) -> None:
    READERS[base_name(transform.name, READERS)](found.steps, transform)


TRANSFORMS: dict[str, Callable[[Preprocessing, Component], None]] = {
    **allowed.MONAI_AXES.handled(
        {
            "CropForeground": _read_crop,
            "LoadImage": _read_load,
            "Orientation": _read_orientation,
            "Spacing": _read_spacing,
        }
    ),
    **allowed.MONAI_PADDING.handled({"DivisiblePad": _read_pad, "SpatialPad": _read_pad}),
    **dict.fromkeys(READERS, _read_intensities),
}
