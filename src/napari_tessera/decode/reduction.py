"""What of a network's output leaves the device, and whether it is what the model's description takes it for.

Class numbers, a boundary map, or probabilities in a narrow type; the first passes tell what is wrong with values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.choices import ProbabilityType
from napari_tessera.engine.loop.pass_check import is_whole
from napari_tessera.engine.sink import Reduction

if TYPE_CHECKING:
    import numpy as np
    import torch

    from napari_tessera.decode.decoder import Decoder
    from napari_tessera.models.spec.spec import Activation, ModelSpec

UINT8_LEVELS = 255
MOST_FLOAT16 = 65504.0
# How far beyond [0, 1] what is taken for a probability may lie, and a sum of them beyond 1: a regression overshoots,
# and float16 rounds.
SLACK = 0.01
# What a network that ends in such an activation gives, and how near it comes to both ends where it decides.
RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
NEAR = 0.1
# From so many values on, logits that never leave such a range are strange, even where they come near neither end.
MANY = 100_000


@dataclass(frozen=True, slots=True)
class Reduced:
    """A reduction and the channels and numpy dtype of the volume that it fills."""

    channels: int
    dtype: str
    reduction: Reduction


def choose_reduction(
    spec: ModelSpec, decoder: Decoder | None, kept: ProbabilityType, *, activated: bool = False
) -> Reduced:
    """Return what becomes of the network's averaged output, *activated* before or not.

    A *decoder* makes labels of it later; without one, probabilities are *kept* in this type.
    """
    activations = () if activated else spec.activations
    if decoder is None:
        narrowed = Reduction(lambda planes: _narrow(_active(planes, activations), kept))
        return Reduced(spec.out_channels, kept.value, narrowed)
    channels, dtype = decoder.reduced(spec.out_channels)
    only_order = _order_suffices(decoder, activations)

    def reduce(planes: torch.Tensor) -> torch.Tensor:
        return decoder.reduce(planes if only_order else _active(planes, activations), spec.output)

    return Reduced(channels, dtype, Reduction(reduce, normalised=not only_order, background=decoder.background))


def _order_suffices(decoder: Decoder, activations: Sequence[Activation]) -> bool:
    """Whether *decoder* only compares channels, and *activations* keep their order.

    Others than these bring large values to the same number of float32.
    """
    return set(activations) in ({"none"}, {"softmax"}) and decoder.needs_only_order(len(activations))


def keep_output(spec: ModelSpec) -> Reduced:
    """Return what keeps the network's averaged output, activated only if it is resampled so.

    In float16, as nnU-Net does; MONAI keeps float32.
    """
    activations = spec.activations if spec.resampling.output_activated else ()
    if spec.resampling.grid == "corner":
        return Reduced(spec.out_channels, "float32", Reduction(lambda planes: _active(planes, activations)))

    def narrow(planes: torch.Tensor) -> torch.Tensor:
        return _active(planes, activations).clamp(-MOST_FLOAT16, MOST_FLOAT16).half()

    return Reduced(spec.out_channels, "float16", Reduction(narrow))


def check_probabilities(spec: ModelSpec, kept: ProbabilityType) -> None:
    """Raise `SettingsError` if the network's output cannot be kept in such a type."""
    if kept is ProbabilityType.UINT8 and not spec.gives_probabilities:
        raise SettingsError(
            f"probabilities is uint8, which holds values from 0 to 1, but '{spec.name}' has no activation that brings "
            f"all its output there: choose float16 or float32"
        )


def restore_probabilities(kept: np.ndarray) -> torch.Tensor:
    """Return kept probabilities as float32; shares memory with those that are float32 already."""
    import torch

    values = torch.from_numpy(kept)
    return values.float().div_(UINT8_LEVELS) if values.dtype is torch.uint8 else values.float()


def _active(planes: torch.Tensor, activations: tuple[Activation, ...]) -> torch.Tensor:
    from napari_tessera.models.model import activate

    return activate(planes, activations)


def _narrow(planes: torch.Tensor, kept: ProbabilityType) -> torch.Tensor:
    import torch

    if kept is ProbabilityType.UINT8:
        return planes.mul(UINT8_LEVELS).round_().clamp_(0, UINT8_LEVELS).to(torch.uint8)
    return planes.half() if kept is ProbabilityType.FLOAT16 else planes


