"""From the transforms of a loader to a normalisation."""

from __future__ import annotations

from typing import Any

from napari_tessera.intensity.steps import Chain, Normalisation, NormalisationMode, chain_of, normalisation
from napari_tessera.models.formats.pytorch3dunet.config import Section
from napari_tessera.models.safety import allowed
from napari_tessera.models.spec.sentences import assume

# Its own of percentiles.
LOW, HIGH = 1.0, 99.6
_PER_PATCH = "its program measures intensities in each patch by itself ({}); Tessera measures them in the whole volume"

_Step = Normalisation | Chain


def read_intensities(
    loaders: Section, phase: Section | None, channels: int
) -> tuple[_Step, tuple[str, ...], tuple[str, ...]]:
    """Return what is done to intensities before the network, what is taken for granted, and what is different there."""
    steps = [step for step in _raw_steps(phase) if step.get("name") in _READERS]
    if not steps:
        return Normalisation("none"), assume("normalisation"), ()
    read = [_READERS[str(step.get("name"))](step, channels) for step in steps]
    globally = loaders.get("global_normalization")
    measured = any(is_measured for _, is_measured in read)
    is_z_score = all(step.get("name") == "Standardize" for step in steps)
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    if measured and (globally is False or (globally is True and not is_z_score)):
        notes = (_PER_PATCH.format("loaders.global_normalization" if globally is False else "Normalize, percentiles"),)
    elif measured and globally is None:
        assumed = (
            "normalisation is by the whole volume, as PlantSeg does it: pytorch-3dunet itself does so in most releases "
            "only with global_normalization, which the configuration does not name",
        )
    return chain_of([one for step, _ in read for one in step.steps]), assumed, notes


def _raw_steps(phase: Section | None) -> list[Section]:
    """Return the steps on the image; those that only make training images differ are left out."""
    if phase is None:
        return []
    transformer = phase.section("transformer")
    found = transformer.get("raw", [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise transformer.complain("raw", found, "a list of steps with names")
    steps = [Section(phase.path, f"{transformer.place}raw.", one) for one in found]
    is_training = phase.place.endswith("train.")
    for step in steps:
        if step.get("name") not in allowed.UNET3D_STEPS.names and not is_training:
            raise step.complain("name", step.get("name"), f"one of {', '.join(allowed.UNET3D_STEPS.names)}")
    return steps


def _standardise(step: Section, channels: int) -> tuple[_Step, bool]:
    mean, std = step.number("mean"), step.number("std")
    if mean is not None and std is not None:
        return normalisation("fixed", mean=mean, std=max(std, 1e-10)), False
    return _measured("zscore", step, channels), True


def _normalise(step: Section, channels: int) -> tuple[_Step, bool]:
    """To -1 and 1, or 0 and 1, by a least and a largest value."""
    low, high = step.number("min_value"), step.number("max_value")
    is_01 = step.get("norm01", False) is True
    if low is None and high is None:
        to_01 = _measured("minmax", step, channels)
        return to_01 if is_01 else chain_of((to_01, normalisation("linear", gain=2, offset=-1))), True
    if low is None or high is None or not low < high:
        raise step.complain("min_value", [low, high], "given with max_value, and below it")
    middle, half = (low, high - low) if is_01 else ((low + high) / 2, (high - low) / 2)
    return normalisation("fixed", mean=middle, std=half, low=low, high=high), False


def _percentiles(step: Section, channels: int) -> tuple[_Step, bool]:
    low, high = step.number("pmin"), step.number("pmax")
    numbers = {"low": LOW if low is None else low, "high": HIGH if high is None else high, "clip": 0.0}
    return _measured("percentile", step, channels, **numbers), True


def _measured(mode: NormalisationMode, step: Section, channels: int, **numbers: float) -> Normalisation:
    """Return a step by statistics of all channels together, unless it is of each by itself."""
    together = {} if channels == 1 or step.get("channelwise", False) is True else {"together": 1.0}
    return normalisation(mode, **numbers, **together)


_READERS: dict[str, Any] = {
    name: reader
    for name, reader in allowed.UNET3D_STEPS.handled(
        {
            "Standardize": _standardise,
            "Normalize": _normalise,
            "PercentileNormalizer": _percentiles,
            "ToTensor": None,
            "Identity": None,
        }
    ).items()
    if reader is not None
}
