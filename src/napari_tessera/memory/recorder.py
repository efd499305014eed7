"""Follows the storages that a forward pass creates, from birth to death, whether its tensors hold data or not."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from napari_tessera.engine.loop.forward import margins_of, scores, with_margins
from napari_tessera.engine.loop.several_outputs import Shapes, score_outputs, shapes_of
from napari_tessera.memory.dataless import has_no_data, storage_of, tensors_in
from napari_tessera.memory.estimate import PassProfile

aten = torch.ops.aten

# These read numbers, which a data-less tensor does not have.
_VALUES = {aten.equal.default, aten._local_scalar_dense.default}
# What they allocate inside is seen by nobody: names of the arguments with the tokens and with the number of heads.
_FUSED = {
    aten._native_multi_head_attention.default: ("query", "num_head"),
    aten._transformer_encoder_layer_fwd.default: ("src", "num_heads"),
}
_CONVOLUTIONS = {aten.convolution.default, aten._convolution.default}


# The pass depended on a value that a data-less tensor does not have.
GUESSED_ERROR = 0.1
# Whole attention layers that scripts run as one operation, of whose memory a trace sees the largest part only.
FUSED_ERROR = 0.5


@dataclass(frozen=True, slots=True)
class PassTrace:
    """The memory of one forward pass: births and deaths of storages, in the order in which they happened.

    Parameters
    ----------
    outputs
        Shapes of what the network gives, by name (see `name_outputs`).
    storage_ids, signed_bytes
        Which storage, numbered by birth (the input is 0), and its size: positive when it is born, negative when it
        dies. A pass that was scaled up has one, as large as the peak.
    workspaces
        Of each convolution: how many of these had happened, and what its kernel takes for itself, bytes.
    step_bytes
        Each allocation is rounded up to this.
    error_fraction
        How far `activations_bytes` may be off, as a fraction of it.
    is_scaled
        Whether it was scaled up from small real passes in float32.
    """

    outputs: Shapes
    storage_ids: array[int]
    signed_bytes: array[int]
    workspaces: tuple[tuple[int, int], ...] = ()
    step_bytes: int = 1
    error_fraction: float = 0.0
    is_scaled: bool = False

    @property
    def activations_bytes(self) -> int:
        """The most that is alive at once besides the weights; the input and the output count."""
        return self.profile.activations_bytes

    @property
    def profile(self) -> PassProfile:
        """Tensors and workspaces."""
        return PassProfile.of(self.signed_bytes, self.workspaces, step_bytes=self.step_bytes)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages, but those of *weights*, that operations of the calling thread create.

    *device_type*: where the tensors of the pass are or claim to be; for ``"cuda"`` nothing on the host is followed.
    """

    def __init__(self, weights: Iterable[torch.Tensor], *, device_type: str, step_bytes: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storage_ids, self._signed_bytes = array("q"), array("q")
        self._workspaces: list[tuple[int, int]] = []
        self._step_bytes, self._error = step_bytes, 0.0
        self._ignored = set(storage_sizes(weights))
        self._device_type = device_type
        self._live: dict[int, tuple[int, int]] = {}
        self._watches: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._born = 0
        self._failed: Exception | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or every operation would pass through the compiler's wrapper

    def record(self, module: Callable[[torch.Tensor], Any], windows: torch.Tensor) -> PassTrace:
        """Call *module* and return what happened; it ends with the outputs alive."""
        self._follow(windows)
        try:
            with self:
                found = score_outputs(module(windows))
                if len(found) == 1:  # the engine puts one that is smaller than its window into the middle of zeros
                    (output,) = found.values()
                    margins = margins_of(output.shape[2:], windows.shape[2:])
                    output = output if margins is None else with_margins(output, margins)
        except RuntimeError as error:
            if self._failed is None or "TorchScript" not in str(error):
                raise
            raise self._failed from error  # its interpreter drops the message of what goes wrong in a dispatch mode
        finally:
            self._watches.clear()  # deaths from here on are not of this pass; it also breaks a reference cycle
        outputs = shapes_of({name: scores(tensor) for name, tensor in found.items()})
        events = (self._storage_ids, self._signed_bytes, tuple(self._workspaces))
        return PassTrace(outputs, *events, self._step_bytes, self._error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUSED:
            self._note_fused(func, args, kwargs)
        if func in _VALUES:
            return self._value(func, args)
        if _on_host_numbers(func, args):
            with _disable_current_modes():
                return func(*args, **kwargs)
        try:
            output = func(*args, **kwargs)
        except Exception as error:
            self._failed = error
            raise
        for tensor in tensors_in(output):
            self._follow(tensor)
        if func in _CONVOLUTIONS:
            self._note(output, *args)
        return output

    def _value(self, func: Any, args: tuple[Any, ...]) -> Any:
        """Return what a tensor holds, or something made up if it holds nothing; sizes seldom depend on it."""
        if not all(isinstance(arg, torch.Tensor) for arg in args):  # TorchScript hands some 0-d ones over as numbers
            return args[0] is args[1] if func is aten.equal.default else args[0]
        if not any(map(has_no_data, args)):
            with _disable_current_modes():  # under the mode of data-less tensors even a real number has no value
                return func(*args)
        self._error = max(self._error, GUESSED_ERROR)
        if func is aten.equal.default:
            return False
        return 1.0 if args[0].is_floating_point() else 1

    def _note_fused(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count what an attention layer takes inside: queries, keys, values twice, and each token with every one."""
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        tokens, heads = (given[name] for name in _FUSED[func])
        batch, length, _ = tokens.shape
        inside = tokens.element_size() * (6 * tokens.numel() + batch * heads * length * length)
        self._log(self._born, inside)
        self._log(self._born, -inside)
        self._born += 1
        self._error = FUSED_ERROR

    def _note(self, output: torch.Tensor, windows: torch.Tensor, weight: torch.Tensor, *args: Any) -> None:
        shapes = (windows.shape, weight.shape, output.shape)
        size = workspace_bytes(*shapes, item_bytes=windows.element_size(), groups=args[6])
        self._workspaces.append((len(self._storage_ids), size))

    def _follow(self, tensor: torch.Tensor) -> None:
        on_host = self._device_type == "cuda" and tensor.device.type == "cpu"
        if on_host or tensor.layout is not torch.strided:
            return
        storage = storage_of(tensor)
        key, size = storage._cdata, storage.nbytes()
        if key in self._ignored or self._live.get(key, (0, -1))[1] == size:
            return
        if key in self._live:  # resized in place
            self._end(key)
        self._live[key] = (self._born, size)
        self._log(self._born, size)
        self._born += 1
        self._watches[key] = weakref.ref(storage, lambda _: self._end(key))

    def _end(self, key: int) -> None:
        storage_id, size = self._live.pop(key)
        self._log(storage_id, -size)

    def _log(self, storage_id: int, signed_bytes: int) -> None:
        self._storage_ids.append(storage_id)
        self._signed_bytes.append(signed_bytes)


def workspace_bytes(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    item_bytes: int = 4,
    groups: int = 1,
) -> int:
    """Return the workspace that cuDNN takes for one convolution, shapes with batch and channels first, bytes.

    Half precision: input, output and weights in another layout; single precision: input and weights. A depthwise
    convolution has a kernel of its own, which takes nothing. The rule gives the published figures of pytorch/pytorch
    issues 95024 (float16, 12.87 GB) and 128947 (float32 on an A100, 17 GiB) to the digits they state.
    """
    if groups == input_shape[1] > 1:
        return 0
    values = prod(input_shape) + prod(weight_shape) + (prod(output_shape) if item_bytes < 4 else 0)
    return values * item_bytes


def _on_host_numbers(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation computes with 0-d host tensors only, as TorchScript does with shapes: values that matter."""
    has_none = True
    for tensor in tensors_in(args):
        has_none = False
        if type(tensor) is not torch.Tensor or tensor.dim() > 0 or tensor.device.type != "cpu":
            return False
    return func is aten.scalar_tensor.default if has_none else True


def storage_sizes(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Return the sizes of the tensors' storages by address, bytes; a shared one once."""
    sizes = {}
    for tensor in tensors:
        if tensor.layout is torch.strided:
            storage = storage_of(tensor)
            sizes[storage._cdata] = storage.nbytes()
    return sizes
