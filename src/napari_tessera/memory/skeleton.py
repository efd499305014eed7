"""Twins of a network that hold no data, and the ground on which torch can run them.

A twin has the modules, shapes, strides and dtypes of its network, but its tensors own no memory, and claim to be on a
device that need not be there. Neither the network nor its tensors are written to, and no weight is copied.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from napari_tessera.memory.dataless import DatalessMode

aten = torch.ops.aten
TensorMap = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """A twin without data: *module* is called like the network, inside `running`.

    *weights* are twins of parameters, buffers and TorchScript constants; tied ones share one storage.
    """

    module: torch.nn.Module
    weights: tuple[torch.Tensor, ...]
    device_type: str

    @contextmanager
    def running(self, autocast_dtype: torch.dtype | None) -> Iterator[None]:
        """Make torch run the twin as the engine runs the network; only the calling thread is affected.

        Gradients are off, and so is autocast's cache of cast weights, which `torch.inference_mode` bypasses. Inference
        mode itself would hide from a dispatch mode what composite operations allocate.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(autocast_flags(self.device_type, autocast_dtype))
            stack.enter_context(DatalessMode())
            is_driverless = self.device_type == "cuda" and not torch.cuda.is_available()
            stack.enter_context(_Substitutes(is_driverless=is_driverless))
            yield


def build_skeleton(network: torch.nn.Module, device_type: str) -> Skeleton:
    """Return the twin of *network*, eager or TorchScript, in evaluation mode, on a device that need not be there."""
    # Torch imports this, in about a second, with the first operation on a data-less tensor. Within a pass, exceptions
    # that the import leaves behind would keep the frames of the network alive, and with them its tensors.
    from torch import _dynamo  # noqa: F401

    network = _without_compiler(network)
    twins = _Twins(torch.device(device_type))
    with torch.inference_mode(False), torch.no_grad():
        weights = [*network.parameters(), *network.buffers()]
        with DatalessMode():
            memo: dict[int, Any] = {id(weight): twins.of_weight(weight) for weight in weights}
        found = [memo[id(weight)] for weight in weights]
        for script in _script_roots(network):
            memo[id(script)] = twin = _ScriptTwin(script, twins.of_weight)
            found += twin.weights
        with DatalessMode():
            module = _copy_module(network, memo, twins.of_attribute)
    return Skeleton(module, tuple(found), device_type)


