"""A session without a viewer, whose threads answer when a test asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_tessera.session import ImageInput, Session

if TYPE_CHECKING:
    from napari_tessera.models.model import Model


class Bright(torch.nn.Module):
    """Background and bright, two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.on_call: Callable[[], object] = lambda: None

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if type(windows) is torch.Tensor and windows.device.type == "cpu":  # neither fake nor meta: not being traced
            self.on_call()
        brightness = windows.mean(1, keepdim=True)
        return torch.cat([0.5 - brightness, brightness - 0.5], 1)


@pytest.fixture
def network() -> Bright:
    return Bright()


@pytest.fixture
def session(network: Bright, describe: Callable[..., Model]) -> Iterator[Session]:
    """A session with a model in use."""
    made = Session()
    made.models.use(describe(network))
    yield made
    made.close()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Deliver what a session's threads say until a condition holds; the test's own limit ends one that never does."""

    def wait(session: Session, condition: Callable[[], bool]) -> None:
        while not condition():
            session.background.deliver()
            time.sleep(0.001)

    return wait


@pytest.fixture
def image() -> Callable[..., ImageInput]:
    """Return an image with a bright cube; every keyword of `ImageInput` may be given."""

    def make(*shape: int, name: str = "image", **arguments: Any) -> ImageInput:
        values = np.zeros(shape, np.float32)
        values[..., 4:12, 4:12] = 1
        return ImageInput(name, values, **arguments)

    return make
