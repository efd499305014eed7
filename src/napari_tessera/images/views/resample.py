"""Another voxel size: images that are resampled part by part, as they are read, and results to the image grid.

A `ResamplingScheme` says how. By default, where an axis shrinks, a Gaussian of ``sigma = (factor - 1) / 2`` source
voxels, cut at 4 sigma, comes before the linear interpolation; beyond its borders the image is mirrored at the middle of
its outermost voxels. These are the choices of scikit-image's ``transform.resize(order=1, mode="reflect")``, whose
documentation is the source of the formula; ``order=3, mode="edge", anti_aliasing=False`` is another scheme.

All steps are weighted sums along one axis at a time, so they are taken together: each voxel of the result is one sum
over its neighbours along each axis. The sums are formed in one order whatever part is read, so how a volume is cut does
not change a bit of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.source import SourceView
from napari_tessera.images.views.interpolation import AxisResampling, ResamplingScheme

if TYPE_CHECKING:
    from napari_tessera.engine.source import Region, Source
    from napari_tessera.images.views.limits import Limits

__all__ = [
    "ResampledSource",
    "estimate_read_bytes",
    "iter_resampled_slabs",
    "resample_labels",
    "resample_linear",
    "resampled_dtype",
]

Shape = tuple[int, ...]

# Voxels of the source that are asked for at once: bounds what a lazy image has in memory for one read.
READ_VOXELS = 128_000_000
# Voxels, of the source or of the result, that are worked on together: bounds the floats beside them.
WORK_VOXELS = 4_000_000


def resampled_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of resampled values: float32, or float64 where the image's own would be rounded by it.

    Examples
    --------
    >>> [str(resampled_dtype(np.dtype(name))) for name in ("bool", "uint16", "float32", "int32", "float64")]
    ['float32', 'float32', 'float32', 'float64', 'float64']
    """
    exact = dtype.itemsize <= 2 or dtype == np.float32
    return np.dtype(np.float32 if exact else np.float64)


