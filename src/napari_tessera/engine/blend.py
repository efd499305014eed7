"""How much a window's prediction counts, voxel by voxel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from napari_tessera.engine.settings import Blend

__all__ = ["importance_map"]

# Both constants are MONAI's defaults (monai.data.utils.compute_importance_map); results must stay equal to it.
SIGMA_SCALE = 0.125
MINIMUM = 1e-3


def importance_map(
    window: Sequence[int],
    blend: Blend | str = Blend.GAUSSIAN,
    *,
    sigma_scale: float | Sequence[float] = SIGMA_SCALE,
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
    device
        Where the map is kept.

    Returns
    -------
    torch.Tensor
        float32, shape *window*, values in [1e-3, 1].
    """
    if Blend(blend) is Blend.CONSTANT:
        return torch.ones(tuple(window), device=device)
    weights = torch.ones((), device=device)
    scales = [sigma_scale] * len(window) if isinstance(sigma_scale, (int, float)) else list(sigma_scale)
    for side, scale in zip(window, scales, strict=True):
        distance = torch.arange(-(side - 1) / 2, (side - 1) / 2 + 1, device=device)
        profile = torch.exp(-(distance**2) / (2 * (scale * side) ** 2))
        weights = weights.unsqueeze(-1) * profile
    return weights.clamp_(min=max(float(weights.min()), MINIMUM))
