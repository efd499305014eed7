"""What is measured of a volume's values while its pieces go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Counts", "Moments", "Sample", "Weighted", "reciprocal"]


@dataclass(slots=True)
class Moments:
    """Running count, mean and squared deviations (Chan's parallel update), minimum and maximum, per channel."""

    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    count: int = 0

    @classmethod
    def of(cls, channels: int) -> Moments:
        """Return those of nothing."""
        zeros = np.zeros(channels)
        return cls(zeros, zeros.copy(), np.full(channels, np.inf), np.full(channels, -np.inf))

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add *values*, (C, n)."""
        n = values.shape[1]
        if n == 0:
            return
        mean = values.mean(axis=1, dtype=np.float64)
        squares = values.var(axis=1, dtype=np.float64) * n
        self._join(n, mean, squares, values.min(axis=1), values.max(axis=1))

    def add_weighted(self, values: npt.NDArray[Any], times: npt.NDArray[np.int64]) -> None:
        """Add *values*, (n,), of a single channel, each as often as *times*, (n,), says; none of them 0 times."""
        mean = np.average(values, weights=times)
        squares = np.sum((values - mean) ** 2 * times)
        self._join(int(times.sum()), mean, squares, values.min(), values.max())

    def _join(self, n: int, mean: Any, squares: Any, low: Any, high: Any) -> None:
        delta, total = mean - self.mean, self.count + n
        self.squares = self.squares + squares + delta**2 * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.low = np.minimum(self.low, low)
        self.high = np.maximum(self.high, high)
        self.count = total


class Counts:
    """How often each of the values that 16 bits hold occurs, per channel."""

    def __init__(self, channels: int, dtype: np.dtype[Any]) -> None:
        self._least = 0 if dtype.kind == "b" else int(np.iinfo(dtype).min)
        self._counts = np.zeros((channels, 1 << (8 * dtype.itemsize)), np.int64)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add *values*, (C, n)."""
        for counts, channel in zip(self._counts, values, strict=True):
            counts += np.bincount(channel.astype(np.int64) - self._least, minlength=len(counts))

    def percentiles(self, channel: int, percents: Sequence[float]) -> list[float]:
        """Return what `numpy.percentile` does of all values of a channel."""
        up_to = np.cumsum(self._counts[channel])
        places = (up_to[-1] - 1) * np.asarray(percents) / 100
        below, above = (np.searchsorted(up_to, edge, side="right") for edge in (np.floor(places), np.ceil(places)))
        return [float(value) for value in self._least + below + (above - below) * (places - np.floor(places))]

    def occurring(self, channel: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the values of a channel, each once, ascending, and how often each occurs."""
        (places,) = np.nonzero(self._counts[channel])
        return (places + self._least).astype(np.float64), self._counts[channel][places]


class Sample:
    """Some of the values, float32, per channel.

    Parameters
    ----------
    voxels
        How many there are of a channel.
    most
        About how many are kept of a channel.
    """

    def __init__(self, voxels: int, most: int) -> None:
        self._share = min(most / max(voxels, 1), 1.0)
        self._random = np.random.default_rng(0)  # the same image, the same numbers
        self._kept: list[npt.NDArray[np.float32]] = []

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add some of *values*, (C, n)."""
        if self._share < 1:
            n = values.shape[1]
            values = values[:, self._random.integers(0, n, ceil(n * self._share))]
        self._kept.append(values.astype(np.float32))

    def percentiles(self, channel: int, percents: Sequence[float], method: Any = "linear") -> list[float]:
        """Return the percentiles of a channel's sample."""
        found = np.percentile(np.hstack(self._kept)[channel], percents, method=method)
        return [float(value) for value in found]


class Weighted:
    """Values that occur several times."""

    def __init__(self) -> None:
        self._values: list[npt.NDArray[np.float64]] = []
        self._times: list[npt.NDArray[np.int64]] = []

    def add(self, values: npt.NDArray[np.float64], times: npt.NDArray[np.int64]) -> None:
        """Add *values*, (n,), each as often as *times*, (n,), says."""
        self._values.append(values)
        self._times.append(times)

    def percentile(self, percent: float, *, rank: bool) -> float:
        """Return what `numpy.percentile` does of all values: between two of them, or by *rank* one that occurs."""
        values = np.hstack(self._values)
        order = np.argsort(values)
        values, up_to = values[order], np.cumsum(np.hstack(self._times)[order])
        if rank:  # method "inverted_cdf"; what rounding leaves of a whole number is none
            return float(values[np.searchsorted(up_to, up_to[-1] * percent / 100 * (1 - 1e-15), side="left")])
        place = (up_to[-1] - 1) * percent / 100
        below, above = (
            values[np.searchsorted(up_to, edge, side="right")] for edge in (np.floor(place), np.ceil(place))
        )
        return float(below + (above - below) * (place - np.floor(place)))


def reciprocal(value: float) -> float:
    """Return 1 / value; 1 where the value is 0, so that a constant image becomes zeros and not NaN."""
    return 1 / value if value > 0 else 1.0
