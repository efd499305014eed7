"""Memory of a run at its peak: a forward pass, the terms of the device and of the host, and what corrects them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from itertools import accumulate

# How much of the rule for workspaces (`recorder.workspace_bytes`) is assumed before anything has been measured: all of
# it for cuDNN, nothing elsewhere, where no rule is known that holds over kernels.
PRIOR_SCALES = {"cuda": 1.0}
# How far the estimate may be off for it. On CUDA a goal, not a figure: no card has been measured yet. On the CPU what
# benchmarks/calibration.py finds that kernels take beside tensors (up to 23 % of all), and twice the tensors where a
# pass holds a single window, for which torch takes kernels that write whole matrices of columns.
PRIOR_ERRORS = {"cuda": 0.1, "cpu": 0.3}
CPU_SINGLE_ERROR = 2.0
# The rule's workspaces times more than this would be the memory of another kernel altogether.
LARGEST_SCALE = 8.0
# Halvings of the interval of scales: to 1e-5 of it.
HALVINGS = 20
# A peak as near as this to what was assumed says nothing of workspaces: to fit their scale to what another layout of a
# tensor takes would be wrong by far where they do decide (a SwinUNETR on the CPU: 0.5 % here, 30 % there).
NEAR = 0.01
# What remains to be explained of a peak after the scale, as a share of it, and is left alone.
REST = 0.001


@dataclass(frozen=True, slots=True)
class PassProfile:
    """The memory of one forward pass besides the weights, bytes.

    Parameters
    ----------
    activations_bytes
        The most that tensors take at once, input and output included.
    at_convolutions
        For convolutions that may decide on the peak: what tensors take at that moment, and the kernel's own workspace.
    """

    activations_bytes: int
    at_convolutions: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(
        cls, signed_bytes: Iterable[int], workspaces: Iterable[tuple[int, int]], *, step_bytes: int = 1
    ) -> PassProfile:
        """Return the profile of a pass whose allocations, negative where memory is freed, come in this order.

        Each allocation is rounded up to *step_bytes*; *workspaces*, (how many of them had happened, bytes) of every
        convolution, are not.
        """
        rounded = (round_up(size, step_bytes) if size > 0 else -round_up(-size, step_bytes) for size in signed_bytes)
        live = list(accumulate(rounded))
        moments = sorted((((live[at - 1] if at else 0), size) for at, size in workspaces), reverse=True)
        deciding: list[tuple[int, int]] = []
        for moment in moments:  # less alive matters only with a larger workspace
            if moment[1] > 0 and (not deciding or moment[1] > deciding[-1][1]):
                deciding.append(moment)
        return cls(max(live, default=0), tuple(deciding))

    def workspace_bytes(self, scale: float) -> int:
        """Return what the workspaces, times *scale*, add to the peak of the tensors.

        Examples
        --------
        >>> PassProfile(100, ((90, 5), (60, 80))).workspace_bytes(1.0)
        40
        """
        peak = max((alive + scale * size for alive, size in self.at_convolutions), default=0)
        return max(round(peak) - self.activations_bytes, 0)


@dataclass(frozen=True, slots=True)
class Correction:
    """How the parts of an estimate differ from what was measured.

    Parameters
    ----------
    workspace_scale
        What the workspace of convolutions (see `recorder.workspace_bytes`) is multiplied with.
    activations_factor
        What the activations are multiplied with, for what nothing else explains.
    unused_library_bytes
        How much less than was assumed the handles of libraries take.
    """

    workspace_scale: float = 0.0
    activations_factor: float = 1.0
    unused_library_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run, or one calibrating pass.

    Parameters
    ----------
    estimated_bytes, measured_bytes
        What was predicted, by what was known then, and what torch counted: bytes, without the driver's context.
    correction
        What makes the estimate the measurement.
    """

    estimated_bytes: int
    measured_bytes: int
    correction: Correction


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an estimate.

    Parameters
    ----------
    correction
        What to correct it by.
    error_fraction
        How far the corrected estimate may be off.
    latest
        The last measurement of this very network; None where there is none, or others stand in for it.
    """

    correction: Correction
    error_fraction: float = 0.0
    latest: Measurement | None = None


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Device memory of a run at its peak, term by term, bytes.

    Parameters
    ----------
    weights_bytes
        Parameters and buffers of the network.
    activations_bytes
        Peak of live bytes of one forward pass beyond the weights, its input included; traced from the network.
    accumulator_bytes
        The slab that predictions are stitched in, with its row weights.
    importance_bytes
        Weights of one window.
    staging_bytes
        Windows that wait on the device while others are computed.
    workspace_bytes
        What is needed beside the pass: kernels of convolutions, other views, finished planes under reduction, library
        handles.
    context_bytes
        What the driver takes for the process, outside torch's counters.
    """

    weights_bytes: int
    activations_bytes: int
    accumulator_bytes: int
    importance_bytes: int
    staging_bytes: int
    workspace_bytes: int
    context_bytes: int

    @property
    def counted_bytes(self) -> int:
        """What torch's counters see of it: all but the context."""
        return self.total_bytes - self.context_bytes

    @property
    def total_bytes(self) -> int:
        """The sum of all terms."""
        return sum(getattr(self, term.name) for term in fields(self))

    def to_dict(self) -> dict[str, int]:
        """Return every term and the total by name."""
        return {term.name: getattr(self, term.name) for term in fields(self)} | {"total_bytes": self.total_bytes}


