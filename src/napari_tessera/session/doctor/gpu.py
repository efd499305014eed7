"""Torch, and whether it can use the card that is in the machine."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from napari_tessera.core.units import format_bytes
from napari_tessera.session.doctor.finding import Finding, Status
from napari_tessera.session.doctor.system import command_line, installed_version, numbers, pip_command, run_program

OLDEST_TORCH = (2, 10)

# The oldest driver branch that runs programs built with a major version of CUDA (NVIDIA's CUDA compatibility guide).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True, slots=True)
class Card:
    """An NVIDIA card as its driver knows it."""

    name: str
    driver: str


def check_torch() -> Iterator[Finding]:
    """Tell whether torch is there, and new enough that opening a checkpoint is safe."""
    try:
        import torch
    except Exception as error:  # a broken installation raises OSError and worse
        yield Finding("torch", Status.FAIL, f"cannot be imported: {error}", pip_command("torch>=2.10"))
        return
    build = f"built with CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    detail = f"{torch.__version__}, {build}"
    if numbers(torch.__version__) < OLDEST_TORCH:
        detail = f"{detail}: older than 2.10, which opens checkpoints safely"
        yield Finding("torch", Status.FAIL, detail, pip_command("torch>=2.10"))
    else:
        yield Finding("torch", Status.OK, detail)


def check_gpu() -> Iterator[Finding]:
    """Tell which GPUs torch can use, and where it cannot use the card that is there, why."""
    if installed_version("torch") is None:
        return
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    complaint = str(caught[0].message).partition("\n")[0] if caught else ""
    if is_available:
        for index in range(torch.cuda.device_count()):
            yield _examine_cuda_device(index)
    elif sys.platform == "darwin":
        yield _examine_mps()
    else:
        yield _explain_no_cuda(complaint)


def _examine_cuda_device(index: int) -> Finding:
    import torch

    name = f"GPU {index}"
    try:
        properties = torch.cuda.get_device_properties(index)
        free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        return Finding(name, Status.FAIL, f"does not answer: {_first_line(error)}", "end other programs that use it")
    memory = f"{format_bytes(free_bytes)} free of {format_bytes(total_bytes)}"
    capability = (properties.major, properties.minor)
    detail = f"{properties.name}, {memory}"
    if not _is_built_for(capability, torch.cuda.get_arch_list()):
        detail += f"; this torch has no code for its compute capability {capability[0]}.{capability[1]}"
        return Finding(name, Status.FAIL, detail, f"set device: cpu, or try {install_matching_torch()}")
    return Finding(name, Status.OK, detail)


def _is_built_for(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether binary code of the same major version, or older intermediate code, is in the build.

    An empty list, as of builds for AMD cards, tells nothing and counts as yes.
    """
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = "".join(filter(str.isdigit, number))  # sm_90a
        if kind not in ("sm", "compute") or not digits:
            return True
        built = divmod(int(digits), 10)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return not architectures


def _examine_mps() -> Finding:
    import torch

    if torch.backends.mps.is_available():
        return Finding("GPU", Status.OK, "Apple MPS; it shares the memory of the host")
    if platform.machine() != "arm64":
        return Finding("GPU", Status.WARN, "none that torch can use: runs go to the CPU")
    return Finding("GPU", Status.WARN, "Apple MPS cannot be used: runs go to the CPU", "update macOS to 14 or later")


def _explain_no_cuda(complaint: str) -> Finding:
    import torch

    code, output = run_program(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
    )
    if code == 127:
        return Finding("GPU", Status.WARN, "no NVIDIA driver here: runs go to the CPU")
    if code != 0:
        reason = output.strip().partition("\n")[0]
        remedy = "restart the computer; if that does not help, install the NVIDIA driver again"
        return Finding("GPU", Status.FAIL, f"the NVIDIA driver does not work: {reason}", remedy)
    cards = [Card(*(part.strip() for part in line.rsplit(",", 1))) for line in output.strip().splitlines()]
    if not cards:
        return Finding("GPU", Status.WARN, "no NVIDIA card here: runs go to the CPU")
    why, remedy = _why_unused(torch.version.cuda, cards[0].driver, complaint)
    names = ", ".join(card.name for card in cards)
    return Finding("GPU", Status.FAIL, f"{names} is there, but torch cannot use it: {why}", remedy)


def _why_unused(torch_cuda: str | None, driver: str, complaint: str) -> tuple[str, str]:
    """Return the reason that torch sees no card though the driver does, and the remedy."""
    if torch_cuda is None:
        return "this torch was built without CUDA", install_matching_torch()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES='{hidden}' hides it", "unset CUDA_VISIBLE_DEVICES"
    oldest = OLDEST_DRIVER.get(numbers(torch_cuda)[0], 0)
    if numbers(driver)[:1] < (oldest,):
        why = f"torch was built with CUDA {torch_cuda}, which needs driver {oldest} or later; here is {driver}"
        return why, f"update the NVIDIA driver, or: {install_matching_torch()}"
    reason = complaint or f"the driver {driver} should do for CUDA {torch_cuda}"
    return reason, "restart the computer (a driver that was updated while it ran does not work until then)"


def install_matching_torch() -> str:
    """Return the command that installs the build of torch that fits the driver; uv knows which one that is."""
    version = installed_version("torch")
    wanted = f"torch=={version.partition('+')[0]}" if version else "torch"
    uv = command_line(sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable)
    return f"{pip_command('uv')} && {uv} --torch-backend=auto --reinstall-package torch {wanted}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
