"""What one measured peak says about an estimate: how large workspaces really are, and what they do not explain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_tessera.memory.profile import Correction

if TYPE_CHECKING:
    from napari_tessera.memory.estimate import DeviceNeed

__all__ = ["LARGEST_SCALE", "fit_correction"]

# The rule's workspaces times more than this would be the memory of another kernel altogether.
LARGEST_SCALE = 8.0
# Halvings of the interval of scales: to 1e-5 of it.
HALVINGS = 20
# A peak as near as this to what was assumed says nothing of workspaces: to fit their scale to what another layout of a
# tensor takes would be wrong by far where they do decide (a SwinUNETR on the CPU: 0.5 % here, 30 % there).
NEAR = 0.01
# What remains to be explained of a peak after the scale, as a share of it, and is left alone.
REST = 0.001


def fit_correction(need: DeviceNeed, measured_bytes: int, *, prior_scale: float) -> Correction:
    """Return the correction that makes the estimate of *need* the *measured_bytes*.

    Parameters
    ----------
    need
        Of the run that was measured.
    measured_bytes
        The most that torch had allocated for it, the weights included.
    prior_scale
        What is assumed of workspaces: kept where they do not decide on the peak, lowered where that already says less.

    Notes
    -----
    What is missing of the assumed sum is first taken from what does not grow with the pass, the libraries' handles:
    were a constant taken for a share of the activations, larger passes would be expected to need too little.
    """
    unused = min(max(need.estimate(Correction(prior_scale)).counted_bytes - measured_bytes, 0), need.library_bytes)

    def counted(scale: float, factor: float = 1.0) -> int:
        return need.estimate(Correction(scale, factor, unused)).counted_bytes

    assumed = counted(prior_scale)
    if abs(measured_bytes - assumed) <= NEAR * assumed:
        scale = prior_scale
    else:
        scale = _largest(lambda scale: counted(scale) <= measured_bytes, LARGEST_SCALE)
        if counted(scale) == counted(0.0):  # no workspace decides, so this is only an upper bound of the scale
            scale = min(scale, prior_scale)
    factor = 1.0
    rest = measured_bytes - counted(scale)
    # Where the peak comes after the pass, less of it says nothing about the pass.
    if abs(rest) > REST * measured_bytes and (need.peaks_in_pass or rest > 0):
        most = max(measured_bytes / max(need.profile.activations_bytes, 1), 1.0)
        factor = _largest(lambda factor: counted(scale, factor) <= measured_bytes, most)
    return Correction(scale, factor, unused)


def _largest(fits: Callable[[float], bool], most: float) -> float:
    """Return the largest number of [0, *most*] that *fits*, 0 if none does; all below one that fits do."""
    if fits(most):
        return most
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
