"""Training crops: where they come from, how they are varied, and the affinities the network learns from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tifffile
import torch
from scipy import ndimage

from napari_tessera.images.samples import make_neurites
from napari_tessera.images.samples.geometry import face_boundaries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Volume = tuple[NDArray[np.float32], NDArray[np.int32]]

TRAIN_SLICES = slice(0, 140)
VALIDATION_SLICES = slice(140, 200)

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
LONG_RANGE = ((-3, 0, 0), (0, -3, 0), (0, 0, -3), (-9, 0, 0), (0, -9, 0), (0, 0, -9))
"""Learned beside the nearest neighbours because they force the network to see whole objects; dropped at export."""

PHANTOM_SIDE_VOX = 104
PHANTOM_POOL = 6
CROPS_PER_PHANTOM = 40


def zscore(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the volume with mean 0 and standard deviation 1, as the exported model's normalisation does."""
    grey = image.astype(np.float32)
    return (grey - grey.mean()) / (grey.std() + 1e-6)


def read_fib25(folder: Path, slices: slice) -> Volume:
    """Return the normalised grey values and the labels (0 = unknown) of some z-slices of FIB-25."""
    image = tifffile.imread(folder / "raw.ome.tif")[slices]
    labels = tifffile.imread(folder / "labels.ome.tif")[slices]
    return zscore(image), labels.astype(np.int32)


def affinity_targets(labels: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return targets and weights, both (channels, Z, Y, X) float32; weight 0 where an end is unknown or outside.

    Nearest-neighbour affinities are 0 in a membrane two voxels wide, not only across the one face where the annotators
    happened to draw the line: a ridge that thick survives an error of a voxel.
    """
    cores = np.where(face_boundaries(labels), 0, labels)
    channels = [_affinity(cores, offset) for offset in NEAREST] + [_affinity(labels, offset) for offset in LONG_RANGE]
    weights = [_known(labels, offset) for offset in (*NEAREST, *LONG_RANGE)]
    return np.stack(channels).astype(np.float32), np.stack(weights).astype(np.float32)


def _pairs(offset: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the voxels that have a neighbour at the (negative) offset, and those neighbours."""
    here = tuple(slice(-step, None) for step in offset)
    there = tuple(slice(None, step or None) for step in offset)
    return here, there


def _affinity(labels: NDArray[np.int32], offset: tuple[int, ...]) -> NDArray[np.bool_]:
    here, there = _pairs(offset)
    same = np.zeros(labels.shape, bool)
    same[here] = (labels[here] == labels[there]) & (labels[here] > 0)
    return same


def _known(labels: NDArray[np.int32], offset: tuple[int, ...]) -> NDArray[np.bool_]:
    here, there = _pairs(offset)
    known = np.zeros(labels.shape, bool)
    known[here] = (labels[here] > 0) & (labels[there] > 0)
    return known


def _random_phantom(rng: np.random.Generator) -> Volume:
    sample = make_neurites(
        (PHANTOM_SIDE_VOX,) * 3,
        seed=int(rng.integers(2**31)),
        calibre_vox=rng.uniform(7.0, 12.0),
        membrane_vox=rng.uniform(2.0, 3.4),
        contrast=rng.uniform(0.75, 1.2),
        noise=rng.uniform(0.6, 1.8),
    )
    return zscore(sample.image), sample.labels.astype(np.int32)


def _random_box(rng: np.random.Generator, volume: Volume, side: int) -> Volume:
    corner = [int(rng.integers(0, n - side + 1)) for n in volume[0].shape]
    box = tuple(slice(c, c + side) for c in corner)
    return volume[0][box], volume[1][box]


def _vary_shape(rng: np.random.Generator, image: NDArray[np.float32], labels: NDArray[np.int32], side: int) -> Volume:
    """Resize to ``side``, then mirror and transpose: the data are isotropic, so all 48 orientations are alike."""
    if image.shape[0] != side:
        factor = side / image.shape[0]
        image = ndimage.zoom(image, factor, order=1, grid_mode=True, mode="nearest")
        labels = ndimage.zoom(labels, factor, order=0, grid_mode=True, mode="nearest")
    axes = rng.permutation(3)
    flips = tuple(slice(None, None, int(rng.choice((-1, 1)))) for _ in range(3))
    return image.transpose(axes)[flips].copy(), labels.transpose(axes)[flips].copy()


def _vary_grey(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the crop with another contrast, gamma, noise and sharpness, and now and then a spoiled section."""
    if rng.random() < 0.2:
        image = ndimage.gaussian_filter(image, rng.uniform(0.3, 1.0))
    low, high = image.min(), image.max() + 1e-3
    image = ((image - low) / (high - low)) ** np.exp(rng.uniform(-0.35, 0.35)) * (high - low) + low
    image = image * rng.uniform(0.75, 1.3) + rng.uniform(-0.4, 0.4)
    if rng.random() < 0.4:
        image = image + rng.uniform(0.05, 0.4) * rng.standard_normal(image.shape, np.float32)
    if rng.random() < 0.15:
        # The slicing direction is z; a spoiled section lies across it, whatever the transpose has made of the crop.
        section = int(rng.integers(image.shape[0]))
        image[section] = rng.uniform(-2, 0.5) if rng.random() < 0.4 else image[section] * 0.6 - rng.uniform(0, 1.2)
    return np.ascontiguousarray(image, np.float32)


@dataclass(frozen=True)
class RandomCrops(torch.utils.data.IterableDataset):
    """Endless varied crops: image (1, n, n, n), targets and weights (channels, n, n, n), all float32."""

    volume: Volume
    side: int
    phantom_share: float
    seed: int

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield crops without end; one process is meant to draw them."""
        rng = np.random.default_rng(self.seed)
        phantoms = [_random_phantom(rng) for _ in range(PHANTOM_POOL if self.phantom_share else 0)]
        while True:
            volume = self.volume
            if rng.random() < self.phantom_share:
                index = int(rng.integers(len(phantoms)))
                if rng.random() < 1 / CROPS_PER_PHANTOM:
                    phantoms[index] = _random_phantom(rng)
                volume = phantoms[index]
            yield self._crop(rng, volume)

    def _crop(self, rng: np.random.Generator, volume: Volume) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale = rng.uniform(0.8, 1.25) if rng.random() < 0.35 else 1.0
        image, labels = _random_box(rng, volume, round(self.side * scale))
        image, labels = _vary_shape(rng, image, labels, self.side)
        image = _vary_grey(rng, image)
        targets, weights = affinity_targets(labels)
        return torch.from_numpy(image[None]), torch.from_numpy(targets), torch.from_numpy(weights)


def validation_crops(volume: Volume, side: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return four fixed, unvaried crops from the corners of the validation slices, as batches of one."""
    image, labels = volume
    depth = image.shape[0] // 8 * 8
    crops = []
    for y in (0, image.shape[1] - side):
        for x in (0, image.shape[2] - side):
            box = (slice(0, depth), slice(y, y + side), slice(x, x + side))
            targets, weights = affinity_targets(labels[box])
            arrays = (image[box][None], targets, weights)
            crops.append(tuple(torch.from_numpy(np.ascontiguousarray(a))[None] for a in arrays))
    return crops
