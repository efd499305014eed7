"""How much a window's prediction counts, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch

from napari_tessera.core.settings.choices import Blend
from napari_tessera.engine.geometry.grid import Tiling

# The first two constants are MONAI's defaults (monai.data.utils.compute_importance_map); results must stay equal to it.
SIGMA_SCALE = 0.125
MINIMUM = 1e-3
# PyTorch Connectomics raises what its bump leaves of a window's border to this since June 2026; before, to the smallest
# number there is, which sums in float32 lose.
BUMP_MINIMUM = 1e-5
# nnU-Net keeps its map in float16, ten times as large, where what is too small becomes the smallest number above 0.
NNUNET_SCALE = 10.0


def importance_map(
    window: Sequence[int],
    blend: Blend | str = Blend.GAUSSIAN,
    *,
    sigma_scale: float | Sequence[float] = SIGMA_SCALE,
    tiling: Tiling = Tiling.MONAI,
    halo: Sequence[int] | None = None,
    minimum: float = 0.0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return the weights of one window, float32 of its shape, at most 1 and above 0 but in the *halo*.

    ``constant``: ones. ``gaussian``: the product of one-dimensional Gaussians centred on the window, sigma
    *sigma_scale* times its side, clamped from below at 1e-3 (which makes the map non-separable). ``bump``: the product
    of ``exp(-1 / (1 - u^2))`` along each axis, u from -1 before its first voxel to 1 after its last, each divided by
    its maximum, clamped from below at 1e-5. ``distance_transform``: how many voxels there are to the nearest face, as a
    share of the most. The last two are those of PyTorch Connectomics. The Gaussian of nnU-Net's *tiling* is not clamped
    but rounded to float16, down to 6e-9, and its centre is half a voxel further where a side is even.

    Smaller weights are raised to *minimum*, for sums that have no room for them; *halo* is voxels per axis along each
    side that do not count.
    """
    weights = _weights(window, Blend(blend), sigma_scale, tiling, device).clamp_(min=minimum)
    for axis, (side, margin) in enumerate(zip(window, halo or (), strict=False)):
        if margin == 0:
            continue
        weights.narrow(axis, 0, margin).zero_()
        weights.narrow(axis, side - margin, margin).zero_()
    return weights


def _weights(
    window: Sequence[int],
    blend: Blend,
    sigma_scale: float | Sequence[float],
    tiling: Tiling,
    device: torch.device | str,
) -> torch.Tensor:
    if blend is Blend.CONSTANT:
        return torch.ones(tuple(window), device=device)
    if blend is Blend.BUMP:
        return _outer([_bump(side, device) for side in window], torch.mul).clamp_(min=BUMP_MINIMUM)
    if blend is Blend.DISTANCE_TRANSFORM:
        weights = _outer([_to_border(side, device) for side in window], torch.minimum)
        return weights / weights.max()
    weights = torch.ones((), device=device)
    scales = [sigma_scale] * len(window) if isinstance(sigma_scale, (int, float)) else list(sigma_scale)
    is_nnunet = tiling is Tiling.NNUNET
    for side, scale in zip(window, scales, strict=True):
        centre = side // 2 if is_nnunet else (side - 1) / 2
        distance = torch.arange(-centre, side - centre, device=device)
        profile = torch.exp(-(distance**2) / (2 * (scale * side) ** 2))
        weights = weights.unsqueeze(-1) * profile
    if is_nnunet:
        rounded = (weights * NNUNET_SCALE).half()
        rounded[rounded == 0] = rounded[rounded > 0].min()
        return rounded.float() / NNUNET_SCALE
    return weights.clamp_(min=max(float(weights.min()), MINIMUM))


def _outer(
    profiles: Sequence[torch.Tensor], join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return one value for each voxel: what *join* makes of those of its axes."""
    return reduce(lambda weights, profile: join(weights.unsqueeze(-1), profile), profiles)


def _bump(side: int, device: torch.device | str) -> torch.Tensor:
    u = (torch.arange(side, device=device) + 1.0) / (side + 1.0) * 2.0 - 1.0
    profile = torch.exp(-1.0 / (1.0 - u * u))
    return profile / profile.max()


def _to_border(side: int, device: torch.device | str) -> torch.Tensor:
    places = torch.arange(side, device=device, dtype=torch.float32)
    return torch.minimum(places + 1, side - places)
