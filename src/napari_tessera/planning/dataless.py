"""Tensors with everything but data: shape, strides, dtype, and a device that need not be there.

Torch's meta tensors have no data either, but no device: nothing is autocast for them, and code that asks where its
input is goes astray. Torch's fake tensors have one, and take five times as long for an operation, as they also check
what a compiler relies on. These run each operation on the meta tensor they hold, and only claim to be elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["DatalessMode", "DatalessTensor", "storage_of"]

_META = torch.device("meta")


class DatalessTensor(torch.Tensor):
    """Claims to be on a device, and holds a meta tensor on which its operations run.

    Parameters
    ----------
    held
        A strided meta tensor; views of it, and what is done to it in place, are those of this tensor.
    device
        What `device` says; autocast goes by it.
    """

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> DatalessTensor:
        """Return a tensor of the shape, strides and dtype of *held* that claims to be on *device*."""
        tensor: DatalessTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_indexed(device),
        )
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _Call().run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype}, {self.device})"


class DatalessMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, tensors that the calling thread makes have no data, wherever they are asked to be."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    # Torch looks for a driver before it makes a tensor on CUDA, unless this place among its modes is taken.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or every operation would pass through the compiler's wrapper

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _Call().run(func, args, kwargs or {})


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    """Return the storage that *tensor* shares with its views."""
    return (tensor.held if isinstance(tensor, DatalessTensor) else tensor).untyped_storage()


def _indexed(device: torch.device) -> torch.device:
    """Return *device* with the number that torch would otherwise ask a driver for."""
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


class _Call:
    """One operation: on the tensors that its arguments hold, and where its results are."""

    def __init__(self) -> None:
        self._arguments: dict[int, DatalessTensor] = {}  # by the identity of what each holds
        self._device: Any = None

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        held = [self._held(value) for value in args]
        options = {name: self._held(value) for name, value in kwargs.items()}
        if options.get("device") is not None:
            self._device, options["device"] = options["device"], _META
            options.pop("pin_memory", None)
        elif self._device is None:
            self._device = torch.device("cpu")
            if any(argument.name == "device" for argument in func._schema.arguments):
                options["device"] = _META
        return self._claimed(func(*held, **options))

    def _held(self, value: Any) -> Any:
        if isinstance(value, DatalessTensor):
            self._arguments[id(value.held)] = value
            if self._device is None or value.dim() > 0:  # a number may be on the host
                self._device = value.device
            return value.held
        if isinstance(value, torch.Tensor):
            if value.dim() == 0 and value.device.type == "cpu":  # it has a value, and goes with any device
                return value
            self._device = self._device or value.device
            return value.to(_META)
        if isinstance(value, (list, tuple)):
            return type(value)(self._held(item) for item in value)
        return value

    def _claimed(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            known = self._arguments.get(id(value))
            if known is not None:  # changed in place
                return _caught_up(known)
            is_held = value.is_meta and value.layout is torch.strided
            return DatalessTensor(value, self._device) if is_held else value
        if isinstance(value, (list, tuple)):
            return type(value)(self._claimed(item) for item in value)
        return value


def _caught_up(tensor: DatalessTensor) -> DatalessTensor:
    """Give *tensor* the shape and strides of what it holds, after an operation such as ``squeeze_``, and return it."""
    held = tensor.held
    if tensor.size() != held.size() or tensor.stride() != held.stride():
        with torch._C._DisableTorchDispatch():
            tensor.data = DatalessTensor(held, tensor.device)
    return tensor
