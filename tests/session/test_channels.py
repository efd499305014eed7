"""A layer for each channel: taken as one image where the model needs as many."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch

from napari_tessera.models.model import Model
from napari_tessera.session import ImageInput, Session
from napari_tessera.session.task import Outputs

RANDOM = np.random.default_rng(0)


class Difference(torch.nn.Module):
    """The first channel less the second: which is which matters."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return windows[:, :1] - windows[:, 1:2]


@pytest.fixture
def two(session: Session) -> Session:
    """A session whose model takes two channels."""
    network = Difference()
    session.models.use(
        Model.from_network(network, in_channels=2, out_channels=1, activation="none", output="foreground")
    )
    assert session.settings is not None
    session.change(window_size=(8, 16, 16))
    session.set_outputs(Outputs(labels=False, probabilities=True))
    return session


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("shape", [(9, 20, 24), (3, 9, 20, 24)])
def test_two_layers_are_the_channels_of_one_image(
    two: Session, wait_until: Any, shape: tuple[int, ...], lazy: bool
) -> None:
    first, second = (RANDOM.random(shape, np.float32) for _ in range(2))
    size = (None, 0.2, 0.1, 0.1)[-len(shape) :]
    inputs = [da.from_array(values) if lazy else values for values in (first, second)]
    two.set_images(
        tuple(ImageInput(name, values, voxel_size_um=size) for name, values in zip("ab", inputs, strict=True))
    )
    wait_until(two, lambda: not two.planning)
    assert (two.problem, len(two.readings)) == ("", 1)
    assert "a, b" in two.readings[0].note
    assert {volume.voxel_size_um for volume in two.volumes} == {(0.2, 0.1, 0.1)}
    results: list[Any] = []
    two.runner.result_ready.connect(results.append)
    assert two.start_run()
    wait_until(two, lambda: not two.runner.active)
    np.testing.assert_allclose(results[-1].probabilities[0], first - second, atol=1e-5)
    assert results[-1].image.name == "a + b"
    assert results[-1].axes == tuple(range(len(shape)))  # where the result lies is where the layers lie


@pytest.mark.parametrize(
    ("shapes", "sizes", "said"),
    [
        ([(9, 20, 24), (9, 20, 25)], [(), ()], "of one shape"),
        ([(9, 20, 24), (9, 20, 24)], [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)], "different voxel sizes"),
        ([(9, 20, 24)], [()], "a layer for each channel"),
        ([(9, 20, 24)] * 3, [()] * 3, "a layer for each channel"),
    ],
)
def test_layers_that_are_not_the_channels_of_one_image(
    two: Session, shapes: list[Any], sizes: list[Any], said: str
) -> None:
    two.set_images(
        tuple(ImageInput(f"layer {n}", np.zeros(shapes[n]), voxel_size_um=sizes[n]) for n in range(len(shapes)))
    )
    assert said in two.problem
    assert not two.can_run


def test_layers_with_channels_of_their_own_stay_apart(two: Session, wait_until: Any) -> None:
    two.set_images(tuple(ImageInput(name, np.zeros((2, 9, 20, 24), np.float32)) for name in "ab"))
    wait_until(two, lambda: not two.planning)
    assert len(two.volumes) == 2
