"""What of the CUDA room can be shown without a device: the switches of TF32, and how a lack of memory is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from napari_tessera.engine.devices.cuda import CudaDevice, float32_products

CUDNN: Any = torch.backends.cudnn
MATMUL: Any = torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def switches_as_before() -> Iterator[None]:
    yield
    CUDNN.allow_tf32, MATMUL.allow_tf32 = True, False


@pytest.mark.parametrize("tf32", [False, True])
def test_a_network_may_ask_for_either_kind_of_switch(tf32: bool) -> None:
    with float32_products(tf32=tf32):
        assert CUDNN.allow_tf32 is MATMUL.allow_tf32 is tf32
        assert (CUDNN.conv.fp32_precision == "tf32") is tf32
        with CUDNN.flags(enabled=False):
            pass


@pytest.mark.parametrize("allowed", [(True, False), (False, False), (True, True)])
def test_older_switches_are_restored(allowed: tuple[bool, bool]) -> None:
    CUDNN.allow_tf32, MATMUL.allow_tf32 = allowed
    with float32_products(tf32=False):
        pass
    assert (CUDNN.allow_tf32, MATMUL.allow_tf32) == allowed


def test_newer_switches_are_restored() -> None:
    CUDNN.conv.fp32_precision = "ieee"
    with float32_products(tf32=True):
        assert CUDNN.conv.fp32_precision == "tf32"
    assert (CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision) == ("ieee", "tf32")


@pytest.mark.parametrize("user", ["nothing", "all tf32", "products tf32", "products medium"])
def test_whatever_the_user_has_set_is_kept(user: str) -> None:
    """In a process of its own: some of these cannot be taken back."""
    program = f"""
import torch
from napari_tessera.engine.devices.cuda import float32_products
backends = torch.backends
match {user!r}:
    case "all tf32": backends.fp32_precision = "tf32"
    case "products tf32": backends.cuda.matmul.fp32_precision = "tf32"
    case "products medium": torch.set_float32_matmul_precision("medium")
def state():
    levels = backends, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul
    answers = [level.fp32_precision for level in levels]
    for ask in (lambda: backends.cudnn.allow_tf32, lambda: backends.cuda.matmul.allow_tf32,
                torch.get_float32_matmul_precision):
        try:
            answers.append(ask())
        except RuntimeError:
            answers.append("cannot say")
    return answers
before = state()
with float32_products(tf32=False):
    assert "tf32" not in state(), state()
    with backends.cudnn.flags(enabled=False):
        pass
assert state() == before, (before, state())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("full"), True),
        (MemoryError(), True),
        (RuntimeError("The following operation failed in the TorchScript interpreter. ... CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("weights are on fire"), False),
        (ValueError("CUDA out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, is_memory: bool) -> None:
    assert CudaDevice.is_out_of_memory(None, error) is is_memory  # type: ignore[arg-type]
