"""What decides on the memory of kernels, and so on whose measurements correct whose estimates."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from napari_tessera.engine.settings import Settings
    from napari_tessera.planning.plan import DeviceState

__all__ = ["CalibrationKey", "fingerprint"]

_FINGERPRINTS: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """What the memory of kernels depends on.

    Parameters
    ----------
    device, software
        The card, and the versions of torch and of the libraries that choose kernels.
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
    def of(cls, network: torch.nn.Module, settings: Settings, device: DeviceState) -> CalibrationKey:
        """Return the key of runs of *network* by these settings."""
        name = platform.machine() if device.kind == "cpu" else device.name
        single = device.kind == "cpu" and settings.sw_batch_size == 1
        software, precision = _software(device.kind), settings.precision.value
        return cls(f"{device.kind} {name}", software, fingerprint(network), precision, single)


def fingerprint(network: torch.nn.Module) -> str:
    """Return a hash of the kinds of a network's modules and the shapes and types of its weights, hexadecimal.

    Two trainings of one architecture have the same: what their passes take does not depend on the values.
    """
    if network not in _FINGERPRINTS:
        modules = (f"{name}:{_kind(module)}" for name, module in network.named_modules())
        weights = (f"{tuple(each.shape)}:{each.dtype}" for each in [*network.parameters(), *network.buffers()])
        text = "\n".join([*modules, *weights, *_graph(network)])
        _FINGERPRINTS[network] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _FINGERPRINTS[network]


def _kind(module: torch.nn.Module) -> str:
    return str(getattr(module, "original_name", type(module).__qualname__))


def _graph(network: torch.nn.Module) -> Iterable[str]:
    """Yield the code of a TorchScript: once frozen it has neither modules nor weights that could be named."""
    if isinstance(network, torch.jit.ScriptModule):
        yield str(network.code)


def _software(device_kind: str) -> str:
    versions = [f"torch {torch.__version__}"]
    if device_kind == "cuda":
        if torch.cuda.is_available():  # also planned for where it is not
            bindings: Any = torch._C
            versions.append(f"driver {bindings._cuda_getDriverVersion()}")
        versions += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]  # type: ignore[no-untyped-call]
    return ", ".join(versions)
