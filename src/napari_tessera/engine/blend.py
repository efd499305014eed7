"""How much a window's prediction counts, voxel by voxel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from napari_tessera.engine.grid import Tiling
from napari_tessera.engine.settings import Blend

__all__ = ["importance_map"]

# The first two constants are MONAI's defaults (monai.data.utils.compute_importance_map); results must stay equal to it.
SIGMA_SCALE = 0.125
MINIMUM = 1e-3
# nnU-Net keeps its map in float16, ten times as large, where what is too small becomes the smallest number above 0.
NNUNET_SCALE = 10.0


def importance_map(
    window: Sequence[int],
    blend: Blend | str = Blend.GAUSSIAN,
    *,
    sigma_scale: float | Sequence[float] = SIGMA_SCALE,
    tiling: Tiling = Tiling.MONAI,
    halo: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return the weights of one window.

    Parameters
    ----------
    window
        Window shape, voxels.
    blend
        ``"constant"``: ones. ``"gaussian"``: the product of one-dimensional Gaussians centred on the window, sigma
        *sigma_scale* times its side, clamped from below at 1e-3 (which makes the map non-separable).
    sigma_scale
        One number for all axes or one per axis.
    tiling
        Whose Gaussian: nnU-Net's is not clamped but rounded to float16, and its centre is half a voxel further where a
        side is even.
    halo
        Voxels per axis along each side that do not count; None: 0.
    device
        Where the map is kept.

    Returns
    -------
    torch.Tensor
        float32, shape *window*, values in [1e-3, 1], of nnU-Net in [6e-9, 1]; 0 in the halo.
    """
    weights = _weights(window, Blend(blend), sigma_scale, tiling, device)
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
