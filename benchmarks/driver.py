"""What the driver of a CUDA device says of its memory: the cache and the context count there, in torch's counters not.

Everything that runs on the device is in these figures, other programs included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from types import TracebackType

import torch

__all__ = ["DriverPeak", "used_bytes"]

MIB = 2**20
EVERY_S = 0.002


class DriverPeak:
    """Watches, while its body runs, how much of a device is free; `taken_bytes` is the most that was missing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.taken_bytes: int | None = None

    def __enter__(self) -> DriverPeak:
        if self._device.type == "cuda":
            self._free = torch.cuda.mem_get_info(self._device)[0]
            self.taken_bytes = 0
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._device.type == "cuda":
            self._stop.set()
            self._thread.join()
            self._look()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        assert self.taken_bytes is not None
        self.taken_bytes = max(self.taken_bytes, self._free - torch.cuda.mem_get_info(self._device)[0])


def used_bytes() -> int | None:
    """Return what is taken of the first device, asked without a context of this process; None if nobody can say."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    try:
        import pynvml
    except ImportError:
        return _ask_nvidia_smi(first)
    find = pynvml.nvmlDeviceGetHandleByIndex if first.isdigit() else pynvml.nvmlDeviceGetHandleByUUID
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(find(int(first) if first.isdigit() else first)).used)
    except pynvml.NVMLError:  # a library that does not fit to the driver, or a device that may not be asked
        return None


def _ask_nvidia_smi(device: str) -> int | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--id={device}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    said = done.stdout.strip()
    return int(said) * MIB if done.returncode == 0 and said.isdigit() else None
