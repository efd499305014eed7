"""Tensors with everything but data: shape, strides, dtype, and a device that need not be there.

Torch's meta tensors have no data either, but no device: nothing is autocast for them, and code that asks where its
input is goes astray. Torch's fake tensors have one, and take five times as long for an operation, as they also check
what a compiler relies on. These run each operation on the meta tensor they hold, and only claim to be elsewhere.

Code may keep tensors for the next call, by shape and device. So that it never takes these for real ones, the number of
the device that they claim is `NOWHERE`, which no machine has; and away from a `DatalessMode` nothing can be done to
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from napari_tessera.core.errors import ModelError

aten = torch.ops.aten

_META = torch.device("meta")
NOWHERE = 99
# Most arguments of operations, for which a look at abstract classes would take longer than the operation.
_PLAIN = (int, float, str, type(None), torch.dtype, torch.device)


class DatalessTensor(torch.Tensor):
    """Claims to be on a device, by which autocast goes, and holds a strided meta tensor on which its operations run."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> DatalessTensor:  # noqa: D102
        tensor: DatalessTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(device.type, NOWHERE),
        )
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise ModelError(
            "the network keeps a tensor of the pass that was traced for the plan, which has no data: let it keep "
            "tensors on its modules, or by device, so that each pass finds its own"
        )

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype}, {self.device})"


class DatalessMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, tensors that the calling thread makes have no data, wherever they are asked to be."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._results: dict[Any, _Result] = {}

    # Torch looks for a driver before it makes a tensor on CUDA, unless this place among its modes is taken.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or every operation would pass through the compiler's wrapper

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _Call(self._results).run(func, args, kwargs or {})


def has_no_data(tensor: torch.Tensor) -> bool:
    """Whether *tensor* has a shape, but no values."""
    return tensor.is_meta or isinstance(tensor, DatalessTensor)


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    """Return the storage that *tensor* shares with its views."""
    return (tensor.held if isinstance(tensor, DatalessTensor) else tensor).untyped_storage()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in *value*, through lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif not isinstance(value, _PLAIN) and isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)


class _Result(NamedTuple):
    """What an operation gives for arguments of some shapes: one of them, changed in place, or new tensors."""

    argument: int | None
    layouts: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]
    container: type | None

    def made(self, held: list[Any]) -> Any:
        if self.argument is not None:
            return held[self.argument]
        new = [torch.empty_strided(size, stride, dtype=dtype, device=_META) for size, stride, dtype in self.layouts]
        return new[0] if self.container is None else self.container(new)

    @classmethod
    def of(cls, output: Any, held: list[Any], before: Any) -> _Result | None:
        """Return what *output* shows; None if it may share memory with an argument, or one has another shape now."""
        if before != _facts(held):
            return None
        for place, value in enumerate(held):
            if value is output:
                return cls(place, (), None)
        tensors = [output] if isinstance(output, torch.Tensor) else output
        if not isinstance(tensors, (list, tuple)) or not all(map(_is_whole, tensors)):
            return None
        theirs = {t.untyped_storage()._cdata for t in tensors_in(held)}
        own = {t.untyped_storage()._cdata for t in tensors}
        if own & theirs or len(own) < len(tensors):
            return None
        layouts = tuple((t.size(), t.stride(), t.dtype) for t in tensors)
        return cls(None, layouts, None if tensors[0] is output else type(output))


class _Call:
    """One operation: on the tensors that its arguments hold, and where its results are."""

    def __init__(self, results: dict[Any, _Result]) -> None:
        # Of earlier operations: torch takes a millisecond for the shape of some, and networks repeat themselves.
        self._results = results
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
        everything = [*held, *options.values()]
        facts = _facts(everything)
        key = (func, *options, facts)
        known = self._results.get(key)
        if known is not None:
            return self._claimed(known.made(everything))
        unmoved = self._unmoved(func, args, kwargs)
        output = func(*held, **options) if unmoved is None else unmoved
        if (found := _Result.of(output, everything, facts)) is not None:
            self._results[key] = found
        return self._claimed(output)

    def _unmoved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
        """Return what the tensor holds that is only moved within one kind of device: a real one would stay as it is."""
        if func is not aten._to_copy.default or not isinstance(args[0], DatalessTensor):
            return None
        moved, there = args[0], kwargs.get("device")
        is_there = there is not None and there.type == moved.device.type and kwargs.get("dtype") in (None, moved.dtype)
        is_plain = kwargs.get("memory_format") in (None, torch.preserve_format)
        return aten.alias.default(moved.held) if is_there and is_plain else None

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


def _facts(value: Any) -> Any:
    """Return what the shape of an operation's results depends on, to be looked up by."""
    if isinstance(value, torch.Tensor):
        return value.size(), value.stride(), value.storage_offset(), value.dtype, value.device.type
    if isinstance(value, (list, tuple)):
        return tuple(_facts(item) for item in value)
    return type(value), value  # 1, 1.0 and True are equal, but not the same


def _is_whole(value: Any) -> bool:
    """Whether *value* is a meta tensor without gaps that is all of its storage."""
    is_held = isinstance(value, torch.Tensor) and value.is_meta and value.layout is torch.strided
    return is_held and value.untyped_storage().nbytes() == value.numel() * value.element_size()


def _caught_up(tensor: DatalessTensor) -> DatalessTensor:
    """Give *tensor* the shape and strides of what it holds, after an operation such as ``squeeze_``, and return it."""
    held = tensor.held
    if tensor.size() != held.size() or tensor.stride() != held.stride():
        with torch._C._DisableTorchDispatch():
            tensor.data = DatalessTensor(held, tensor.device)
    return tensor
