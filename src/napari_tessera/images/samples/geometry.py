"""Shapes of packed neurites: crooked tubes that compete for space.

Every tube is a random walk of balls. A voxel belongs to the ball whose surface lies deepest beneath it, ``min(d - r)``,
so tubes press against one another as neurites do, with curved faces and no gaps. The whole is then bent by a smooth
displacement, and each piece that the membranes cut off becomes an object of its own: labels and image always agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Labels = NDArray[np.int32]
    Mask = NDArray[np.bool_]

__all__ = ["Tissue", "face_boundaries", "grow_tissue", "smooth_noise"]

SMALLEST_CORE_VOX = 40
"""Pieces with fewer voxels left after erosion, crumbs and thin shells, are given to their neighbours."""

_SHARE_PER_CALIBRE = ((2.6, 0.26), (1.6, 0.62), (1.0, 0.85), (0.6, 0.97))
"""Radius relative to the calibre, and the share of the volume that is filled when the next, thinner class begins."""


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """Geometry without grey values; every array has the shape of the volume.

    *labels* are int32, 1..n: every voxel belongs to an object. *mitochondria* are int32 numbers, 0 outside. *along*,
    float32, is the distance along the tube in voxels, which orients microtubules and reticulum.
    """

    labels: Labels
    mitochondria: Labels
    along: Floats


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], wavelength_vox: float) -> Floats:
    """Return noise of unit variance that varies over about ``wavelength_vox``; float32 of ``shape``.

    Random knots under a quadratic B-spline, one axis after the other: plain sums in a fixed order, so the bits do not
    depend on a BLAS.
    """
    noise = rng.standard_normal([int(np.ceil(n / wavelength_vox)) + 4 for n in shape], np.float32)
    for axis, n in enumerate(shape):
        position = (np.arange(n) + 0.5) / wavelength_vox + rng.random()
        left = np.floor(position).astype(int)
        t = (position - left).astype(np.float32)
        weights = (0.5 * (1 - t) ** 2, 0.5 + t * (1 - t), 0.5 * t**2)
        along_axis = [-1 if a == axis else 1 for a in range(len(shape))]
        noise = sum(noise.take(left + k, axis) * w.reshape(along_axis) for k, w in enumerate(weights))
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-6), np.float32)


def face_boundaries(labels: Labels) -> Mask:
    """Return the voxels with a face neighbour of another label, on both sides of the face."""
    boundary = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(labels.ndim))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(labels.ndim))
        differs = labels[low] != labels[high]
        boundary[low] |= differs
        boundary[high] |= differs
    return boundary


def grow_tissue(rng: np.random.Generator, shape: tuple[int, int, int], *, calibre_vox: float) -> Tissue:
    """Return a volume packed with neurites of about ``calibre_vox`` radius, and mitochondria in the thick ones."""
    space = _Space.empty(shape)
    for relative_radius, share in _SHARE_PER_CALIBRE:
        _fill(rng, space, calibre_vox * relative_radius, share)
    owner, mitochondria, along = _bend(rng, space)
    labels = _separate(owner)
    return Tissue(labels, np.where(face_boundaries(labels), 0, mitochondria), along)


@dataclass(frozen=True, slots=True, eq=False)
class _Space:
    """The volume while tubes are being laid; ``depth`` is ``d - r`` of the ball that owns the voxel."""

    depth: Floats
    owner: Labels
    mitochondria: Labels
    along: Floats

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> _Space:
        return cls(
            np.full(shape, np.inf, np.float32),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.float32),
        )


def _fill(rng: np.random.Generator, space: _Space, radius_vox: float, share: float) -> None:
    """Lay tubes from random empty voxels until ``share`` of the volume is taken."""
    shape = np.array(space.owner.shape)
    for _ in range(400):
        starts = rng.integers(0, shape, (48, 3))
        depths = space.depth[tuple(starts.T)]
        if np.mean(depths < 1) > share:
            return
        start = starts[np.argmax(depths)]
        radius = float(np.clip(radius_vox * rng.lognormal(0.0, 0.22), 2.6, 0.45 * shape.max()))
        points, radii = _random_tube(rng, start, radius, shape)
        _lay_tube(rng, space, points, radii)


def _random_tube(
    rng: np.random.Generator, start: NDArray[np.int64], radius: float, shape: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return ball centres (N, 3) and radii (N) of a walk to both sides of ``start``."""
    step = max(1.0, 0.35 * radius)
    heading = rng.standard_normal(3)
    halves = [_walk(rng, start, sign * heading, step, radius, shape) for sign in (1.0, -1.0)]
    points = np.concatenate([halves[0][::-1], np.asarray(start, float)[None], halves[1]])
    beads = np.convolve(rng.standard_normal(len(points) + 10), np.ones(11) / 11**0.5, "valid")
    radii = radius * np.exp(0.22 * np.clip(beads, -2, 2))
    return points.astype(np.float32), radii.astype(np.float32)


