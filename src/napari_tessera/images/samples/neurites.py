"""A computed volume that looks like FIB-SEM of neuropil, with its true labels.

It is the sample data of the plugin, so that a first run needs no download, and one source of training data for the
bundled network. Grey values follow the FIB-25 medulla volume (FlyEM, HHMI Janelia): mean about 130, standard deviation
about 34, membranes near 80, mitochondria near 85.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_tessera.core.errors import SettingsError
from napari_tessera.images.samples.geometry import Tissue, face_boundaries, grow_tissue, smooth_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["NeuriteSample", "make_neurites"]


@dataclass(frozen=True, slots=True, eq=False)
class NeuriteSample:
    """A grey-value image, uint8 (Z, Y, X), and its labels, uint16, 1..n.

    There is no background: a membrane is shared between the two objects that it separates.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    voxel_size_um: tuple[float, float, float] = (0.01, 0.01, 0.01)


def make_neurites(
    shape: tuple[int, int, int] = (64, 192, 192),
    *,
    seed: int = 0,
    calibre_vox: float = 9.0,
    membrane_vox: float = 2.5,
    contrast: float = 1.0,
    noise: float = 1.0,
) -> NeuriteSample:
    """Return a volume of packed neurites; the same arguments give the same bits.

    Parameters
    ----------
    shape
        Voxels, ZYX, each at least 8.
    seed
        Seed of every random choice.
    calibre_vox
        Typical radius of a medium neurite. Thin ones have 0.6 of it, thick ones three times as much.
    membrane_vox
        Width of a membrane at half its depth.
    contrast
        Depth of membranes and organelles relative to FIB-25.
    noise
        Detector noise relative to FIB-25.

    Returns
    -------
    NeuriteSample
        The caller owns both arrays.

    Raises
    ------
    SettingsError
        If a side is shorter than 8 voxels.
    """
    if min(shape) < 8:
        raise SettingsError(f"shape is {shape}, a sample needs sides of at least 8 voxels: use e.g. (64, 192, 192).")
    rng = np.random.default_rng(seed)
    tissue = grow_tissue(rng, shape, calibre_vox=calibre_vox)
    grey = _cytoplasm(rng, tissue)
    _add_organelles(rng, grey, tissue, contrast)
    _add_membranes(rng, grey, tissue, membrane_vox, contrast)
    return NeuriteSample(_detect(rng, grey, noise), tissue.labels.astype(np.uint16))


def _soft(mask: NDArray[np.bool_], sigma: float) -> Floats:
    """Return the mask blurred by a Gaussian of ``sigma`` voxels, float32 in [0, 1]."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3), np.float32)


def _cytoplasm(rng: np.random.Generator, tissue: Tissue) -> Floats:
    """Return grey values without membranes: one brightness per object, patches and grains."""
    from scipy import ndimage

    shape = tissue.labels.shape
    n_objects = int(tissue.labels.max()) + 1
    brightness = np.clip(rng.normal(152, 23, n_objects), 112, 192).astype(np.float32)
    graininess = rng.uniform(5, 15, n_objects).astype(np.float32)
    grains = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), 1.3)
    grains /= grains.std()
    grey = brightness[tissue.labels] + graininess[tissue.labels] * np.minimum(grains, 1.2)
    return np.asarray(grey + 5 * smooth_noise(rng, shape, 24.0), np.float32)


def _add_organelles(rng: np.random.Generator, grey: Floats, tissue: Tissue, contrast: float) -> None:
    """Darken mitochondria, with cristae and a rim, and add vesicles, reticulum and dense spots, in place."""
    from scipy import ndimage

    shape = grey.shape
    near_membrane = ndimage.binary_dilation(face_boundaries(tissue.labels), iterations=2)
    inside = _soft(tissue.mitochondria > 0, 0.7)
    rim = _soft(face_boundaries(tissue.mitochondria) & (tissue.mitochondria > 0), 0.8)
    cristae = np.sin(tissue.along * 1.9 + 3 * smooth_noise(rng, shape, 9.0))
    grey += inside * (rng.normal(92, 5) + 5 * cristae - grey) * contrast - 16 * contrast * rim

    free = ~near_membrane & (tissue.mitochondria == 0)
    reticulum = (np.abs(smooth_noise(rng, shape, 13.0)) < 0.05) & (smooth_noise(rng, shape, 40.0) > 0.9) & free
    grey -= 85 * contrast * _soft(reticulum, 0.9)
    for radius, per_voxel, rim_depth, lumen in (
        (3.6, 9e-6, 150.0, 22.0),
        (1.6, 9e-5, 60.0, 0.0),
        (2.4, 1.6e-5, 170.0, -30.0),
    ):
        shell, core = _spheres(rng, free, radius, per_voxel)
        grey += contrast * (lumen * _soft(core, 0.6) - rim_depth * _soft(shell, 1.0) * (0.5 if lumen else 1.0))


def _spheres(
    rng: np.random.Generator, free: NDArray[np.bool_], radius: float, per_voxel: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the shells and the cores of small spheres centred on random ``free`` voxels."""
    shell, core = np.zeros(free.shape, bool), np.zeros(free.shape, bool)
    centres = rng.integers(0, free.shape, (rng.poisson(per_voxel * free.size), 3))
    for centre in centres[free[tuple(centres.T)]]:
        size = radius * rng.uniform(0.75, 1.3)
        low = np.maximum(centre - int(size) - 1, 0)
        box = tuple(slice(a, a + 2 * int(size) + 3) for a in low)
        axes = np.ogrid[tuple(slice(a, a + n) for a, n in zip(low, free[box].shape, strict=True))]
        distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)))
        shell[box] |= (distance <= size) & (distance > size - 1.2) & free[box]
        core[box] |= (distance <= size - 1.2) & free[box]
    return shell, core


def _add_membranes(
    rng: np.random.Generator, grey: Floats, tissue: Tissue, membrane_vox: float, contrast: float
) -> None:
    """Darken the faces between objects, unevenly, with dense synaptic patches, in place."""
    shape = grey.shape
    sheet = _soft(face_boundaries(tissue.labels), max(0.5, membrane_vox / 2.6))
    strength = np.clip(1 + 0.16 * smooth_noise(rng, shape, 20.0), 0.55, 1.4)
    depth = np.minimum(1.15 * strength * contrast * sheet, 1)
    floor = 79 + 6 * smooth_noise(rng, shape, 30.0)
    grey += np.minimum(depth, 1) * (floor - grey)
    synapses = np.clip(smooth_noise(rng, shape, 14.0) - 2.3, 0, 1) * _soft(sheet > 0.2, 2.0)
    grey -= 80 * contrast * synapses


def _detect(rng: np.random.Generator, grey: Floats, noise: float) -> NDArray[np.uint8]:
    """Return what the microscope records: blur, shot noise that grows with the signal, read-out noise, 8 bits."""
    from scipy import ndimage

    seen = ndimage.gaussian_filter(grey, 0.6)
    sigma = noise * np.sqrt(12.0 + 0.35 * np.maximum(seen, 0))
    seen += sigma * rng.standard_normal(grey.shape, np.float32)
    # The detector's own bandwidth correlates the noise of neighbouring voxels.
    seen = ndimage.gaussian_filter(seen, 0.45)
    return np.asarray(np.clip(np.rint(seen), 0, 255), np.uint8)
