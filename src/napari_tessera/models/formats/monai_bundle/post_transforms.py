"""What a MONAI bundle does after its network: activation and decoder, from a reviewed list of transforms."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.models.formats.monai_bundle.config import base_name, check_key, key_of
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component, Config
    from napari_tessera.models.spec.spec import Activation


LONGEST, MOST_RULES, LARGEST = 2000, 64, 2**16 - 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One comparison: where *channel* compares so with *limit*, and no rule before holds, there is *label*."""

    channel: int
    compares: type[ast.cmpop]
    limit: float
    label: int

    @property
    def above(self) -> float | None:
        """What values are above where it holds; None: it is no such comparison."""
        if self.compares is ast.GtE:
            return reaches(self.limit)
        return self.limit if self.compares is ast.Gt else None

    @property
    def tells_apart(self) -> bool:
        """Whether it holds for 1 and not for 0."""
        if self.compares is ast.Gt:
            return 0 <= self.limit < 1
        return 0 < self.limit <= 1 if self.compares is ast.GtE else self.limit == 1


def reaches(limit: float) -> float:
    """Return the largest number of float32 below *limit*: the values above it are those that reach the limit."""
    return float(np.nextafter(np.float32(limit), np.float32(-np.inf)))


def read_regions(function: Any) -> tuple[Rule, ...] | None:
    """Return the rules of *function*, a text that begins with ``$``, the one that counts most first.

    None: it is another function.
    """
    if not isinstance(function, str) or not function.startswith("$") or len(function) > LONGEST:
        return None
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        match ast.parse(function[1:].strip(), mode="eval").body:
            case ast.Lambda(args=ast.arguments(args=[ast.arg(arg=name)]), body=body):
                return _rules(body, name)
    return None


def _rules(node: ast.expr, name: str) -> tuple[Rule, ...] | None:
    found: list[Rule] = []
    while len(found) < MOST_RULES:
        match node:
            case ast.Constant(value=0) if found:
                channels = {rule.channel for rule in found}
                return tuple(found) if len(channels) == len(found) else None
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="torch"), attr="where"),
                args=[
                    ast.Compare(
                        left=ast.Subscript(value=ast.Name(id=of), slice=index),
                        ops=[ast.Gt() | ast.GtE() | ast.Eq() as compares],
                        comparators=[ast.Constant(value=int() | float() as limit)],
                    ),
                    ast.Constant(value=int() as label),
                    node,
                ],
                keywords=[],
            ) if of == name and 0 < label <= LARGEST and label is not True and (channel := _channel(index)) is not None:
                found.append(Rule(channel, type(compares), float(limit), label))
            case _:
                return None
    return None


def _channel(index: ast.expr) -> int | None:
    match index:
        case ast.Constant(value=int() as channel) | ast.List(elts=[ast.Constant(value=int() as channel)]):
            return None if isinstance(channel, bool) else channel
        case ast.Slice(lower=ast.Constant(value=int() as channel), upper=ast.Constant(value=int() as end), step=None):
            return channel if end == channel + 1 else None
    return None


_NEUTRAL = allowed.MONAI_NEUTRAL.names


@dataclass
class Postprocessing:
    """What happens after the network, which gives so many channels."""

    channels: int
    activation: Activation = "none"
    decoder: DecoderChoice | None = None
    # How output is resampled to the image grid before labels are decided, as in `ResamplingScheme`.
    output_order: int | None = None
    output_activated: bool = False
    notes: list[str] = field(default_factory=list)
    is_inverted: bool = False  # output is back in the image's voxels
    is_onehot: bool = False  # labels are a channel each

    @property
    def parameters(self) -> dict[str, Any]:
        """The decoder's."""
        return dict(self.decoder.parameters) if self.decoder else {}

    def is_decided_by(self, *decoders: str) -> bool:
        """Whether labels are decided by one of these."""
        return self.decoder is not None and self.decoder.name in decoders

    @property
    def drops_parts(self) -> bool:
        """Whether the decoder leaves out connected parts by their size."""
        return bool({"keep_largest", "min_size_vox"} & self.parameters.keys())

    def refine(self, **parameters: Any) -> None:
        """Give the decoder more *parameters*."""
        assert self.decoder is not None
        self.decoder = DecoderChoice(self.decoder.name, tuple(sorted((self.parameters | parameters).items())))
        if self.is_inverted and self.output_order is None:
            # Parts are compared by size, and have another one in the network's voxels.
            self.output_order = 0


