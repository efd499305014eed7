"""What decides on the memory of kernels, and so on whose measurements correct whose estimates."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.memory.device_state import DeviceState


# In a printed TorchScript: what torch numbers in the order in which scripts are loaded, where the lines came from, and
# the values of small weights.
PASSING = re.compile(r"___torch_mangle_\d+\.?|warn_id=\d+| # .*|value=[^\[\]=]*(?=\[ \w+Type\{)")

_FINGERPRINTS: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """What the memory of kernels depends on.

    Parameters
    ----------
    device, software
        The card, or the CPU and the threads that torch uses of it; the versions of torch and of the libraries that
        choose kernels.
    network
        Its `fingerprint`.
    precision
        Of the passes.
    single
        Whether passes hold one window: on the CPU torch then takes other kernels, which may need several times the
        memory. False elsewhere.
    """

    device: str
    software: str
    network: str
    precision: str
    single: bool = False

    @classmethod
    def of(
        cls, network: torch.nn.Module, settings: Settings, device: DeviceState, *, windows: int = 2
    ) -> CalibrationKey:
        """Return the key of passes of *network* by these settings over so many *windows*."""
        name = f"{_cpu_name()}, {torch.get_num_threads()} threads" if device.kind == "cpu" else device.name
        single = device.kind == "cpu" and windows == 1
        software, precision = _software(device.kind), settings.precision.value
        return cls(f"{device.kind} {name}", software, fingerprint(network), precision, single)


def fingerprint(network: torch.nn.Module) -> str:
    """Return a hash of a network's modules, with their plain parameters such as strides, and the shapes of its weights.

    Two trainings of one architecture have the same: what their passes take does not depend on the values.
    """
    if network not in _FINGERPRINTS:
        modules = (f"{name}:{_kind(module)} {_parameters(module)}" for name, module in network.named_modules())
        weights = (f"{tuple(each.shape)}:{each.dtype}" for each in [*network.parameters(), *network.buffers()])
        text = "\n".join([*modules, *weights, *_graph(network)])
        _FINGERPRINTS[network] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _FINGERPRINTS[network]


def _kind(module: torch.nn.Module) -> str:
    return str(getattr(module, "original_name", type(module).__qualname__))


def _parameters(module: torch.nn.Module) -> list[tuple[str, Any]]:
    """Return what a module was made with, as far as it is numbers and names: strides, dilation, heads."""
    public = ((name, value) for name, value in vars(module).items() if not name.startswith("_") and name != "training")
    return sorted((name, value) for name, value in public if _is_plain(value))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _graph(network: torch.nn.Module) -> Iterable[str]:
    """Yield what a TorchScript computes: once frozen it has neither modules nor weights that could be named."""
    if isinstance(network, torch.jit.ScriptModule):
        graph: Any = network.inlined_graph
        yield PASSING.sub("", graph.str(False))


@cache
def _cpu_name() -> str:
    capability = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return f"{platform.processor()} {capability}"
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor())} {capability}"


def _software(device_kind: str) -> str:
    versions = [f"torch {torch.__version__}"]
    if device_kind == "cuda":
        if torch.cuda.is_available():  # also planned for where it is not
            bindings: Any = torch._C
            versions.append(f"driver {bindings._cuda_getDriverVersion()}")
        versions += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]  # type: ignore[no-untyped-call]
    return ", ".join(versions)
