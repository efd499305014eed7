"""What a network of version 1 learned, by the options of its targets: which channels are used, and as what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.models.formats.connectomics.output import PLAIN_ACTIVATIONS
from napari_tessera.models.spec.spec import Activation, OutputKind, OutputSpec

if TYPE_CHECKING:
    from napari_tessera.core.settings.connectomics_config import Configuration

# By the first letter of an option: channels, and what they are to a decoder.
_KINDS = {
    "0": (1, "binary"),
    "1": (3, "polarity"),
    "2": (3, "affinities"),
    "3": (1, "small objects"),
    "4": (1, "contour"),
    "5": (1, "distance"),
    "6": (1, "distance"),
    "7": (2, "flows"),
    "8": (1, "skeleton"),
    "a": (1, "distance"),
}
QUANTISED = 11
SYNAPSES = ("presynaptic", "postsynaptic")
# Objects that its own decoding drops by default.
SMALLEST_VOX = 128
MOST_TARGETS = 64


@dataclass(frozen=True, slots=True)
class Use:
    """Which channels of a network are used, and as what.

    Parameters
    ----------
    channels
        In this order; one may be used twice.
    activations
        One for each of them.
    output, decoder
        What they mean, and what makes labels of them; None for what their kind suggests.
    notes
        What was left out or stands in, one sentence each.
    classes
        Names of the labels or channels; may be empty.
    """

    channels: tuple[int, ...]
    activations: tuple[Activation, ...]
    output: OutputSpec
    decoder: DecoderChoice | None = None
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Target:
    """One target: the option as it is written, what it is, its channels, its activation, and offsets of affinities."""

    option: str
    kind: str
    channels: tuple[int, ...]
    activation: Activation
    offsets: tuple[tuple[int, ...], ...] = ()


def read_targets(config: Configuration, out_channels: int, spatial_dims: int) -> Use:
    """Return how the *out_channels* of a network are used."""
    targets = _read(config, out_channels, spatial_dims)
    use, used = _choose(targets)
    left_out = [f"'{one.option}' ({one.kind})" for one in targets if one not in used]
    if any(one.kind == "flows" for one in used):
        raise ModelError(
            f"{config.path} describes a network of flows (MODEL.TARGET_OPT {[one.option for one in targets]}): Tessera "
            f"has no decoder that follows flows to objects"
        )
    note = f"of its targets, these are left out, as no decoder of Tessera uses them beside the others: {left_out}"
    notes = (*use.notes, note.replace("[", "").replace("]", "").replace('"', "")) if left_out else use.notes
    return Use(use.channels, use.activations, use.output, use.decoder, notes, use.classes)


def _read(config: Configuration, out_channels: int, dims: int) -> list[_Target]:
    options = config.get("MODEL.TARGET_OPT", ["0"])
    names = config.get("INFERENCE.OUTPUT_ACT", ["sigmoid"])
    valid = isinstance(options, list) and all(isinstance(one, str | int) and str(one) for one in options)
    if not valid or not 1 <= len(options) <= MOST_TARGETS:
        raise config.complain("MODEL.TARGET_OPT", options, "a list of targets, such as ['0', '4-1-1']")
    if not isinstance(names, list) or len(names) != len(options):
        raise config.complain("INFERENCE.OUTPUT_ACT", names, f"a list of an activation for each target of {options}")
    targets: list[_Target] = []
    for option, name in zip(map(str, options), names, strict=True):
        start = targets[-1].channels[-1] + 1 if targets else 0
        count, kind = _kind_of(config, option, out_channels - start, dims)
        if kind == "polarity" and name == "softmax":
            kind = "classes"
        channels = tuple(range(start, start + count))
        offsets = _offsets(option, dims) if kind == "affinities" else ()
        targets.append(_Target(option, kind, channels, _activation(config, name), offsets))
    found = targets[-1].channels[-1] + 1
    if found != out_channels:
        raise config.complain("MODEL.OUT_PLANES", out_channels, f"{found}, the channels of the targets {options}")
    return targets


def _kind_of(config: Configuration, option: str, remaining: int, dims: int) -> tuple[int, str]:
    """Return how many channels an option has, and what they are."""
    first, *rest = option.split("-")
    if option == "all":
        count, kind = remaining, "of its user's own"
    elif first in ("9", "I"):
        count = int(rest[0]) if rest and rest[0].isdecimal() and len(rest[0]) < 6 else 1 if first == "I" else 0
        kind = "classes" if first == "9" else "an image"
    elif first == "5" and len(rest) > 2 and rest[2] not in ("0", ""):
        count, kind = QUANTISED, "a distance in steps"
    else:
        count, kind = _KINDS.get(option[0], (0, ""))
        if kind == "affinities" and dims == 2:
            count = 2
        if kind == "polarity" and rest:
            kind = "classes"  # that exclude each other: background, before and behind the synapse
    if not 1 <= count <= 10_000:
        raise config.complain("MODEL.TARGET_OPT", option, f"a target such as one that begins with {', '.join(_KINDS)}")
    return count, kind


def _activation(config: Configuration, name: object) -> Activation:
    if str(name) not in PLAIN_ACTIVATIONS:
        raise config.complain("INFERENCE.OUTPUT_ACT", name, f"one of {', '.join(PLAIN_ACTIVATIONS)} for each target")
    return PLAIN_ACTIVATIONS[str(name)]


def _offsets(option: str, dims: int) -> tuple[tuple[int, ...], ...]:
    """Return where the partner of a voxel lies for each channel; empty where it lies on both sides.

    Plain ``2``, ``2-z-y-x-v1`` and ``2-z-y-x-pni`` keep an edge at its far end. ``pni`` has x first.
    """
    _, *rest = option.split("-")
    *lengths, version = rest if len(rest) == 4 else ["1", "1", "1", "v1"]
    if version not in ("v1", "pni") or not all(one.isdecimal() and int(one[:6]) > 0 for one in lengths):
        return ()
    steps = [tuple(-int(one[:6]) * (axis == at) for axis in range(3))[-dims:] for at, one in enumerate(lengths)][-dims:]
    return tuple(reversed(steps) if version == "pni" else steps)


def _choose(targets: list[_Target]) -> tuple[Use, list[_Target]]:
    """Return how the channels are used, by the first kind of output that is all there, and the targets it is of."""
    of = {kind: [one for one in targets if one.kind == kind] for kind in {one.kind for one in targets}}
    first = {kind: found[0] for kind, found in of.items()}
    with_offsets = [one for one in of.get("affinities", []) if one.offsets]
    if with_offsets:
        offsets = tuple(offset for one in with_offsets for offset in one.offsets)
        return _of(with_offsets, OutputSpec("affinities", offsets)), with_offsets
    if {"binary", "distance"} <= first.keys():
        parts = [first[kind] for kind in ("binary", "contour", "distance") if kind in first]
        return _of(parts, OutputSpec("contour-distance"), _GROWN), parts
    if {"binary", "contour"} <= first.keys():
        parts = [first["binary"], first["contour"]]
        note = "its foreground also stands for the distance that it lacks: seeds grow where that is surest first"
        return _of([*parts, parts[0]], OutputSpec("contour-distance"), _GROWN, notes=(note,)), parts
    if "classes" in first:
        one = first["classes"]
        names = ("background", *SYNAPSES) if one.option[0] == "1" else ()
        return _of([one], OutputSpec("semantic"), classes=names), [one]
    if "polarity" in first:
        return _polarity(first["polarity"]), [first["polarity"]]
    one = next((first[kind] for kind in ("binary", "contour") if kind in first), targets[0])
    kind: OutputKind = "boundary" if one.kind == "contour" else "foreground" if len(one.channels) == 1 else "semantic"
    plain = one.kind in ("binary", "contour", "small objects", "skeleton")
    note = f"Tessera has no decoder for '{one.option}' ({one.kind}); its channels are read as {kind}"
    return _of([one], OutputSpec(kind), notes=() if plain else (note,)), [one]


# Its own decoding has the same thresholds, in the same order.
_GROWN = DecoderChoice("contour-distance", (("min_size_vox", SMALLEST_VOX),))


def _of(
    targets: list[_Target],
    output: OutputSpec,
    decoder: DecoderChoice | None = None,
    *,
    notes: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
) -> Use:
    channels = tuple(channel for one in targets for channel in one.channels)
    activations = tuple(one.activation for one in targets for _ in one.channels)
    return Use(channels, activations, output, decoder, notes, classes)


def _polarity(target: _Target) -> Use:
    """Return the use of synapses: of three channels the last is both others together, so two are labelled."""
    channels = target.channels[:2]
    decoder = DecoderChoice("regions", (("labels", (1, 2)),))
    note = "presynaptic voxels become label 1 and postsynaptic ones 2, and not pairs of objects"
    activations = (target.activation,) * 2
    return Use(channels, activations, OutputSpec("semantic"), decoder, (note,), SYNAPSES)