def _walk(
    rng: np.random.Generator,
    start: NDArray[np.int64],
    heading: NDArray[np.float64],
    step: float,
    radius: float,
    shape: NDArray[np.int64],
) -> NDArray[np.float64]:
    position, points = np.asarray(start, float), []
    for _ in range(int(rng.uniform(0.4, 1.6) * shape.max() / step) + 2):
        heading = heading / np.linalg.norm(heading) + 0.22 * rng.standard_normal(3)
        position = position + step * heading / np.linalg.norm(heading)
        if np.any(position < -radius) or np.any(position > shape + radius):
            break
        points.append(position)
    return np.array(points).reshape(-1, 3)


def _lay_tube(rng: np.random.Generator, space: _Space, points: Floats, radii: Floats) -> None:
    label = int(space.owner.max()) + 1
    thick = radii.mean() > 6
    for index, (point, radius) in enumerate(zip(points, radii, strict=True)):
        _place_ball(space, label, point, float(radius), float(index) * float(radii.mean()))
    if not thick:
        return
    for _ in range(rng.poisson(len(points) / 9)):
        first, length = rng.integers(0, len(points)), rng.integers(3, 11)
        inside = slice(first, first + length)
        number = int(space.mitochondria.max()) + 1
        sideways = rng.uniform(-0.3, 0.3, 3) * radii[inside].mean()
        width = rng.uniform(0.35, 0.62)
        for point, radius in zip(points[inside], radii[inside], strict=True):
            _place_mitochondrion(space, label, number, point + sideways, min(width * float(radius), 15.0))


def _ball(space: _Space, centre: Floats, reach: float) -> tuple[tuple[slice, ...], Floats]:
    """Return the box of the volume around ``centre`` and the distances in it."""
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.maximum(np.minimum(np.ceil(centre + reach) + 1, space.owner.shape), low).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    z, y, x = (np.arange(a, b, dtype=np.float32) - c for a, b, c in zip(low, high, centre, strict=True))
    return box, np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)


def _place_ball(space: _Space, label: int, centre: Floats, radius: float, along: float) -> None:
    box, distance = _ball(space, centre, radius + 2)
    depth = distance - radius
    deeper = depth < space.depth[box]
    # A tube that takes a voxel also takes it out of another tube's mitochondrion.
    space.mitochondria[box][deeper & (space.owner[box] != label)] = 0
    space.depth[box][deeper] = depth[deeper]
    space.owner[box][deeper] = label
    space.along[box][deeper] = along


def _place_mitochondrion(space: _Space, label: int, number: int, centre: Floats, radius: float) -> None:
    box, distance = _ball(space, centre, radius)
    inside = (distance < radius) & (space.owner[box] == label) & (space.depth[box] < -3)
    space.mitochondria[box][inside] = number


def _bend(rng: np.random.Generator, space: _Space) -> tuple[Labels, Labels, Floats]:
    """Return the three fields under one smooth displacement of a few voxels."""
    from scipy import ndimage

    shape = space.owner.shape
    grid: tuple[Floats, ...] = np.indices(shape, dtype=np.float32, sparse=True)
    moved = np.stack(
        [axis + 2.2 * smooth_noise(rng, shape, 16.0) + 0.5 * smooth_noise(rng, shape, 6.0) for axis in grid]
    )
    fields = (space.owner, space.mitochondria, space.along)
    owner, mitochondria, along = (ndimage.map_coordinates(f, moved, order=0, mode="nearest") for f in fields)
    return owner, mitochondria, along


def _separate(owner: Labels) -> Labels:
    """Return labels 1..n in which whatever the membranes cut apart is apart, without gaps and crumbs."""
    from scipy import ndimage

    pieces, _ = ndimage.label((owner > 0) & ~face_boundaries(owner))
    cores = np.bincount(pieces[ndimage.binary_erosion(pieces)], minlength=int(pieces.max()) + 1)
    keep = cores >= min(SMALLEST_CORE_VOX, cores.max())
    keep[0] = False
    renumber = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    labels = renumber[pieces]
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return np.asarray(labels[tuple(nearest)], np.int32)
