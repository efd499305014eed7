"""How values between voxels are found: nearest, linear or by a cubic spline, as weighted sums along one axis.

Voxel i of n stands for the middle of the i-th of n equal parts of the image, so a voxel of the result lies at
``(i + 0.5) * factor - 0.5`` in voxels of the source, ``factor`` being source voxels per voxel of the result. On MONAI's
grid, ``corner``, the middles of the first voxels coincide: it lies at ``i * factor``, and ``factor`` is the very
quotient of the voxel sizes, so that the last voxel may lie a little before or beyond that of the source.

A cubic spline goes through every voxel: its coefficients are the voxels, filtered over the whole length of the axis.
What that filter makes of a single voxel falls by ``sqrt(3) - 2`` per voxel, so beyond `SPLINE_REACH` it is below what
float32 resolves, and a voxel of the result is a sum over its neighbours like any other (Unser, "Splines: a perfect fit
for signal and image processing", 1999).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import ModelError

__all__ = ["ORDERS", "AxisResampling", "Edge", "Grid", "ResamplingScheme"]

Edge = Literal["mirror", "repeat"]
Grid = Literal["extent", "corner"]
Shape = tuple[int, ...]
Steps = tuple[float, ...]
# Of the polynomials that are fitted: nearest, linear, cubic.
ORDERS = (0, 1, 3)
# Where the Gaussian is cut, as scikit-image and scipy do.
TRUNCATE_SIGMAS = 4.0
# Voxels to either side that a coefficient of a spline is summed over: 0.268^12 is 1.4e-7, as much as float32 resolves.
SPLINE_REACH = 12
SPLINE_POLE = sqrt(3) - 2
# MONAI leaves an axis alone whose voxel sizes differ by no more millimetres, and an image whose steps all differ by no
# more from one voxel.
CORNER_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class ResamplingScheme:
    """How images are resampled to a model's voxel size, and results to the image grid, as the network was trained.

    Parameters
    ----------
    order
        Of the interpolation of images: 0 nearest, 1 linear, 3 cubic spline.
    antialias
        Whether a Gaussian comes first where an axis shrinks.
    edge
        What lies beyond the borders: the image mirrored at its outermost voxels, or these again and again.
    separate_above
        Where voxels are more than so many times longer than wide, planes across their longest axis are resampled by
        themselves, and along it with `separate_order`; None: all axes alike.
    separate_order
        Of the interpolation along a separate axis, of images and of output.
    clip
        Whether values that a spline overshoots are cut to what the image, or the plane where planes are resampled by
        themselves, holds.
    normalise_first
        Whether intensities are normalised before the image is resampled, by statistics of the image itself.
    output_order
        Of the interpolation that brings the network's output, not activated yet, back to the image's voxels, where
        labels are then decided. None: labels are decided in the network's voxels, and resampled as they are.
    output_activated
        Whether that output is activated before it is resampled to the image grid.
    grid
        What of both images coincides: their ``extent``, the voxel size being rounded so that whole voxels fill it; or
        the middle of the first voxel in every ``corner``, the voxel size being that of the model, as in MONAI.
    usual
        Whether images are resampled unless the user says otherwise, where both voxel sizes are known.

    Raises
    ------
    ModelError
        If an order is none of 0, 1 and 3, or a limit makes no sense.
    """

    order: int = 1
    antialias: bool = True
    edge: Edge = "mirror"
    separate_above: float | None = None
    separate_order: int = 0
    clip: bool = False
    normalise_first: bool = False
    output_order: int | None = None
    output_activated: bool = False
    grid: Grid = "extent"
    usual: bool = False

    def __post_init__(self) -> None:
        """Check that the scheme is one."""
        orders = (self.order, self.separate_order, *(() if self.output_order is None else (self.output_order,)))
        if not set(orders) <= set(ORDERS):
            raise ModelError(f"resampling has the orders {orders}, but each must be 0, 1 or 3")
        if self.output_order == 3:
            raise ModelError("resampling has the output_order 3, but output is resampled to the image grid with 0 or 1")
        if self.clip and self.separate_above is not None and self.separate_order != 0:
            raise ModelError(
                f"resampling cuts planes to limits of their own (clip), so separate_order must be 0, not "
                f"{self.separate_order}"
            )
        if self.edge not in ("mirror", "repeat"):
            raise ModelError(f"the edge of resampling is {self.edge!r}, but it must be mirror or repeat")
        if self.grid not in ("extent", "corner"):
            raise ModelError(f"the grid of resampling is {self.grid!r}, but it must be extent or corner")
        if self.separate_above is not None and not self.separate_above >= 1:
            raise ModelError(f"separate_above of resampling is {self.separate_above}, but it must be 1 or more")

    def separate_axis(self, first_um: tuple[float, ...], second_um: tuple[float, ...]) -> int | None:
        """Return the axis that is resampled by itself, between two voxel sizes of which the first counts more.

        Only of volumes: a plane is resampled at once.
        """
        if self.separate_above is None or len(first_um) < 3:
            return None
        for size in (first_um, second_um):
            if max(size) / min(size) > self.separate_above:
                longest = [axis for axis, side in enumerate(size) if side == max(size)]
                return longest[0] if len(longest) == 1 else None
        return None

    def fit(self, side: int, own_um: float, wanted_um: float, *, exactly: bool) -> tuple[int, float | None]:
        """Return how many voxels an axis gets, and on a ``corner`` grid the source voxels from one to the next.

        Parameters
        ----------
        side, own_um
            Of the image: voxels along the axis and their size.
        wanted_um
            The model's voxel size.
        exactly
            Whether sizes within MONAI's tolerance of each other are told apart, which MONAI does not.
        """
        if self.grid == "extent":
            return max(round(side * own_um / wanted_um), 1), None
        own_mm, wanted_mm = own_um / 1000, wanted_um / 1000
        alike = wanted_mm - CORNER_TOLERANCE <= own_mm <= wanted_mm + CORNER_TOLERANCE
        step = 1.0 if alike and not exactly else wanted_um / own_um
        return max(round((side - 1) / step + 1), 1), step

    def axes(
        self, shape: Shape, new_shape: Shape, separate: int | None = None, steps: Steps | None = None
    ) -> tuple[AxisResampling, ...]:
        """Return what becomes of every axis of an image."""
        return tuple(
            AxisResampling(
                old, new, self.antialias, self.separate_order if axis == separate else self.order, self.edge, step
            )
            for axis, (old, new, step) in enumerate(zip(shape, new_shape, steps or (None,) * len(shape), strict=True))
        )

    def inverse_axes(
        self, shape: Shape, new_shape: Shape, separate: int | None = None, steps: Steps | None = None
    ) -> tuple[AxisResampling, ...]:
        """Return what becomes of every axis of the network's output; linear where labels are resampled."""
        back = replace(self, order=1 if self.output_order is None else self.output_order, antialias=False)
        return back.axes(shape, new_shape, separate, None if steps is None else tuple(1 / step for step in steps))


