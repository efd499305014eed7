"""What the user wants: every knob of a run, validated once, frozen."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from napari_tessera.core.errors import SettingsError, nearest

__all__ = [
    "IDENTITY",
    "AccumulatorType",
    "Blend",
    "DecoderChoice",
    "Precision",
    "ProbabilityType",
    "Settings",
    "TtaMode",
    "stride_for",
]

Choice = TypeVar("Choice", bound=StrEnum)

# How a view is named that changes nothing, and how all are.
IDENTITY = "identity"
_VIEW = re.compile(rf"{IDENTITY}|(?=.)t?z?y?x?")


class Blend(StrEnum):
    """Weighting of overlapping windows."""

    GAUSSIAN = "gaussian"
    CONSTANT = "constant"
    BUMP = "bump"
    DISTANCE_TRANSFORM = "distance_transform"


class TtaMode(StrEnum):
    """Which windows see which views."""

    FULL = "full"
    INTERLEAVED = "interleaved"


class AccumulatorType(StrEnum):
    """What overlapping predictions are summed in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class ProbabilityType(StrEnum):
    """What probabilities are kept as; uint8 is 255 times the probability, rounded."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    UINT8 = "uint8"


class Precision(StrEnum):
    """Arithmetic of the forward pass; what is summed up afterwards is `AccumulatorType`'s matter."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True)
