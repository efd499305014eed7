"""Everything that is particular to CUDA: streams, events, pinned memory, memory queries, the out-of-memory error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from napari_tessera.core.settings.choices import Precision
from napari_tessera.engine.devices.arithmetic import arithmetic
from napari_tessera.engine.devices.cpu import is_host_out_of_memory
from napari_tessera.engine.devices.protocol import DeviceMemory, Stream

# cudaErrorMemoryAllocation: what pinning host memory fails with.
CUDA_ERROR_MEMORY_ALLOCATION = 2
OUT_OF_MEMORY_TEXTS = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class CudaDevice:
    """One CUDA device."""

    shares_host_memory = False
    # Contiguous, and no cuDNN autotuning, until a measurement on a card says otherwise: benchmarks/formats.py.
    channels_last = False
    read_ahead = 2
    passes_ahead = 2

    def __init__(self, index: int = 0) -> None:
        self.torch_device = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(index)
        self._before_bytes = 0

    def memory(self) -> DeviceMemory:
        """Return total and free memory; what this process holds in its cache counts as free."""
        free, total = torch.cuda.mem_get_info(self.torch_device)
        cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return DeviceMemory(total, free + cached)

    def start_peak(self, held_bytes: int = 0) -> None:
        """Reset torch's peak counter, which all users of torch in this process share."""
        bindings: Any = torch._C
        # cuBLAS's workspaces stay from run to run and would count for the first one only: this one makes them again.
        bindings._cuda_clearCublasWorkspaces()
        torch.cuda.reset_peak_memory_stats(self.torch_device)
        self._before_bytes = torch.cuda.memory_allocated(self.torch_device) - held_bytes

    def peak_bytes(self) -> int | None:
        """Return torch's peak of allocated bytes, less what others had allocated at the start."""
        return torch.cuda.max_memory_allocated(self.torch_device) - self._before_bytes

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether *error* is torch's out-of-memory error, that of pinning host memory, or of the host."""
        # TorchScript raises every error of the network as a plain RuntimeError; libraries have no type for theirs.
        if isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS):
            return True
        pinning = (
            isinstance(error, torch.AcceleratorError)
            and getattr(error, "error_code", None) == CUDA_ERROR_MEMORY_ALLOCATION
        )
        return pinning or is_host_out_of_memory(error)

    def release_cached(self) -> None:
        """Empty torch's cache."""
        torch.cuda.empty_cache()

    def host_buffer(
        self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
    ) -> torch.Tensor:
        """Return pinned host memory; torch keeps what is freed of it for the next one."""
        return torch.empty(shape, dtype=dtype, memory_format=memory_format, pin_memory=True)

    @contextmanager
    def running(self, precision: Precision) -> Iterator[None]:
        """Run the body on this device, without gradients and in *precision*."""
        with (
            torch.cuda.device(self.torch_device),
            float32_products(tf32=precision is Precision.TF32),
            arithmetic("cuda", precision),
        ):
            yield

    def open_stream(self, *, main: bool = False) -> Stream:
        """Return a stream of its own, or the current one."""
        device = self.torch_device
        return torch.cuda.current_stream(device) if main else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def use_stream(self, stream: Stream) -> AbstractContextManager[object]:
        """Make *stream* the current one."""
        assert isinstance(stream, torch.cuda.Stream)
        return torch.cuda.stream(stream)


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Let float32 kernels round their inputs to TF32, or not; torch's default for convolutions is to do so.

    The older switches are set, as torch then answers both for them and for the newer ones, one per kind of operation; a
    network may ask for either. What the user has set, with whichever, is restored.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    # From the general to the particular: a kind that is not set takes what is above it.
    newer: tuple[Any, ...] = (torch.backends, cudnn, cudnn.conv, cudnn.rnn, matmul)
    before = [level.fp32_precision for level in newer]
    convolutions = _answer(lambda: cudnn.allow_tf32)
    products = _answer(torch.get_float32_matmul_precision)
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    cudnn.allow_tf32 = matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for level, precision in zip(newer, before, strict=True):
            if level.fp32_precision != precision:
                level.fp32_precision = precision


def _answer(ask: Callable[[], Any]) -> Any:
    """Return what an older switch says, None where the newer ones say what it cannot."""
    try:
        return ask()
    except RuntimeError:
        return None
