"""What averaging over views takes, held against what torch gives out while it is done."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch

import napari_tessera as nt
from napari_tessera.memory.allocations import peak_of_allocations

CHANNELS, WINDOW = 16, (16, 16, 16)


class Repeats(torch.nn.Module):
    """A network that takes no memory but that of its output, which is much larger than its input."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.repeat(1, CHANNELS, 1, 1, 1)


@pytest.mark.parametrize("batch", [4, 6])
def test_the_sum_over_views_and_an_output_twice_are_planned(batch: int) -> None:
    """Once a pass is done there are the sum, the output, and the output turned back, of all windows of the pass."""
    model = nt.Model.from_network(Repeats(), in_channels=1, out_channels=CHANNELS)
    settings = nt.Settings(window_size=WINDOW, overlap=0, sw_batch_size=batch, tta_num=2, device="cpu")
    image = np.random.default_rng(0).random((192, 16, 16), dtype=np.float32)
    plan = nt.plan(image.shape, model, settings, decoder="probabilities", dtype=image.dtype)
    nt.predict(image, model, settings)  # what is allocated once is there from now on
    peak = peak_of_allocations(lambda: nt.predict(image, model, settings))
    output_bytes = 4 * batch * CHANNELS * prod(WINDOW)
    assert peak is not None
    assert 3 * output_bytes < peak <= plan.memory.counted_bytes <= 1.02 * peak