@dataclass(frozen=True, slots=True)
class DeviceNeed:
    """What the terms of a `MemoryEstimate` follow from, bytes; some depend on what has been measured.

    Parameters
    ----------
    weights_bytes, accumulator_bytes, importance_bytes, staging_bytes, context_bytes
        As in the estimate.
    windows, profile
        Of the forward pass.
    during_bytes, after_bytes
        What the engine needs beside a pass, and in its place once it is over.
    library_bytes
        Handles of libraries.
    known
        What is known of passes over so many windows.
    """

    weights_bytes: int
    windows: int
    profile: PassProfile
    accumulator_bytes: int
    importance_bytes: int
    staging_bytes: int
    during_bytes: int
    after_bytes: int
    library_bytes: int
    context_bytes: int
    known: Known = Known(Correction())

    @property
    def peaks_in_pass(self) -> bool:
        """Whether the most is needed during the pass, and not in its place once it is over."""
        return self.after_bytes <= self.profile.activations_bytes

    @property
    def memory(self) -> MemoryEstimate:
        """The terms, corrected by what is known."""
        return self.estimate(self.known.correction)

    @property
    def most_bytes(self) -> int:
        """All of it if the estimate is too low by all that it may be off."""
        return round(self.memory.total_bytes * (1 + self.known.error_fraction))

    def of_pass(self) -> DeviceNeed:
        """Return the need of a forward pass alone: no accumulator, nothing before it or after."""
        return replace(self, accumulator_bytes=0, importance_bytes=0, staging_bytes=0, during_bytes=0, after_bytes=0)

    def estimate(self, correction: Correction) -> MemoryEstimate:
        """Return the terms, corrected by *correction*."""
        activations = round(self.profile.activations_bytes * correction.activations_factor)
        during = self.during_bytes + self.profile.workspace_bytes(correction.workspace_scale)
        return MemoryEstimate(
            weights_bytes=self.weights_bytes,
            activations_bytes=activations,
            accumulator_bytes=self.accumulator_bytes,
            importance_bytes=self.importance_bytes,
            staging_bytes=self.staging_bytes,
            workspace_bytes=max(during, self.after_bytes - activations, 0)
            + max(self.library_bytes - correction.unused_library_bytes, 0),
            context_bytes=self.context_bytes,
        )


@dataclass(frozen=True, slots=True)
class HostEstimate:
    """Host memory of a run at its peak, term by term, bytes.

    The resident volumes and the reduced result are there throughout; a volume is first swept, then decoded, never both
    at once.

    Parameters
    ----------
    volumes_bytes
        The images that are loaded at the same time.
    result_bytes
        The reduced volume.
    sweep_bytes
        Windows on their way to the device, and the device's own memory when that is the host's.
    decoding_bytes
        What turning the reduced volume into labels takes beside it.
    kept_bytes
        Probabilities that are kept beside the labels.
    held_bytes
        Results of a time series, which are written together.
    resampling_bytes
        What bringing images to the model's voxel size and results back to theirs takes.
    """

    volumes_bytes: int
    result_bytes: int
    sweep_bytes: int
    decoding_bytes: int
    kept_bytes: int = 0
    held_bytes: int = 0
    resampling_bytes: int = 0

    @property
    def run_bytes(self) -> int:
        """What a volume that is loaded already still needs."""
        throughout = self.result_bytes + self.kept_bytes + self.held_bytes + self.resampling_bytes
        return throughout + max(self.sweep_bytes, self.decoding_bytes)

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.volumes_bytes + self.run_bytes

    def to_dict(self) -> dict[str, int]:
        """Return every term and the total by name."""
        return {term.name: getattr(self, term.name) for term in fields(self)} | {"total_bytes": self.total_bytes}


def round_up(size: int, step: int) -> int:
    """Return the smallest multiple of *step* that holds *size*."""
    return -(-size // step) * step


def fit_correction(need: DeviceNeed, measured_bytes: int, *, prior_scale: float) -> Correction:
    """Return the correction that makes the estimate of *need* the *measured_bytes*, the weights included.

    *prior_scale* is assumed of workspaces: kept where they do not decide on the peak, lowered where that already says
    less. What is missing of the assumed sum is first taken from what does not grow with the pass, the handles of
    libraries: were a constant taken for a share of the activations, larger passes would be expected to need too little.
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