def share_weights(network: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of *network*'s modules, in evaluation mode, on the very same tensors.

    What a forward pass notes down in its modules stays in the copy. TorchScript is not copied.
    """
    network = _without_compiler(network)
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    memo |= {id(script): script for script in _script_roots(network)}
    return _copy_module(network, memo, lambda tensor: tensor)


def network_weights(network: torch.nn.Module) -> list[torch.Tensor]:
    """Return parameters, buffers and the constants of TorchScript graphs (a frozen network has nothing else)."""
    weights = [*network.parameters(), *network.buffers()]
    for script in _script_roots(_without_compiler(network)):
        graph = script.inlined_graph  # owns the nodes
        weights += [node.t("value") for node in _tensor_constants(graph)]
    return weights


def _without_compiler(network: torch.nn.Module) -> torch.nn.Module:
    """Return what `torch.compile` wraps: compiled code takes no tensors without data."""
    inner = getattr(network, "_orig_mod", None)
    return inner if isinstance(inner, torch.nn.Module) else network


def _copy_module(network: torch.nn.Module, memo: dict[int, Any], of_attribute: TensorMap) -> torch.nn.Module:
    """Return a copy of *network* in evaluation mode, with the tensors and modules that *memo* gives for it."""
    try:
        with _TensorCopies(of_attribute):
            module: torch.nn.Module = copy.deepcopy(network, dict(memo))
    except Exception:  # a lock, an open file, anything that an author attached
        module = _copy_tree(network, dict(memo))
    for part in module.modules():
        # Not eval(): the module of an exported program refuses it, and a shared TorchScript part is not ours to change.
        if not isinstance(part, torch.jit.ScriptModule):
            part.training = False
    return module


def _copy_tree(module: torch.nn.Module, memo: dict[int, Any]) -> torch.nn.Module:
    """Return a copy that shares what is neither a registered module nor a registered tensor."""
    if id(module) in memo:
        known: torch.nn.Module = memo[id(module)]
        return known
    twin: torch.nn.Module = object.__new__(type(module))  # some classes, such as graphs, make another in their __new__
    memo[id(module)] = twin
    twin.__dict__.update(module.__dict__)
    twin.__dict__["_parameters"] = {name: memo.get(id(part), part) for name, part in module._parameters.items()}
    twin.__dict__["_buffers"] = {name: memo.get(id(part), part) for name, part in module._buffers.items()}
    twin.__dict__["_modules"] = {name: part and _copy_tree(part, memo) for name, part in module._modules.items()}
    return twin


class _TensorCopies(TorchFunctionMode):
    """While active, the copy of a tensor that is no registered weight is what *of_attribute* gives for it."""

    def __init__(self, of_attribute: TensorMap) -> None:
        super().__init__()
        self._of_attribute = of_attribute

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self._of_attribute(tensor)
            return memo[id(tensor)]
        if func is torch.Tensor.clone:  # how a parameter that is not registered copies its data
            return self._of_attribute(args[0])
        return func(*args, **(kwargs or {}))


class _Twins:
    """Makes data-less tensors, in their mode; those of one real storage share one storage."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._storages: dict[tuple[int, torch.dtype, torch.device], torch.Tensor] = {}

    def of_weight(self, tensor: torch.Tensor) -> torch.Tensor:
        twin = self._make(tensor, self._device)
        return torch.nn.Parameter(twin, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else twin

    def of_attribute(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the twin of a tensor that `Module.to` does not move: it stays on its device."""
        return self._make(tensor, self._device if tensor.is_meta else tensor.device)

    def _make(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key = (storage._cdata, tensor.dtype, device)
        if key not in self._storages:
            length = storage.nbytes() // tensor.element_size()
            self._storages[key] = torch.empty(length, dtype=tensor.dtype, device=device)
        return self._storages[key].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


class _ScriptTwin(torch.nn.Module):
    """A TorchScript network as a function of its input and of data-less weights.

    Its graph is a copy, with its own executor: running it leaves no trace in what the network's executor has learnt
    about shapes.
    """

    def __init__(self, script: torch.jit.ScriptModule, of_weight: TensorMap) -> None:
        super().__init__()
        graph, attributes, constants = _lower(script)
        self._function = torch._C._create_function_from_graph("forward", graph)
        with DatalessMode():
            self._constants = [of_weight(constant) for constant in constants]
            self.weights = [of_weight(weight) for weight in attributes] + self._constants

    def forward(self, *inputs: torch.Tensor) -> Any:
        device_type = inputs[0].device.type
        if torch.is_autocast_enabled(device_type):
            # An executor casts the constants of a frozen graph once and keeps the copies; those of kernels only.
            lower = torch.get_autocast_dtype(device_type)
            self._kept = [weight.to(lower) for weight in self._constants if weight.dim() > 1]
        return self._function(*inputs, *self.weights)


def _lower(script: torch.jit.ScriptModule) -> tuple[Any, list[torch.Tensor], list[torch.Tensor]]:
    """Return a copy of the graph of *script* that takes all its weights as inputs; its attributes; its constants."""
    lower: Callable[..., tuple[Any, list[Any]]] = torch._C._jit_pass_lower_graph
    try:
        graph, attributes = lower(script.inlined_graph, script._c)
    except RuntimeError:
        # An attribute that is no tensor, such as `training`, cannot become an input; freezing makes all constants.
        frozen = torch._C._freeze_module(script._c, [], True, False)
        graph, attributes = lower(torch.jit._recursive.wrap_cpp_module(frozen).inlined_graph, frozen)  # type: ignore[no-untyped-call]
        return graph, [*attributes, *_lift_constants(graph)], []
    return graph, list(attributes), _lift_constants(graph)


def _lift_constants(graph: Any) -> list[torch.Tensor]:
    """Make the tensor constants of *graph* its last inputs and return them."""
    lifted = []
    for node in _tensor_constants(graph):
        constant = node.t("value")
        if constant.dim() > 0:  # the others are for computing shapes, and their values are needed
            value = graph.addInput()
            value.setType(node.output().type())
            node.output().replaceAllUsesWith(value)
            lifted.append(constant)
    return lifted


def _script_roots(network: torch.nn.Module) -> Iterator[torch.jit.ScriptModule]:
    if isinstance(network, torch.jit.ScriptModule):
        yield network
    else:
        for child in network.children():
            yield from _script_roots(child)


def _tensor_constants(graph: Any) -> list[Any]:
    nodes = graph.findAllNodes("prim::Constant", True)
    return [node for node in nodes if node.hasAttribute("value") and node.kindOf("value") == "t"]


@contextmanager
def autocast_flags(device_type: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Set autocast's thread-local flags directly: `torch.autocast` turns itself off for a device that is not there."""
    devices = ("cpu", "cuda")
    before = [(torch.is_autocast_enabled(name), torch.get_autocast_dtype(name)) for name in devices]
    cached = torch.is_autocast_cache_enabled()
    # Nested, so that a `torch.autocast` block inside the network does not empty the cache of other threads.
    torch.autocast_increment_nesting()
    try:
        torch.set_autocast_cache_enabled(False)
        for name in devices:
            torch.set_autocast_enabled(name, dtype is not None and name == device_type)
            if dtype is not None:
                torch.set_autocast_dtype(name, dtype)
        yield
    finally:
        for name, (enabled, lower) in zip(devices, before, strict=True):
            torch.set_autocast_enabled(name, enabled)
            torch.set_autocast_dtype(name, lower)
        torch.set_autocast_cache_enabled(cached)
        torch.autocast_decrement_nesting()


class _Substitutes(TorchFunctionMode):
    """Calls that torch cannot make on data-less tensors, or makes differently, in terms of operations that it can.

    *is_driverless*: also indexing, `contiguous` and `torch.tensor`, whose bindings look for a driver of the device.
    """

    def __init__(self, *, is_driverless: bool) -> None:
        super().__init__()
        self._calls: Mapping[Any, Callable[..., Any]] = {
            functional.scaled_dot_product_attention: _fused_attention,
        }
        if is_driverless:
            self._calls = {
                **self._calls,
                torch.tensor: _tensor,
                torch.as_tensor: _as_tensor,
                torch.Tensor.__getitem__: _get_item,
                torch.Tensor.__setitem__: _set_item,
                torch.Tensor.contiguous: _contiguous,
            }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.multi_head_attention_forward:
            with self:
                return _attention_layer(*args, **(kwargs or {}))
        return self._calls.get(func, func)(*args, **(kwargs or {}))


def _without_override(function: Any) -> Callable[..., Any]:
    """Return a Python function of torch without the check by which it hands itself over, whole, to a mode."""
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    copied = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


_attention_layer = _without_override(functional.multi_head_attention_forward)


def _fused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """Allocate what a fused attention kernel does; without a device torch would choose the one with the full matrix."""
    if query.dim() != 4:
        return functional.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    device_type = query.device.type
    if torch.is_autocast_enabled(device_type):
        lower = torch.get_autocast_dtype(device_type)
        query, key, value = (tensor.to(lower) for tensor in (query, key, value))
    batch, heads, length, _ = query.shape
    log_sum_exp = query.new_empty((batch, heads, length), dtype=torch.float32)
    # The kernels keep the heads next to the channels, so that merging them afterwards is no copy.
    output = query.new_empty((batch, length, heads, value.shape[-1])).transpose(1, 2)
    del log_sum_exp
    return output


def _tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
    made = torch.tensor(data, **options)
    return made if device is None else made.to(device)


def _as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> torch.Tensor:
    made = torch.as_tensor(data, dtype=dtype)
    return made if device is None else made.to(device)


def _contiguous(tensor: torch.Tensor, *, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    if tensor.is_contiguous(memory_format=memory_format):
        return tensor
    return aten.clone.default(tensor, memory_format=memory_format)  # type: ignore[no-any-return]


def _set_item(tensor: torch.Tensor, index: Any, value: Any) -> None:
    if isinstance(index, torch.Tensor) and index.dtype is torch.bool:
        return  # what a mask selects is overwritten where it is
    target = _get_item(tensor, index)
    if isinstance(value, torch.Tensor):
        aten.copy_.default(target, value)
    else:
        aten.fill_.Scalar(target, value)


def _get_item(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """Return ``tensor[index]``: numbers, slices, None and the ellipsis as views, lists and tensors as a gather."""
    dim, gathered = 0, {}
    for item in _full_index(index, tensor.dim()):
        if item is None:
            tensor = aten.unsqueeze.default(tensor, dim)
        elif isinstance(item, slice):
            tensor = aten.slice.Tensor(tensor, dim, item.start, item.stop, item.step or 1)
        elif isinstance(item, (torch.Tensor, list, tuple)):
            gathered[dim] = torch.as_tensor(item)
        else:
            tensor = aten.select.int(tensor, dim, operator.index(item))
            continue
        dim += 1
    if gathered:
        return aten.index.Tensor(tensor, [gathered.get(d) for d in range(max(gathered) + 1)])  # type: ignore[no-any-return]
    return aten.alias.default(tensor)  # type: ignore[no-any-return]


def _full_index(index: Any, n_dims: int) -> Iterable[Any]:
    items = list(index) if isinstance(index, tuple) else [index]
    for position, item in enumerate(items):
        if item is Ellipsis:
            missing = n_dims - sum(1 for other in items if other is not None and other is not Ellipsis)
            return [*items[:position], *(slice(None),) * missing, *items[position + 1 :]]
    return items
