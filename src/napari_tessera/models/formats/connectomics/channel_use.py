"""What the channels of a PyTorch Connectomics network mean: activations, kind of output, and how they become labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_tessera.core.settings.connectomics import (
    COMMANDS,
    CONTOUR_DISTANCE_NAMES,
    DECODERS,
    decoding_steps,
)
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.sentences import assume, refuse_embeddings
from napari_tessera.models.spec.spec import Activation, OutputKind, OutputSpec

if TYPE_CHECKING:
    from napari_tessera.core.settings.choices import DecoderChoice
    from napari_tessera.core.settings.connectomics_config import Configuration

# Targets of training, by what they are to a decoder.
_BINARY = {"binary", "foreground"}
_CONTOUR = {"instance_boundary", "instance_contour", "boundary", "contour"}
_DISTANCE = {"instance_edt", "skeleton_aware_edt", "signed_distance", "edt", "distance", "sdt"}

SCALED = "scale_sigmoid"
ACTIVATIONS: dict[str, Activation] = allowed.CONNECTOMICS_ACTIVATIONS.handled(
    {"sigmoid": "sigmoid", "softmax": "softmax", "tanh": "tanh", "none": "none", SCALED: "sigmoid"}
)
allowed.CONNECTOMICS_DECODERS.handled(DECODERS)
allowed.CONNECTOMICS_COMMANDS.handled(dict.fromkeys(COMMANDS))
PLAIN_ACTIVATIONS = {name: activation for name, activation in ACTIVATIONS.items() if name != SCALED}
_SELECTIONS = (
    *("inference.model.select_channel", "inference.test_time_augmentation.select_channel"),
    "inference.output_channel",
)
# The factor of the logits when the file gives none.
SCALE = 0.2


@dataclass(frozen=True, slots=True)
class Channels:
    """The network's output as it is used."""

    kept: tuple[int, ...]  # which of the network's channels, in this order; one may be used twice
    activations: tuple[Activation, ...]
    output: OutputSpec
    decoder: DecoderChoice | None = None  # None: what their kind, or the file, suggests
    notes: tuple[str, ...] = ()  # what was left out or stands in
    classes: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()  # what each of them is multiplied by before its activation, if anything
    assumed: tuple[str, ...] = ()


def read_channels(config: Configuration, out_channels: int, spatial_dims: int) -> Channels:
    """Return what the *out_channels* of a network are, and which of them are used."""
    scales, activations = _activations(config, out_channels)
    kept, notes = _selected(config, out_channels)
    if "softmax" in activations and notes:
        kept, notes = tuple(range(out_channels)), ("all channels are kept, not some of them, as a softmax needs all",)
    parts = _targets(config, spatial_dims)
    refuse_embeddings([*(part.name for part in parts), *(name for name, _ in decoding_steps(config))], str(config.path))
    if sum(len(part.offsets) or 1 for part in parts) != out_channels:
        parts = []
    meanings = [(part.name, offset) for part in parts for offset in (part.offsets or ((),))]
    affinities = [c for c in kept if meanings and meanings[c][1]]
    if affinities and len(affinities) < len(kept):
        others = sorted({meanings[c][0] for c in kept if c not in affinities})
        notes += (
            f"the channels of {', '.join(others)} beside the affinities are left out: Tessera has no decoder for both",
        )
        kept = tuple(affinities)
    output = _output(config, [meanings[c] for c in kept] if meanings else [], len(kept))
    assumed = () if _activation_entries(config) else assume("activation")
    if not meanings:
        assumed += (f"output is {output.kind}, as no targets of training say what the {len(kept)} channels mean",)
    used = tuple(activations[c] for c in kept)
    return Channels(kept, used, output, notes=notes, scales=tuple(scales[c] for c in kept), assumed=assumed)


@dataclass(frozen=True, slots=True)
class _Target:
    """One target of training: a channel, or one for each of the offsets."""

    name: str
    offsets: tuple[tuple[int, ...], ...] = ()


def _targets(config: Configuration, spatial_dims: int) -> list[_Target]:
    found = config.get("data.label_transform.targets", [])
    targets = []
    for entry in found if isinstance(found, list) else ():
        one = entry if isinstance(entry, dict) else {"name": entry}
        name = str(one.get("name") or one.get("task") or one.get("type"))
        kwargs = one.get("kwargs")
        arguments = kwargs if isinstance(kwargs, dict) else {}
        targets.append(_Target(name, _offsets(config, arguments, spatial_dims) if name == "affinity" else ()))
    return targets


def _offsets(config: Configuration, kwargs: dict[str, Any], spatial_dims: int) -> tuple[tuple[int, ...], ...]:
    """Return where the partner of a voxel lies, for each channel.

    An edge is kept at its far end (``deepem``: the partner lies behind), or at its near end (``banis``: ahead). Files
    older than the key keep those of ``long_range`` at the near end, all others at the far one.
    """
    far = kwargs.get("long_range")
    if isinstance(far, int) and not isinstance(far, bool):
        steps = [(n * (axis == 0), n * (axis == 1), n * (axis == 2)) for n in (1, far) for axis in range(3)]
    else:
        steps = [_parse_offset(config, one) for one in kwargs.get("offsets") or ("1-0-0", "0-1-0", "0-0-1")]
    mode = str(kwargs.get("affinity_mode") or ("deepem" if far is None else "banis")).strip().lower()
    if mode not in ("deepem", "banis"):
        raise config.complain("data.label_transform.targets.affinity_mode", mode, "deepem or banis")
    sign = -1 if mode == "deepem" else 1
    return tuple(tuple(sign * part for part in step[-spatial_dims:]) for step in steps)