class ValueCheck:
    """Finds, once each, what outputs of a model have that its description excludes.

    *kept* is what the averages become on the device: what makes labels of them, or None where probabilities are kept;
    *decoder* what makes labels in the end, if anything does.
    """

    def __init__(self, spec: ModelSpec, kept: Decoder | None, decoder: Decoder | None) -> None:
        self._decoder = decoder
        compared = () if decoder is None else decoder.compared(spec.out_channels, spec.output)
        self._compared = [channel for channel in compared if spec.activations[channel] == "none"]
        is_activated = kept is None or not _order_suffices(kept, spec.activations)
        self._activated: dict[str, list[range]] = {}
        start = 0
        for activation, same in groupby(spec.activations if is_activated else ()):
            stop = start + len(list(same))
            self._activated.setdefault(activation, []).append(range(start, stop))
            start = stop
        self._reach: dict[str, tuple[float, float]] = {}
        self._said: set[str] = set()
        self._seen = 0
        self._is_whole = True
        self._whole: tuple[float, float] | None = None

    def of_pass(self, output: torch.Tensor, *, fractional: bool) -> Iterator[str]:
        """Yield sentences on *output*, (B, C, *window), before any activation, of windows that are *fractional*.

        `ModelError` if it gives class numbers for them. What gives whole numbers for whole numbers may just copy them.
        """
        self._seen += output.numel()
        if fractional and self._is_whole:
            self._look_for_classes(output)
        if self._compared and "none" not in self._said:
            yield from self._of_compared(output)
        for activation in RANGES.keys() & self._activated.keys() - self._said:
            yield from self._of_twice(output, activation)
        if "softmax" in self._activated.keys() - self._said:
            yield from self._of_softmax(output)

    def of_all(self) -> Iterator[str]:
        """Yield sentences on all outputs until now."""
        if self._is_whole and self._whole == (0.0, 1.0) and "mask" not in self._said:
            self._said.add("mask")
            yield (
                "the network gives a mask, 0 and 1 and nothing between them: where windows overlap the result is a "
                "vote of windows and no probability; let it give scores, without the threshold at its end, to have more"
            )
        for activation in RANGES.keys() & self._activated.keys() - self._said if self._seen >= MANY else ():
            (low, high), (least, most) = self._reach[activation], RANGES[activation]
            # Logits of a network that has learned little lie about 0, and so on both sides of it.
            if least <= low < high <= most and (least == 0 or max(-low, high) > most - NEAR):
                self._said.add(activation)
                yield (
                    f"all values of the network lie between {low:.3g} and {high:.3g}, and its description has a "
                    f"{activation} follow: does the network end in one already? Then say activation: none"
                )

    def _look_for_classes(self, output: torch.Tensor) -> None:
        """Keep how far whole numbers reach, as long as there is nothing else."""
        self._is_whole = is_whole(output)
        if not self._is_whole:
            return
        low, high = (float(end) for end in output.aminmax())
        before = self._whole or (low, high)
        low, high = self._whole = min(low, before[0]), max(high, before[1])
        if low < high and (low, high) != (0.0, 1.0) and math.isfinite(high - low):
            from napari_tessera.engine.loop.forward import no_scores

            raise no_scores(f"whole numbers from {low:.0f} to {high:.0f}, such as class numbers")

    def _range(self, output: torch.Tensor, key: str, channels: list[int]) -> tuple[float, float]:
        """Return how far the values of *channels* have reached in all outputs until now."""
        ends = [output[:, channel].aminmax() for channel in channels]
        low, high = (min(float(each.min) for each in ends), max(float(each.max) for each in ends))
        before = self._reach.get(key, (low, high))
        self._reach[key] = min(low, before[0]), max(high, before[1])
        return self._reach[key]

    def _of_compared(self, output: torch.Tensor) -> Iterator[str]:
        low, high = self._range(output, "none", self._compared)
        if low >= -SLACK and high <= 1 + SLACK:
            return
        self._said.add("none")
        whole = all(bool((output[:, channel] == output[:, channel].round()).all()) for channel in self._compared)
        assert self._decoder is not None
        yield (
            f"the network's values reach from {low:.3g} to {high:.3g}, but the decoder '{self._decoder.name}' takes "
            f"them for probabilities from 0 to 1: "
        ) + (
            "whole numbers such as these may be class numbers; let the network give a score for each class instead"
            if whole
            else "if they are logits, say activation: sigmoid in the model's description (in Python: "
            "activation='sigmoid')"
        )

    def _of_twice(self, output: torch.Tensor, activation: str) -> Iterator[str]:
        channels = [channel for group in self._activated[activation] for channel in group]
        (low, high), (least, most) = self._range(output, activation, channels), RANGES[activation]
        if least <= low < least + NEAR and most - NEAR < high <= most:
            self._said.add(activation)
            yield (
                f"the network's values lie between {low:.3g} and {high:.3g}, as after a {activation}, and its "
                f"description has another {activation} follow, which leaves little between them: if the network "
                f"ends in one, say activation: none"
            )

    def _of_softmax(self, output: torch.Tensor) -> Iterator[str]:
        for group in self._activated["softmax"]:
            part = output[0, group.start : group.stop]
            if len(group) < 2 or float(part.min()) < 0:
                continue
            low, high = part.sum(0).aminmax()
            if float(low) >= 1 - SLACK and float(high) <= 1 + SLACK:
                self._said.add("softmax")
                yield (
                    f"the network's {len(group)} channels are above 0 and sum to 1, as after a softmax, and its "
                    f"description has another softmax follow, which brings them close together: if the network ends "
                    f"in one, say activation: none"
                )
                return
