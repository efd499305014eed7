"""What tests of several rooms make: small networks, described. Samples of files are in `tests/models/sample_*.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_tessera.models.model import Model
from napari_tessera.models.spec.spec import WindowRule

if TYPE_CHECKING:
    import torch

__all__ = ["describe"]


def describe(network: torch.nn.Module, **description: Any) -> Model:
    """Describe a network: one channel in, two out, windows of 16 voxels in steps of 4, unless told otherwise."""
    model = Model.from_network(
        network, **({"in_channels": 1, "out_channels": 2, "activation": "softmax"} | description)
    )
    dims = model.spec.spatial_dims
    return model.with_spec(window=WindowRule((16,) * dims, (4,) * dims, (8,) * dims))
