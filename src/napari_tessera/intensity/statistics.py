"""What is measured of values while they go by."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class Distribution:
    """Count, mean and squared deviations (Chan's parallel update), least and largest value, and some of the values.

    *kept* is the share that percentiles come from; of values that come with how often they occur, all are kept.
    """

    def __init__(self, kept: float) -> None:
        self.count, self.mean, self.low, self.high = 0, 0.0, inf, -inf
        self._squares = 0.0
        self.kept = kept
        self._random = np.random.default_rng(0)  # the same image, the same numbers
        self._values: list[npt.NDArray[Any]] = []
        self._times: list[npt.NDArray[np.int64]] = []

    @property
    def std(self) -> float:
        """Of all values, not of a sample."""
        return float(np.sqrt(self._squares / max(self.count, 1)))

    def add(self, values: npt.NDArray[np.float64], times: npt.NDArray[np.int64] | None = None) -> None:
        """Add *values*, (n,), each as often as *times*, (n,), says; None: once."""
        n = len(values) if times is None else int(times.sum())
        if n == 0:
            return
        mean = float(np.average(values, weights=times))
        deviations = values - mean
        squares = float(np.average(np.square(deviations, out=deviations), weights=times)) * n
        total, apart = self.count + n, mean - self.mean
        self.mean += apart * n / total
        self._squares += squares + apart**2 * self.count * n / total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.count = total
        if times is not None:
            self._values.append(values)
            self._times.append(times)
        elif self.kept:
            chosen = values
            if self.kept < 1:
                chosen = values[self._random.integers(0, len(values), ceil(len(values) * self.kept))]
            self._values.append(chosen.astype(np.float32))

    def percentiles(self, percents: Sequence[float], *, rank: bool = False) -> list[float]:
        """Return what `numpy.percentile` does: between two values, or by *rank* one that occurs."""
        values = np.hstack(self._values)
        if not self._times:
            method: Any = "inverted_cdf" if rank else "linear"
            return [float(value) for value in np.percentile(values, percents, method=method)]
        order = np.argsort(values)
        values, up_to = values[order], np.cumsum(np.hstack(self._times)[order])
        if rank:  # what rounding leaves of a whole number is none
            places = up_to[-1] * np.asarray(percents) / 100 * (1 - 1e-15)
            return [float(value) for value in values[np.searchsorted(up_to, places, side="left")]]
        places = (up_to[-1] - 1) * np.asarray(percents) / 100
        below, above = (
            values[np.searchsorted(up_to, edge, side="right")] for edge in (np.floor(places), np.ceil(places))
        )
        return [float(value) for value in below + (above - below) * (places - np.floor(places))]
