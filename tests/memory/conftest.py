"""What tests of small networks share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from napari_tessera.memory.trace import ForwardTracer

if TYPE_CHECKING:
    from napari_tessera.memory.recorder import PassTrace


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Spare the threads that would only wait for each other on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trace_forward(network: torch.nn.Module, input_shape: tuple[int, ...], **options: Any) -> PassTrace:
    return ForwardTracer(network, **options).trace(input_shape)