class DecoderChoice:
    """A decoder by name with its parameters as sorted pairs."""

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """Every knob of a run. Values are checked and brought to their type when the object is made.

    Parameters
    ----------
    window_size
        The network's input, voxels, (z, y, x) or (y, x); None takes the model's own.
    overlap
        Fraction in [0, 1) of a window that it shares with the next along each axis.
    sw_batch_size
        Windows in one forward pass, >= 1. Costs GPU memory, buys speed; never changes the result of a network that sees
        each window by itself, which a run checks.
    batch_size
        Volumes resident in host memory at once, >= 1: one is computed while the next are loaded.
    tta_num
        Test-time augmentation: number of views, identity included, >= 1 (at most 8 in 2D, 16 in 3D).
    tta_axes
        Axes that views may reflect, letters of ``"zyx"``; None allows all of them. All reflections of n axes are 2^n
        views.
    tta_views
        The views themselves, which stand for the fixed order; the first `tta_num` of them are taken. ``"identity"``
        comes first; others are named by the axes that they reflect, ``"x"``, ``"yx"``, after a ``t`` where y and x
        change places before that, ``"t"``, ``"tx"``. None: the fixed order.
    tta_mode
        ``"full"``: every window sees every view. ``"interleaved"``: each window sees one view, windows that overlap see
        different ones, and the passes are those of a single view.
    blend
        ``"gaussian"`` (window centres count more), ``"constant"``, or one of those of PyTorch Connectomics: ``"bump"``
        and ``"distance_transform"`` (see `napari_tessera.engine.stitching.importance_map.importance_map`).
    precision
        ``"float32"``, ``"tf32"``, ``"bfloat16"`` or ``"float16"``.
    accumulator
        ``"float32"``, or ``"float16"``, which halves the accumulator's memory and rounds every sum (see
        `napari_tessera.engine.stitching.stitch.float16_error_bound`).
    probabilities
        What kept probabilities are stored as: ``"float32"``, ``"float16"`` or ``"uint8"`` (255 times the probability).
    skip_below
        Windows in which no voxel is above this value, in the image's own units, are not computed: what only they cover
        becomes background. None computes every window.
    device
        ``"auto"`` (CUDA, else MPS, else CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or several cards of one
        machine, ``"cuda:0,cuda:1"``.
    resolution
        Voxel size that the model expects, micrometres, in the order of `window_size`, instead of the model's own; a
        plan warns when the image's differs.
    resample
        Whether an image of another voxel size is brought to the one that the model expects before the network sees it,
        and the result back to the image's own voxels. Needs both sizes. None leaves it to the model: images for an
        nnU-Net are resampled where both sizes are known, others are not.
    decoder
        Name of the step that turns probabilities into labels; None takes what the model suggests.
    decoder_parameters
        The decoder's parameters. A mapping is accepted and kept as sorted pairs, so that settings stay hashable.

    Raises
    ------
    SettingsError
        If a value has the wrong type or lies outside its range.
    """

    window_size: tuple[int, ...] | None = None
    overlap: float = 0.5
    sw_batch_size: int = 4
    batch_size: int = 1
    tta_num: int = 1
    tta_axes: str | None = None
    tta_views: tuple[str, ...] | None = None
    tta_mode: TtaMode = TtaMode.FULL
    blend: Blend = Blend.GAUSSIAN
    precision: Precision = Precision.FLOAT32
    accumulator: AccumulatorType = AccumulatorType.FLOAT32
    probabilities: ProbabilityType = ProbabilityType.FLOAT32
    skip_below: float | None = None
    device: str = "auto"
    resolution: tuple[float, ...] | None = None
    resample: bool | None = None
    decoder: str | None = None
    decoder_parameters: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check every field and bring it to its type."""
        checked = {
            "window_size": None if self.window_size is None else _sides("window_size", self.window_size),
            "overlap": _fraction("overlap", self.overlap),
            "sw_batch_size": _integer("sw_batch_size", self.sw_batch_size),
            "batch_size": _integer("batch_size", self.batch_size),
            "tta_num": _integer("tta_num", self.tta_num),
            "tta_axes": None if self.tta_axes is None else _axes("tta_axes", self.tta_axes),
            "tta_views": None if self.tta_views is None else _views(self.tta_views),
            "tta_mode": _choice("tta_mode", self.tta_mode, TtaMode),
            "blend": _choice("blend", self.blend, Blend),
            "precision": _choice("precision", self.precision, Precision),
            "accumulator": _choice("accumulator", self.accumulator, AccumulatorType),
            "probabilities": _choice("probabilities", self.probabilities, ProbabilityType),
            "skip_below": None if self.skip_below is None else _finite("skip_below", self.skip_below),
            "device": _device_name(self.device),
            "resolution": None if self.resolution is None else _voxel_size(self.resolution),
            "resample": None if self.resample is None else _switch("resample", self.resample),
            "decoder": None if self.decoder is None else _text("decoder", self.decoder),
            "decoder_parameters": _pairs(self.decoder_parameters),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.tta_axes is not None and self.tta_views is not None:
            raise SettingsError("tta_axes and tta_views both say which views there are: leave one of them out")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Settings:
        """Make settings from keyword names; an unknown name is an error that says the nearest valid one."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise SettingsError(f"unknown setting '{name}'{nearest(str(name), known)} (valid: {', '.join(known)})")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Settings:
        """Read a settings file (see docs/settings.md for its shape), or one of PyTorch Connectomics.

        What such a file says and is not carried over is said as a warning.

        Raises
        ------
        SettingsError
            If the file is missing, is not YAML, or holds a key or value that is not valid.
        """
        from napari_tessera.core.settings.connectomics import open_settings  # the file's other dialect

        opened = open_settings(path)
        for note in opened.notes:
            warnings.warn(note, stacklevel=2)
        return opened.settings

    def to_yaml(self, path: str | Path) -> None:
        """Write the settings; `from_yaml` gives an equal object back."""
        from napari_tessera.core.settings.file import write_settings

        write_settings(Path(path), self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain numbers, strings, lists and dictionaries."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {name: value.value for name, value in plain.items() if isinstance(value, StrEnum)}
        plain |= {
            name: list(plain[name]) for name in ("window_size", "resolution", "tta_views") if plain[name] is not None
        }
        plain["decoder_parameters"] = dict(self.decoder_parameters)
        return plain


def stride_for(window_vox: int, overlap: float) -> int:
    """Return the integer step between windows, ``max(1, int(window * (1 - overlap)))``, as MONAI rounds it.

    Examples
    --------
    >>> stride_for(112, 0.5), stride_for(112, 0.625), stride_for(4, 0.9)
    (56, 42, 1)
    """
    return max(1, int(window_vox * (1 - overlap)))


def _integer(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise SettingsError(f"{name} is {value!r}, but it must be a whole number from 1 up")
    return number


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"{name} is {value!r}, but it must be a name")
    return value


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{name} is {value!r}, but it must be true or false")
    return value


def _sides(name: str, value: Any) -> tuple[int, ...]:
    sides = _items(value)
    if len(sides) not in (2, 3):
        raise SettingsError(f"{name} is {value!r}, but it needs one whole number per axis: (y, x) or (z, y, x)")
    return tuple(_integer(name, side) for side in sides)


def _axes(name: str, value: Any) -> str:
    """Return letters of axes in the order z, y, x; nothing stands for no axis."""
    letters = [str(letter) for letter in value] if isinstance(value, (str, list, tuple)) else [str(value)]
    if len(set(letters)) < len(letters) or not set(letters) <= set("zyx"):
        raise SettingsError(f"{name} is {value!r}, but it must be letters of zyx, each once, such as 'yx'")
    return "".join(sorted(letters, key="zyx".index))


def _views(value: Any) -> tuple[str, ...]:
    """Return names of views, the identity first; a name may come twice, and then counts twice."""
    names = [str(name) for name in _items(value)]
    if not names or names[0] != IDENTITY or not all(map(_VIEW.fullmatch, names)):
        raise SettingsError(
            f"tta_views is {value!r}, but it must be a list of views, {IDENTITY} first, each other named by the axes "
            f"that it reflects, such as x or yx, after a t where y and x change places first, such as tx"
        )
    return tuple(names)


def _items(value: Any) -> list[Any]:
    """Return the items of a list, a tuple or a one-dimensional array, nothing for anything else."""
    if getattr(value, "ndim", 1) == 1 and (isinstance(value, (list, tuple)) or hasattr(value, "__array__")):
        return list(value)
    return []


def _number(value: Any) -> float:
    """Return *value* as a float, NaN where it is no number (text, truth values and arrays are none)."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or getattr(value, "ndim", 0) != 0:
        return float("nan")
    return float(value)


def _pairs(value: Any) -> tuple[tuple[str, Any], ...]:
    """Return decoder parameters as sorted pairs; lists become tuples, so that settings can be hashed."""
    try:
        named = {str(name): tuple(item) if isinstance(item, list) else item for name, item in dict(value).items()}
    except (TypeError, ValueError):
        raise SettingsError(f"decoder_parameters is {value!r}, but it must map names to values") from None
    return tuple(sorted(named.items()))


def _fraction(name: str, value: Any) -> float:
    number = _number(value)
    if not 0 <= number < 1:
        raise SettingsError(f"{name} is {value!r}, but it must be a fraction from 0 up to, not including, 1")
    return number


def _finite(name: str, value: Any) -> float:
    number = _number(value)
    if not isfinite(number):
        raise SettingsError(f"{name} is {value!r}, but it must be a finite number")
    return number


def _voxel_size(value: Any) -> tuple[float, ...]:
    sizes = [_number(size) for size in _items(value)]
    if len(sizes) not in (2, 3) or not all(isfinite(size) and size > 0 for size in sizes):
        raise SettingsError(f"resolution is {value!r}, but it needs one length above 0 per axis, in micrometres")
    return tuple(sizes)


def _device_name(value: Any) -> str:
    names = [name.strip() for name in str(value).split(",")]
    cards = [re.fullmatch(r"cuda:\d+", name) for name in names]
    several = len(names) > 1 and all(cards) and len(set(names)) == len(names)
    if not several and not (len(names) == 1 and (cards[0] or names[0] in ("auto", "cpu", "cuda", "mps"))):
        raise SettingsError(
            f"device is {value!r}, but it must be auto, cpu, cuda, cuda:<number> or mps, or several different cards "
            f"such as cuda:0,cuda:1"
        )
    return ",".join(names)


def _choice(name: str, value: Any, choices: type[Choice]) -> Choice:
    known = [choice.value for choice in choices]
    if value not in known:
        raise SettingsError(
            f"{name} is {value!r}, but it must be one of {', '.join(known)}{nearest(str(value), known)}"
        )
    return choices(value)