def read_postprocessing(config: Config, *, key: str, out_channels: int) -> Postprocessing:
    """Return what *config* does to the prediction called *key*."""
    found = Postprocessing(out_channels)
    if "postprocessing" not in config.content:
        return found
    transforms = config.components(config.content["postprocessing"], "postprocessing")
    names = [base_name(transform.name, {**TRANSFORMS, **_NEUTRAL}) for transform in transforms]
    changing = [one for one, name in zip(transforms, names, strict=True) if one.is_monai and name not in _NEUTRAL]
    key, copies = key_of(key, changing, label=config.label), set[str]()
    for one, name in zip(transforms, names, strict=True):
        if one.is_monai:
            check_key(one, key, copies, changes=name not in _NEUTRAL)
        transform = one.on(key) if one.is_monai else one
        if transform is None:
            continue
        if not one.is_monai or name not in {**TRANSFORMS, **_NEUTRAL}:
            raise ModelError(
                f"{config.label}: '{one.where}' is '{one.target[:80]}', which Tessera does not do, and without it the "
                f"labels would be others: take it out of the file to have what the network itself gives"
            )
        if name in TRANSFORMS:
            TRANSFORMS[name](found, transform)
        elif found.decoder is None and not transform.is_float:
            raise transform.unusable("a type without fractions, which would leave nothing to decide labels by")
    if found.is_inverted and found.decoder is None and found.output_order is None:
        found.output_order = 0  # else results that stay probabilities would be interpolated
    if out_channels > 1 and found.is_decided_by("threshold"):
        found.notes.append(
            f"The bundle applies its threshold to each of {out_channels} channels; Tessera's decoder makes objects of "
            f"channel 1 alone, or of the one from 0 to {out_channels - 1} that you choose (channel)."
        )
    return found


def _read_activation(found: Postprocessing, transform: Component) -> None:
    both: tuple[Activation, ...] = ("sigmoid", "softmax")
    chosen = [activation for activation in both if transform.of_key(activation)]
    if len(chosen) > 1:
        raise transform.unusable("both sigmoid and softmax, but a network ends in one")
    if chosen and found.activation != "none":
        raise transform.unusable(f"{chosen[0]} after {found.activation}, but a network ends in one")
    if chosen and found.decoder is not None:
        raise transform.unusable(f"{chosen[0]} after labels are decided, but Tessera decides them at the end")
    _check_dim(transform)
    if chosen:
        found.activation = chosen[0]
    if transform.raw.get("other") is not None:
        raise transform.unusable("a function 'other', which is code, and Tessera runs no code of a bundle")


def _read_discrete(found: Postprocessing, transform: Component) -> None:
    names = ("argmax", "to_onehot", "threshold", "rounding")
    argmax, to_onehot, threshold, rounding = (transform.of_key(name) for name in names)
    if argmax:
        _read_argmax(found, transform)
    if to_onehot is not None:
        if found.decoder is None:
            raise transform.unusable("to_onehot before there are labels, which only whole numbers allow")
        found.is_onehot = True
    if threshold is not None:
        _read_threshold(found, transform, threshold)
    elif rounding is not None and found.decoder is None:  # a half is rounded down, to 0
        found.decoder = DecoderChoice("threshold", (("threshold", 0.5),))


def _read_argmax(found: Postprocessing, transform: Component) -> None:
    if found.decoder is not None:
        raise transform.unusable("argmax after labels are decided, but Tessera decides them once")
    if found.channels == 1:
        raise transform.unusable("argmax, which of 1 channel is 0 everywhere: write threshold 0.5 there")
    _check_dim(transform)
    found.decoder = DecoderChoice("argmax")


def _read_threshold(found: Postprocessing, transform: Component, threshold: Any) -> None:
    if not isinstance(threshold, int | float) or isinstance(threshold, bool) or not 0 < threshold <= 1:
        raise transform.unusable(
            f"the threshold {str(threshold)[:40]}, but Tessera needs a number above 0 and not above 1"
        )
    if found.decoder is None:
        found.decoder = DecoderChoice("threshold", (("threshold", reaches(threshold)),))
        return
    # Where all is 0 or 1 already, it changes nothing.
    of_classes = found.is_decided_by("regions") or (found.is_decided_by("argmax") and found.channels > 2)
    if of_classes and not found.is_onehot:
        raise transform.unusable(
            "a threshold after classes are decided, which makes one of them all; Tessera decides labels once"
        )


def _check_dim(transform: Component) -> None:
    if transform.literal("dim", 0) != 0:
        raise transform.unusable(f"dim {str(transform.literal('dim', 0))[:40]}, but channels are dim 0")