class ResampledSource(SourceView):
    """A `Source` of another shape over the same extent; every read resamples the part that it asks for.

    Parameters
    ----------
    source
        The image, of real numbers.
    shape
        Spatial shape to bring it to, voxels; as many axes as the source has.
    scheme
        How; the default if None.
    separate
        The axis that is resampled by itself, None where there is none; see `ResamplingScheme.separate_axis`.
    steps
        Source voxels from one voxel to the next along every axis; None: both share their extent.
    limits
        What resampled values are cut to; None: nothing is cut.
    """

    def __init__(
        self,
        source: Source,
        shape: Shape,
        scheme: ResamplingScheme | None = None,
        *,
        separate: int | None = None,
        steps: tuple[float, ...] | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(source)
        self._limits = limits
        self._axes = (scheme or ResamplingScheme()).axes(source.shape[1:], shape, separate, steps)

    @property
    def shape(self) -> Shape:
        """(C, *spatial)."""
        return (self.source.shape[0], *(axis.new_size for axis in self._axes))

    @property
    def image_dtype(self) -> np.dtype[Any]:
        """Of the values that are resampled."""
        return self.source.dtype

    @property
    def dtype(self) -> np.dtype[Any]:
        """Float32, or float64 for images of wider types."""
        return resampled_dtype(self.source.dtype)

    @property
    def chunk(self) -> None:
        """None: chunks of the image are no boxes of voxels here."""

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of *region*, (C, *region); reads the part of the source that they need."""
        whole = [slice(*part.indices(axis.new_size)[:2]) for part, axis in zip(region, self._axes, strict=True)]
        out = np.empty((self.shape[0], *(part.stop - part.start for part in whole)), self.dtype)
        if out.size == 0:
            return out
        for tile in _iter_tiles(whole, self._axes, READ_VOXELS):
            reach = tuple(axis.reach(part) for axis, part in zip(self._axes, tile, strict=True))
            values = self.source.read(reach)
            for piece in _iter_tiles(tile, self._axes, WORK_VOXELS):
                found = _resample(values, reach, piece, self._axes, self.dtype)
                if self._limits is not None:
                    self._limits.clip_(found, self._axes, piece)
                out[(slice(None), *_within(piece, whole))] = found
        return out


def _iter_tiles(parts: Sequence[slice], axes: Sequence[AxisResampling], most_voxels: int) -> Iterator[list[slice]]:
    """Yield *parts* of the result, cut in halves until none has or needs more than *most_voxels*."""
    reaches = [axis.reach(part) for axis, part in zip(axes, parts, strict=True)]
    sides = [reach.stop - reach.start for reach in reaches]
    lengths = [part.stop - part.start for part in parts]
    # The axis along which a half needs the least in common with the other half; ties: the slowest.
    longest = max(range(len(axes)), key=lambda axis: (lengths[axis] > 1) * sides[axis] / (1 + axes[axis].radius))
    if max(prod(sides), prod(lengths)) <= most_voxels or lengths[longest] == 1:
        yield list(parts)
        return
    middle = parts[longest].start + lengths[longest] // 2
    for half in (slice(parts[longest].start, middle), slice(middle, parts[longest].stop)):
        yield from _iter_tiles([*parts[:longest], half, *parts[longest + 1 :]], axes, most_voxels)


def _within(inner: Sequence[slice], outer: Sequence[slice]) -> list[slice]:
    """Return *inner* counted from where *outer* begins."""
    return [slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)]


def _resample(
    values: npt.NDArray[Any],
    reach: Sequence[slice],
    parts: Sequence[slice],
    axes: Sequence[AxisResampling],
    dtype: np.dtype[Any],
) -> npt.NDArray[Any]:
    """Return *parts* of the result from *values*, (C, *reach)."""
    own = [axis.reach(part) for axis, part in zip(axes, parts, strict=True)]
    values = values[(slice(None), *_within(own, reach))].astype(dtype)
    # What shrinks most comes first and leaves the least to do; the order depends on nothing but the axes.
    for number in sorted(range(len(axes)), key=lambda axis: axes[axis].new_size / axes[axis].size):
        if not axes[number].is_identity:
            index, weights = axes[number].taps(parts[number])
            values = _weighted_sum(values, 1 + number, index - own[number].start, weights.astype(dtype))
    return values


def _weighted_sum(
    values: npt.NDArray[Any], axis: int, index: npt.NDArray[np.intp], weights: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return the sum over taps of the weighted voxels along *axis*, tap by tap: a matrix product would be blocked."""
    along = (-1,) + (1,) * (values.ndim - axis - 1)
    total = values.take(index[:, 0], axis)
    total *= weights[:, 0].reshape(along)
    term = np.empty_like(total) if index.shape[1] > 1 else total
    for tap in range(1, index.shape[1]):
        # All indices are inside; to check them numpy would make a copy first.
        np.take(values, index[:, tap], axis, out=term, mode="clip")
        term *= weights[:, tap].reshape(along)
        total += term
    return total


def estimate_read_bytes(axes: Sequence[AxisResampling], region: Shape, channels: int, itemsize: int) -> int:
    """Return what reading so large a *region* of a `ResampledSource` takes beside its result, bytes.

    Parameters
    ----------
    axes
        What becomes of every axis.
    region
        Lengths of what is read, in voxels of the result.
    channels, itemsize
        Of the source; bytes per value.
    """
    read = prod(
        min(ceil(side * axis.factor) + 2 * axis.radius + 2, axis.size) for side, axis in zip(region, axes, strict=True)
    )
    # Three arrays of floats: what goes into the sum along an axis, the sum, and the next term of it.
    work = 3 * (4 if itemsize <= 4 else 8) * min(max(read, prod(region)), WORK_VOXELS)
    return channels * (itemsize * min(read, READ_VOXELS) + work)


def resample_labels(labels: npt.NDArray[Any], shape: Shape, steps: tuple[float, ...] | None = None) -> npt.NDArray[Any]:
    """Return *labels*, (*spatial), brought to *shape*: each voxel has the label of the one that its middle lies in.

    The *steps* are source voxels from one voxel to the next; None: both share their extent.

    Examples
    --------
    >>> resample_labels(np.array([[1, 2]]), (2, 4)).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    if steps is not None:
        axes = [AxisResampling(old, new, step=by) for old, new, by in zip(labels.shape, shape, steps, strict=True)]
        return np.asarray(labels[np.ix_(*(axis.nearest(slice(0, axis.new_size)) for axis in axes))])
    if labels.shape == shape:
        return labels
    # (i + 0.5) * factor in whole numbers: rounding must not move a border.
    index = [(2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(labels.shape, shape, strict=True)]
    found: npt.NDArray[Any] = labels[np.ix_(*index)]
    return found


def resample_linear(values: npt.NDArray[Any], shape: Shape, steps: tuple[float, ...] | None = None) -> npt.NDArray[Any]:
    """Return *values*, (C, *spatial), interpolated linearly to (C, *shape), in their own type; whole ones rounded.

    The *steps* are source voxels from one voxel to the next, values beyond the last are its own; None: both share
    their extent.
    """
    scheme = ResamplingScheme(antialias=False, edge="mirror" if steps is None else "repeat")
    axes = scheme.axes(values.shape[1:], shape, steps=steps)
    if all(axis.is_identity for axis in axes):
        return values
    out = np.empty((values.shape[0], *shape), values.dtype)
    work = resampled_dtype(values.dtype)
    reach = [slice(0, axis.size) for axis in axes]
    pieces = list(_iter_tiles([slice(0, side) for side in shape], axes, WORK_VOXELS))
    for channel in range(values.shape[0]):
        for piece in pieces:
            found = _resample(values[channel : channel + 1], reach, piece, axes, work)[0]
            out[channel][tuple(piece)] = np.rint(found) if values.dtype.kind in "iu" else found
    return out


def iter_resampled_slabs(
    values: npt.NDArray[Any], axes: Sequence[AxisResampling]
) -> Iterator[tuple[Region, npt.NDArray[np.float32]]]:
    """Yield all of *values*, (C, *spatial), resampled, in parts of no more than `WORK_VOXELS` over all channels.

    Yields
    ------
    region, part
        Where in the result it lies, and its values, float32 (C, *region), in memory of their own.
    """
    reach = [slice(0, axis.size) for axis in axes]
    most = max(WORK_VOXELS // values.shape[0], 1)
    for piece in _iter_tiles([slice(0, axis.new_size) for axis in axes], axes, most):
        yield tuple(piece), _resample(values, reach, piece, axes, np.dtype(np.float32))
