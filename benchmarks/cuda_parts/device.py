"""What there is: the device, its memory, the versions, and what the driver takes for a process."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch
from compare import cpu_model
from driver import used_bytes

from cuda_parts.sizes import MIB, device_of, is_toy

if TYPE_CHECKING:
    from cuda_parts.record import Record

PACKAGES = ("numpy", "pydantic", "tifffile", "monai", "nnunetv2", "dynamic-network-architectures", "pytest")


def run(record: Record) -> None:
    """Write down all of it."""
    device = device_of(record.device_name)
    on_cuda = device.type == "cuda"
    before = used_bytes() if on_cuda else None
    record.fact("device", torch.cuda.get_device_name(device) if on_cuda else device.type.upper())
    record.fact("size", "toy" if is_toy(device) else "whole")
    record.fact("CPU", cpu_model())
    record.fact("Python", platform.python_version())
    record.fact("torch", f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    for package in PACKAGES:
        record.fact(package, _version(package))
    record.figure("CPU threads of torch", torch.get_num_threads(), "threads")
    record.figure("devices", torch.cuda.device_count(), "devices")
    record.figure("a context and the first kernel", _context_mib(device, before) if on_cuda else None, "MiB")
    free, total = torch.cuda.mem_get_info(device) if on_cuda else (None, None)
    record.figure("memory of the device", total and total / MIB, "MiB")
    record.figure("free of it", free and free / MIB, "MiB")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _context_mib(device: torch.device, before: int | None) -> float | None:
    """Return what the driver took for this process beside torch's cache; None where it cannot be asked from outside."""
    torch.nn.functional.conv3d(torch.ones(1, 1, 8, 8, 8, device=device), torch.ones(1, 1, 3, 3, 3, device=device))
    torch.cuda.synchronize(device)
    after = used_bytes()
    if before is None or after is None:
        return None
    return (after - before - torch.cuda.memory_reserved(device)) / MIB
