"""What a MONAI bundle does before and after its network, read from a reviewed list of transforms; none is ever made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_tessera.errors import ModelError
from napari_tessera.models import allowed
from napari_tessera.models.spec import Activation, DecoderChoice, Normalisation

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component, Config

__all__ = ["Postprocessing", "Preprocessing", "read_postprocessing", "read_preprocessing"]

MM_IN_UM = 1000.0
# Which axis the letters of an orientation code mean.
_AXIS_OF_LETTER = {"R": "x", "L": "x", "A": "y", "P": "y", "S": "z", "I": "z"}
# Readers that give arrays as they are stored; the others of MONAI give x first.
_STORED_ORDER = ("NumpyReader", "WSIReader")
_NEUTRAL = allowed.MONAI_NEUTRAL.names


@dataclass
class Preprocessing:
    """What happens before the network.

    Attributes
    ----------
    order
        The network's spatial axes, such as ``xyz``.
    normalisation
        Of all channels alike, or one for each.
    gain, offset
        What is left to do with normalised values, ``x * gain + offset``.
    voxel_size_um
        By the name of the axis; empty if unknown.
    notes
        What is not taken over.
    """

    order: str
    normalisation: Normalisation | tuple[Normalisation, ...] = field(default_factory=Normalisation)
    gain: float = 1.0
    offset: float = 0.0
    voxel_size_um: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Postprocessing:
    """What happens after the network: activation, suggested decoder, and what is not taken over."""

    activation: Activation = "none"
    decoder: DecoderChoice | None = None
    notes: list[str] = field(default_factory=list)


def read_preprocessing(config: Config, *, key: str, channels: int, spatial_dims: int) -> Preprocessing:
    """Return what *config* does to the image called *key*, which has *channels*.

    Raises
    ------
    ModelError
        If a transform that matters is not literal, or is of a package other than MONAI.
    """
    found = Preprocessing("zyx"[-spatial_dims:])
    if "preprocessing" not in config.content:
        found.notes.append("The bundle names no preprocessing, so intensities are taken as they are.")
        return found
    for transform in config.components(config.content["preprocessing"], "preprocessing"):
        if not transform.is_monai:
            raise ModelError(
                f"{config.label}: '{transform.where}' is '{transform.target}', which is no transform of MONAI; Tessera "
                f"runs no code of a bundle, so what the network is to be given is unknown"
            )
        if _position(transform, key) is None:
            continue
        name = _base_name(transform.name, {**_PRE, **_NEUTRAL})
        if name in _PRE:
            _PRE[name](found, transform, channels)
        elif name not in _NEUTRAL:
            found.notes.append(f"The transform {transform.name} of the preprocessing is not taken over.")
    return found


def read_postprocessing(config: Config, *, key: str, out_channels: int) -> Postprocessing:
    """Return what *config* does to the prediction called *key*.

    Raises
    ------
    ModelError
        If an activation is not literal.
    """
    found = Postprocessing()
    if "postprocessing" not in config.content:
        return found
    for transform in config.components(config.content["postprocessing"], "postprocessing"):
        position = _position(transform, key) if transform.is_monai else 0
        if position is None:
            continue
        name = _base_name(transform.name, {**_POST, **_NEUTRAL})
        if transform.is_monai and name in _POST:
            _POST[name](found, transform, position, out_channels)
        elif not transform.is_monai or name not in _NEUTRAL:
            found.notes.append(f"The transform {transform.target[:80]} of the postprocessing is not taken over.")
    return found


def _base_name(name: str, known: dict[str, Any]) -> str:
    """Return *name* without the ending of transforms that work on dictionaries: d, D or Dict."""
    endings = ("Dict", "d", "D")
    bases = (name.removesuffix(ending) for ending in endings if name.endswith(ending))
    return name if name in known else next((base for base in bases if base in known), name)


def _position(transform: Component, key: str) -> int | None:
    """Return where *key* stands among what *transform* works on; None if it is not among it."""
    keys = transform.literal("keys", key)
    many = keys if isinstance(keys, list) else [keys]
    return many.index(key) if key in many else None


# Before the network. Every reader takes what has been found so far, the transform and the number of channels.


def _read_load(found: Preprocessing, transform: Component, channels: int) -> None:
    named = transform.config.component(transform.raw.get("reader"), f"{transform.where}::reader")
    reader = named.name if named is not None else str(transform.literal("reader", "")).rpartition(".")[2]
    stored = reader in _STORED_ORDER or transform.literal("reverse_indexing", None) is (reader != "PILReader")
    order = "zyx"[-len(found.order) :]
    found.order = order if stored else order[::-1]
    if transform.raw.get("converter") is not None:
        found.notes.append(f"The function 'converter' of {transform.name} is not taken over.")


def _read_orientation(found: Preprocessing, transform: Component, channels: int) -> None:
    codes = transform.literal("axcodes", "")
    order = "".join(_AXIS_OF_LETTER.get(letter, "?") for letter in str(codes).upper())
    if sorted(order) == sorted(found.order):
        found.order = order
        found.notes.append(
            f"The bundle turns its images to {codes}; Tessera orders the axes accordingly, but does not flip them."
        )
    else:
        found.notes.append(f"The orientation {str(codes)[:20]} of the preprocessing is not taken over.")


def _read_spacing(found: Preprocessing, transform: Component, channels: int) -> None:
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


def _read_scale(found: Preprocessing, transform: Component, channels: int) -> None:
    low, high = transform.number("minv", 0.0), transform.number("maxv", 1.0)
    if low is None and high is None:
        factor = transform.number("factor", None)
        _compose(found, transform, _fixed(0.0, 1 / (1 + factor)) if factor not in (None, -1.0) else Normalisation())
        return
    _note_channel_wise(found, transform, channels)
    _compose(found, transform, Normalisation("minmax"), *_onto(low, high))


def _read_scale_range(found: Preprocessing, transform: Component, channels: int) -> None:
    start, stop = transform.number("a_min", None), transform.number("a_max", None)
    low, high = transform.number("b_min", None), transform.number("b_max", None)
    if start is None or stop is None or start >= stop:
        raise _unusable(transform, f"a_min {start} and a_max {stop}, but Tessera needs a_min below a_max")
    gain, offset = _onto(low, high)
    if gain <= 0:
        raise _unusable(transform, f"b_min {low} and b_max {high}, but Tessera needs b_min below b_max")
    std = (stop - start) / gain
    clips = bool(transform.literal("clip", False)) and low is not None and high is not None
    limits = {"low": start, "high": stop} if clips else {}
    _compose(found, transform, _fixed(start - offset * std, std, **limits))


def _read_scale_percentiles(found: Preprocessing, transform: Component, channels: int) -> None:
    lower, upper = transform.number("lower", None), transform.number("upper", None)
    low, high = transform.number("b_min", None), transform.number("b_max", None)
    if lower is None or upper is None:
        raise _unusable(transform, "no percentiles lower and upper, which Tessera needs")
    gain, offset = _onto(low, high)
    clips = bool(transform.literal("clip", False)) and low is not None and high is not None
    if transform.literal("relative", False):
        gain, offset = gain * (upper - lower) / 100, offset + gain * lower / 100
    _note_channel_wise(found, transform, channels)
    numbers = (("clip", float(clips)), ("high", upper), ("low", lower))
    _compose(found, transform, Normalisation("percentile", numbers), gain, offset)


def _read_normalise(found: Preprocessing, transform: Component, channels: int) -> None:
    means, stds = (_per_channel(transform, name, channels) for name in ("subtrahend", "divisor"))
    if (means is None) != (stds is None):
        raise _unusable(transform, "only one of subtrahend and divisor, but Tessera needs both or neither")
    if transform.literal("nonzero", False):
        found.notes.append(f"{transform.name} leaves voxels of value 0 out; Tessera takes them like all others.")
    if means is None or stds is None:
        _note_channel_wise(found, transform, channels)
        _compose(found, transform, Normalisation("zscore"))
        return
    # MONAI divides by 1 where it is told to divide by 0.
    each = tuple(_fixed(mean, std or 1.0) for mean, std in zip(means, stds, strict=True))
    if len(set(each)) == 1:
        _compose(found, transform, each[0])
    elif found.normalisation == Normalisation() and (found.gain, found.offset) == (1.0, 0.0):
        found.normalisation = each
    else:
        _note_second(found, transform)


_PRE: dict[str, Callable[[Preprocessing, Component, int], None]] = allowed.MONAI_BEFORE.handled(
    {
        "LoadImage": _read_load,
        "NormalizeIntensity": _read_normalise,
        "Orientation": _read_orientation,
        "ScaleIntensity": _read_scale,
        "ScaleIntensityRange": _read_scale_range,
        "ScaleIntensityRangePercentiles": _read_scale_percentiles,
        "Spacing": _read_spacing,
    }
)


def _compose(
    found: Preprocessing, transform: Component, step: Normalisation, gain: float = 1.0, offset: float = 0.0
) -> None:
    """Do *step*, and then ``x * gain + offset``, after what has been *found* so far, as far as one map can say it."""
    before = found.normalisation
    if step == Normalisation():
        return
    if isinstance(before, tuple):
        _note_second(found, transform)
        return
    numbers, then = dict(before.parameters), dict(step.parameters)
    clips = numbers.get("clip", 1) == 1 if before.mode == "percentile" else "low" in numbers
    if before.mode == "none" or (step.mode != "fixed" and not clips and found.gain > 0):
        # Statistics of a straight line's values are those of the values themselves, so the line falls away.
        found.normalisation, found.gain, found.offset = step, gain, offset
    elif step.mode == "fixed" and "low" not in then and before.mode == "fixed":
        std = numbers["std"] * then["std"]
        mean = numbers["mean"] + then["mean"] * numbers["std"]
        limits = {name: numbers[name] for name in ("low", "high") if name in numbers}
        found.normalisation = _fixed(mean, std, **limits)
    elif step.mode == "fixed" and "low" not in then:
        found.gain, found.offset = found.gain / then["std"], (found.offset - then["mean"]) / then["std"]
    else:
        _note_second(found, transform)


def _fixed(mean: float, std: float, **limits: float) -> Normalisation:
    return Normalisation("fixed", tuple(sorted({"mean": mean, "std": std, **limits}.items())))


def _onto(low: float | None, high: float | None) -> tuple[float, float]:
    """Return gain and offset that bring 0 to 1 to *low* to *high*; as MONAI does, neither counts without the other."""
    return (1.0, 0.0) if low is None or high is None else (high - low, low)


def _per_channel(transform: Component, argument: str, channels: int) -> list[float] | None:
    value = transform.literal(argument, None)
    many = value if isinstance(value, list) else [value] * channels
    if value is None:
        return None
    if len(many) != channels or not all(isinstance(one, int | float) for one in many):
        raise _unusable(transform, f"{argument} {str(value)[:40]}, but Tessera needs one number, or one per channel")
    return [float(one) for one in many]


def _note_channel_wise(found: Preprocessing, transform: Component, channels: int) -> None:
    if channels > 1 and not transform.literal("channel_wise", False):
        found.notes.append(
            f"{transform.name} has statistics of all channels together; Tessera takes those of every channel alone."
        )


def _note_second(found: Preprocessing, transform: Component) -> None:
    found.notes.append(
        f"The transform {transform.name} of the preprocessing is not taken over: it does not make one map of "
        f"intensities with those before it."
    )


def _unusable(transform: Component, reason: str) -> ModelError:
    return ModelError(f"{transform.config.label}: '{transform.where}', {transform.name[:40]}, has {reason}")


# After the network. Readers take what has been found so far, the transform, where the prediction stands among what
# it works on, and the number of channels.


def _read_activation(found: Postprocessing, transform: Component, position: int, out_channels: int) -> None:
    chosen: list[Activation] = [
        activation for activation in ("sigmoid", "softmax") if _of_key(transform, activation, position)
    ]
    if len(chosen) > 1:
        raise _unusable(transform, "both sigmoid and softmax, but a network ends in one")
    if chosen:
        found.activation = chosen[0]
    if transform.raw.get("other") is not None:
        found.notes.append(f"The function 'other' of {transform.name} is not taken over.")


def _read_discrete(found: Postprocessing, transform: Component, position: int, out_channels: int) -> None:
    threshold = _of_key(transform, "threshold", position)
    if _of_key(transform, "argmax", position):
        found.decoder = DecoderChoice("argmax")
    elif isinstance(threshold, int | float) and not isinstance(threshold, bool) and 0 <= threshold <= 1:
        found.decoder = DecoderChoice("threshold", (("threshold", float(threshold)),))
        if out_channels > 1:
            found.notes.append(
                f"{transform.name} applies its threshold to each of {out_channels} channels; Tessera's decoder makes "
                f"objects of one of them, which you choose."
            )
    elif threshold is not None:
        found.notes.append(f"The threshold {str(threshold)[:40]} of {transform.name} is not a number from 0 to 1.")


_POST: dict[str, Callable[[Postprocessing, Component, int, int], None]] = allowed.MONAI_AFTER.handled(
    {"Activations": _read_activation, "AsDiscrete": _read_discrete}
)


def _of_key(transform: Component, argument: str, position: int) -> Any:
    """Return an argument that may be given for each key."""
    value = transform.literal(argument, None)
    if isinstance(value, list):
        return value[position] if position < len(value) else None
    return value
