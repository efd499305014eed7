"""What a MONAI bundle does before its network, read from a reviewed list of transforms; none is ever made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_tessera.errors import ModelError
from napari_tessera.models import allowed
from napari_tessera.models.formats.monai_bundle.intensities import READERS, Steps

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component, Config

__all__ = ["Preprocessing", "base_name", "position_of", "read_preprocessing"]

MM_IN_UM = 1000.0
# Which axis the letters of an orientation code mean.
_AXIS_OF_LETTER = {"R": "x", "L": "x", "A": "y", "P": "y", "S": "z", "I": "z"}
# Readers that give arrays as they are stored; the others of MONAI give x first.
_STORED_ORDER = ("NumpyReader", "WSIReader")
_NEUTRAL, _PADDING, _REFUSED = (
    row.names for row in (allowed.MONAI_NEUTRAL, allowed.MONAI_PADDING, allowed.MONAI_REFUSED)
)
_AT_RANDOM, _UNKNOWN = "changes images at random", "is none that Tessera does"


@dataclass
class Preprocessing:
    """What happens before the network.

    Attributes
    ----------
    order
        The network's spatial axes, such as ``xyz``.
    steps
        What happens to intensities.
    voxel_size_um
        By the name of the axis; empty if unknown.
    notes
        What is not taken over.
    """

    order: str
    steps: Steps
    voxel_size_um: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_preprocessing(config: Config, *, key: str, channels: int, spatial_dims: int) -> Preprocessing:
    """Return what *config* does to the image called *key*, which has *channels*.

    Raises
    ------
    ModelError
        If the network would be given something else than what the bundle gives it: a transform is not literal, is of
        a package other than MONAI, or is none that Tessera does.
    """
    found = Preprocessing("zyx"[-spatial_dims:], Steps(channels))
    if "preprocessing" not in config.content:
        return found
    for transform in config.components(config.content["preprocessing"], "preprocessing"):
        if not transform.is_monai:
            raise ModelError(
                f"{config.label}: '{transform.where}' is '{transform.target}', which is no transform of MONAI; Tessera "
                f"runs no code of a bundle, so what the network is to be given is unknown"
            )
        if position_of(transform, key) is None:
            continue
        name = base_name(transform.name, {**_PRE, **_NEUTRAL, **_PADDING, **_REFUSED})
        if name in _PRE:
            _PRE[name](found, transform)
        elif name in _PADDING:
            found.notes.append(f"The padding {transform.name} is not taken over: Tessera pads as its settings say.")
        elif name not in _NEUTRAL:
            raise _refusal(transform, _REFUSED.get(name, _AT_RANDOM if name.startswith("Rand") else _UNKNOWN))
    return found


def base_name(name: str, known: dict[str, Any]) -> str:
    """Return *name* without the ending of transforms that work on dictionaries: d, D or Dict."""
    endings = ("Dict", "d", "D")
    bases = (name.removesuffix(ending) for ending in endings if name.endswith(ending))
    return name if name in known else next((base for base in bases if base in known), name)


def position_of(transform: Component, key: str) -> int | None:
    """Return where *key* stands among what *transform* works on; None if it is not among it."""
    keys = transform.literal("keys", key)
    many = keys if isinstance(keys, list) else [keys]
    return many.index(key) if key in many else None


def _refusal(transform: Component, reason: str) -> ModelError:
    return ModelError(
        f"{transform.config.label}: '{transform.where}', {transform.name[:40]}, {reason}, and without it the network "
        f"would be given something else: do it to your images yourself and take it out of the file"
    )


# Every reader takes what has been found so far and the transform.


def _read_load(found: Preprocessing, transform: Component) -> None:
    named = transform.config.component(transform.raw.get("reader"), f"{transform.where}::reader")
    reader = named.name if named is not None else str(transform.literal("reader", "")).rpartition(".")[2]
    stored = reader in _STORED_ORDER or transform.literal("reverse_indexing", None) is (reader != "PILReader")
    order = "zyx"[-len(found.order) :]
    found.order = order if stored else order[::-1]
    if transform.raw.get("converter") is not None:
        found.notes.append(f"The function 'converter' of {transform.name} is not taken over.")


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


def _read_spacing(found: Preprocessing, transform: Component) -> None:
    try:
        pixdim = transform.literal("pixdim", None)
    except ModelError as error:  # a network runs without: the user knows the voxel size of the image
        found.notes.append(f"The voxel size of the bundle is not taken over: {error}.")
        return
    sides = [pixdim] * len(found.order) if isinstance(pixdim, int | float) else pixdim
    usable = isinstance(sides, list) and len(sides) == len(found.order)
    if usable and all(isinstance(side, int | float) and side > 0 for side in sides):
        # By name, because a later Orientationd may still turn the axes.
        found.voxel_size_um = {axis: side * MM_IN_UM for axis, side in zip(found.order, sides, strict=True)}
    else:
        found.notes.append(f"The voxel size {str(pixdim)[:40]} of {transform.name} is not one length above 0 per axis.")


def _read_intensities(found: Preprocessing, transform: Component) -> None:
    READERS[base_name(transform.name, READERS)](found.steps, transform)


_PRE: dict[str, Callable[[Preprocessing, Component], None]] = {
    **allowed.MONAI_AXES.handled({"LoadImage": _read_load, "Orientation": _read_orientation, "Spacing": _read_spacing}),
    **dict.fromkeys(READERS, _read_intensities),
}