def _parse_offset(config: Configuration, value: Any) -> tuple[int, int, int]:
    parts = value.split("-") if isinstance(value, str) else value
    try:
        z, y, x = (int(part) for part in parts)
    except (TypeError, ValueError):
        raise config.complain(
            "data.label_transform.targets.offsets", value, "written as z-y-x, such as 0-0-1"
        ) from None
    return z, y, x


def _output(config: Configuration, meanings: Sequence[tuple[str, tuple[int, ...]]], n: int) -> OutputSpec:
    if meanings and all(offset for _, offset in meanings):
        return OutputSpec("affinities", tuple(offset for _, offset in meanings))
    names = [name for name, _ in meanings]
    kind: OutputKind = "semantic" if n > 1 else "foreground"
    if n in (2, 3) and names and _are(names, [_BINARY, _CONTOUR, _DISTANCE] if n == 3 else [_BINARY, _DISTANCE]):
        kind = "contour-distance"
    elif names and names[0] in _CONTOUR:
        kind = "boundary"
    elif not names and n in (2, 3) and any(name in CONTOUR_DISTANCE_NAMES for name, _ in decoding_steps(config)):
        kind = "contour-distance"
    return OutputSpec(kind)


def _are(names: Sequence[str], kinds: Sequence[set[str]]) -> bool:
    return all(name in kind for name, kind in zip(names, kinds, strict=True))


def _activations(config: Configuration, out_channels: int) -> tuple[list[float], list[Activation]]:
    scales, activations = [1.0] * out_channels, ["none"] * out_channels
    for key, channels, name in _activation_entries(config):
        scale, activation = _parse_activation(config, key, name)
        for channel in _parse_channels(config, key, channels, out_channels):
            scales[channel], activations[channel] = scale, activation
    return scales, activations  # type: ignore[return-value]


def _activation_entries(config: Configuration) -> list[tuple[str, Any, Any]]:
    """Return (key, channels, activation) of all entries, whichever generation they are of."""
    plain = config.get("inference.output_act")
    if plain is not None:
        return [("inference.output_act", ":", plain)]
    for key in ("inference.model.channel_activations", "inference.test_time_augmentation.channel_activations"):
        found = config.get(key)
        if found in (None, []):
            continue
        if not isinstance(found, list):
            raise config.complain(key, found, "a list")
        entries = []
        for entry in found:
            if isinstance(entry, dict):
                entries.append((key, entry.get("channels", ":"), entry.get("activation")))
            elif isinstance(entry, list) and len(entry) == 3:
                entries.append((key, f"{entry[0]}:{entry[1]}", entry[2]))
            else:
                raise config.complain(key, entry, "channels and an activation")
        return entries
    return []


def _parse_activation(config: Configuration, key: str, value: Any) -> tuple[float, Activation]:
    name, _, number = str(value or "none").strip().lower().partition(":")
    if name == SCALED:
        try:
            return float(number or SCALE), "sigmoid"
        except ValueError:
            raise config.complain(
                key, value, "scale_sigmoid, or that with a number such as scale_sigmoid:0.5"
            ) from None
    if name not in ACTIVATIONS or number:
        raise config.complain(key, value, f"{SCALED} or one of {', '.join(PLAIN_ACTIVATIONS)}")
    return 1.0, ACTIVATIONS[name]


def _selected(config: Configuration, out_channels: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    key = next((key for key in _SELECTIONS if config.get(key) is not None), "")
    value = config.get(key) if key else None
    everything = tuple(range(out_channels))
    # Before the newest generation -1 stood for all channels.
    if value in (None, [], "all") or (value == -1 and not key.startswith("inference.model")):
        return everything, ()
    kept = _parse_channels(config, key, value, out_channels)
    return kept, () if kept == everything else (f"only the channels {', '.join(map(str, kept))} are used ({key})",)


def _parse_channels(config: Configuration, key: str, value: Any, n: int) -> tuple[int, ...]:
    """Return the channels that a number, a slice such as ``"0:2"`` or a list stands for."""
    try:
        if isinstance(value, list):
            found = [_parse_channel(one, n) for one in value]
        elif isinstance(value, str) and ":" in value:
            start, stop = (int(part) if part.strip() else None for part in value.split(":"))
            found = list(range(n))[start:stop]
        else:
            found = [_parse_channel(value, n)]
    except ValueError:
        found = []
    if not found or len(set(found)) != len(found):
        raise config.complain(key, value, f"some of the channels 0 to {n - 1}")
    return tuple(found)


def _parse_channel(value: Any, n: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(value)
    channel = int(value)
    if not -n <= channel < n:
        raise ValueError(value)
    return channel % n