@dataclass(frozen=True, slots=True)
class AxisResampling:
    """One axis: *size* voxels become *new_size*, *step* source voxels apart; see `ResamplingScheme` for the rest.

    A *step* of None: the voxels of the result share the extent of the source.
    """

    size: int
    new_size: int
    antialias: bool = True
    order: int = 1
    edge: Edge = "mirror"
    step: float | None = None

    @property
    def factor(self) -> float:
        """Source voxels per voxel of the result."""
        return self.size / self.new_size if self.step is None else self.step

    @property
    def is_identity(self) -> bool:
        """Whether every voxel stays what it is."""
        return self.size == self.new_size and self.factor == 1

    def _at(self, voxels: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Return where *voxels* of the result lie, in voxels of the source."""
        own = voxels.astype(np.float64)
        return (own + 0.5) * self.factor - 0.5 if self.step is None else own * self.factor

    @property
    def sigma(self) -> float:
        """Of the Gaussian, source voxels; 0 where the axis does not shrink."""
        return max(self.factor - 1, 0.0) / 2 if self.antialias and self.order == 1 else 0.0

    @property
    def radius(self) -> int:
        """How far the voxels reach that are summed, beyond the two that a point lies between; source voxels."""
        return SPLINE_REACH + 1 if self.order == 3 else int(TRUNCATE_SIGMAS * self.sigma + 0.5)

    def reach(self, part: slice) -> slice:
        """Return the source voxels that the *part* of the result needs, inside the image."""
        if self.is_identity:
            return part
        low, high = np.floor(self._at(np.array([part.start, part.stop - 1]))).astype(int).tolist()
        low, high = low - self.radius, high + 1 + self.radius
        first, last = min(max(low, 0), self.size - 1), min(high, self.size - 1)
        # What lies outside is mirrored into the image.
        if self.edge == "mirror" and low < 0:
            last = max(last, min(-low, self.size - 1))
        if self.edge == "mirror" and high > self.size - 1:
            first = min(first, max(2 * (self.size - 1) - high, 0))
        return slice(first, last + 1)

    def nearest(self, part: slice) -> npt.NDArray[np.intp]:
        """Return the source voxel that the middle of each voxel of *part* lies in.

        Of two the one after, on a ``corner`` grid the one of even number, as torch's ``grid_sample`` does for MONAI.
        """
        at = self._at(np.arange(part.start, part.stop))
        if self.step is not None:
            return np.minimum(np.rint(at).astype(np.intp), self.size - 1)
        return np.minimum(np.floor(at + 0.5).astype(np.intp), self.size - 1)

    def taps(self, part: slice) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Return which source voxels add up to each voxel of *part*, and their weights, both (voxels, taps)."""
        if self.order == 0:
            index = self.nearest(part)[:, np.newaxis]
            return index, np.ones(index.shape)
        at = self._at(np.arange(part.start, part.stop))
        below = np.floor(at)
        share = (at - below)[:, np.newaxis]
        weights = _cubic(share) if self.order == 3 else _linear(share, self.sigma, self.radius)
        index = below.astype(np.intp)[:, np.newaxis] + np.arange(-self.radius, self.radius + 2)
        return self._inside(index), weights

    def _inside(self, index: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return _mirror(index, self.size) if self.edge == "mirror" else np.clip(index, 0, self.size - 1)


def _linear(share: npt.NDArray[np.float64], sigma: float, radius: int) -> npt.NDArray[np.float64]:
    """Return the Gaussian around the voxel below and the one around the next, weighted as linear interpolation does."""
    kernel = _gaussian(sigma, radius)
    weights: npt.NDArray[np.float64] = (1 - share) * np.append(kernel, 0.0) + share * np.insert(kernel, 0, 0.0)
    return weights


def _gaussian(sigma: float, radius: int) -> npt.NDArray[np.float64]:
    if radius == 0:
        return np.ones(1)
    kernel: npt.NDArray[np.float64] = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    return kernel


def _cubic(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weights of the voxels around points that lie *share*, (n, 1), above a voxel, (n, taps)."""
    # The B-spline at the four coefficients around a point.
    blend = np.hstack(
        [(1 - share) ** 3, 4 - 6 * share**2 + 3 * share**3, 4 - 6 * (1 - share) ** 2 + 3 * (1 - share) ** 3, share**3]
    )
    response = SPLINE_POLE ** np.abs(np.arange(-SPLINE_REACH, SPLINE_REACH + 1))
    weights = np.zeros((len(share), len(response) + 3))
    for number in range(4):
        weights[:, number : number + len(response)] += blend[:, number : number + 1] * response
    # The weights add up to 1: what was cut off must not darken the image.
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _mirror(index: npt.NDArray[np.intp], size: int) -> npt.NDArray[np.intp]:
    """Return *index* mirrored into [0, size): -1 becomes 1, size becomes size - 2."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index)