def _read_lambda(found: Postprocessing, transform: Component) -> None:
    rules = read_regions(transform.of_key("func", as_written=True))
    discrete = found.parameters.get("threshold")
    if rules is None or found.drops_parts or (found.decoder is not None and not found.is_decided_by("threshold")):
        raise transform.unusable(
            "a function 'func', which is code, and Tessera runs no code of a bundle: it only reads which channel "
            "becomes which label, as in 'lambda x: torch.where(x[[1]] > 0, 2, torch.where(x[[0]] > 0, 1, 0))'",
        )
    # What was compared with a threshold before is 0 or 1.
    found_limits = {rule.above if discrete is None else float(discrete) for rule in rules}
    limits = [limit for limit in found_limits if limit is not None and 0 <= limit <= 1]
    channels = [rule.channel for rule in rules]
    sure = discrete is None or all(rule.tells_apart for rule in rules)
    if len(found_limits) > 1 or not limits or not sure or max(channels) >= found.channels:
        raise transform.unusable(f"comparisons that Tessera's decoder does not do for {found.channels} channels")
    labels = [0] * found.channels
    for rule in rules:
        labels[rule.channel] = rule.label
    # The first comparison counts most, so it is drawn last.
    parameters = {"labels": tuple(labels), "order": tuple(reversed(channels)), "threshold": limits[0]}
    found.decoder = DecoderChoice("regions", tuple(sorted(parameters.items())))


def _read_largest(found: Postprocessing, transform: Component) -> None:
    if found.decoder is None:
        raise transform.unusable("no labels before it that it could be of: AsDiscrete must come first")
    if found.is_decided_by("threshold") and found.channels > 1:
        raise transform.unusable(
            f"{found.channels} channels of 0 and 1 before it, but Tessera makes objects of one channel"
        )
    labels = set(found.parameters.get("labels") or range(max(found.channels, 2))) - {0}
    is_onehot = transform.literal("is_onehot", None)
    if is_onehot is not None and bool(is_onehot) != found.is_onehot:
        raise transform.unusable(f"is_onehot {str(is_onehot)[:40]}, but what comes before it makes other channels")
    if "keep_largest" in found.parameters:
        raise transform.unusable("its place after another of its kind, but Tessera keeps largest parts once")
    applied = transform.literal("applied_labels", None)
    applied = [applied] if isinstance(applied, int) else applied
    if applied is not None and not labels <= set(applied):
        raise transform.unusable(f"applied_labels {str(applied)[:40]}, but Tessera does it for all classes or none")
    if len(labels) > 1 and not transform.literal("independent", True):
        raise transform.unusable("independent false, but Tessera does it for each class by itself")
    most, connectivity = transform.literal("num_components", 1), _connectivity(transform, None)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise transform.unusable(f"num_components {str(most)[:40]}, but Tessera needs a whole number from 1 up")
    before = found.parameters.get("connectivity", connectivity)
    if before != connectivity:
        raise transform.unusable(f"connectivity {connectivity}, and a transform before it {before}: Tessera has one")
    found.refine(keep_largest=most, connectivity=connectivity)


def _read_small(found: Postprocessing, transform: Component) -> None:
    least, connectivity = transform.literal("min_size", 64), _connectivity(transform, 1)
    one = found.is_decided_by("threshold") and found.channels == 1
    if not one or transform.literal("by_measure", False) or isinstance(least, bool) or not isinstance(least, int):
        raise transform.unusable("a use that Tessera does not know: it drops objects of one channel, by their voxels")
    if found.drops_parts:
        raise transform.unusable("its place after another that drops objects, but Tessera drops small ones first, once")
    found.refine(min_size_vox=max(least, 0), connectivity=connectivity)


def _connectivity(transform: Component, default: int | None) -> int:
    """Return over how many axes neighbours may differ; 3 stands for all there are, as no number does in MONAI."""
    value = transform.literal("connectivity", default)
    if value is None:
        return 3
    if isinstance(value, bool) or value not in (1, 2, 3):
        raise transform.unusable(f"connectivity {str(value)[:40]}, but Tessera needs 1, 2 or 3")
    return int(value)


def _read_invert(found: Postprocessing, transform: Component) -> None:
    found.is_inverted = True
    if transform.of_key("nearest_interp", True):
        return  # whether labels are decided before or after makes no difference
    if found.decoder is not None:
        found.notes.append(
            f"{transform.name} interpolates class numbers between voxels; Tessera gives each voxel the nearest label."
        )
        return
    found.output_order, found.output_activated = 1, found.activation != "none"


TRANSFORMS: dict[str, Callable[[Postprocessing, Component], None]] = allowed.MONAI_POSTPROCESSING.handled(
    {
        "Activations": _read_activation,
        "AsDiscrete": _read_discrete,
        "Invert": _read_invert,
        "KeepLargestConnectedComponent": _read_largest,
        "Lambda": _read_lambda,
        "RemoveSmallObjects": _read_small,
    }
)
