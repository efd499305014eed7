"""What one forward pass allocates, found without a device and without computing anything.

A recorder follows every storage that a pass over a data-less twin of the network creates, from its birth to its death.
Where a network cannot be traced, two small real passes are recorded instead and scaled up.

What a kernel takes for itself while it runs, as the workspace of a convolution, is not seen, but estimated by a rule
(`recorder.workspace_bytes`).
"""

from __future__ import annotations

import math
import traceback
from array import array
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.devices.arithmetic import attention_by_parts
from napari_tessera.engine.loop.evaluation import evaluating
from napari_tessera.engine.loop.forward import precision_remedy
from napari_tessera.memory.estimate import round_up
from napari_tessera.memory.recorder import PassTrace, Recorder, storage_sizes
from napari_tessera.memory.skeleton import Skeleton, autocast_flags, build_skeleton, network_weights, share_weights

if TYPE_CHECKING:
    from napari_tessera.engine.loop.several_outputs import Shapes

# Live bytes of a traced pass equal those of a real one; the rest is for what differs between versions of torch.
TRACED_ERROR = 0.01
# Autocast's rules were those of another device.
OTHER_DEVICE_ERROR = 0.1
# Scaled up from small windows, where halos and padding weigh more, in float32.
MEASURED_ERROR = 0.3
# And where passes over small windows grow faster than their voxels, as attention does.
CURVED, CURVED_ERROR = 1.1, 1.0
# Sides of the window of a real pass: small enough to take about a second on a CPU.
MEASURED_SIDE_VOX = 40
# A network may refuse sides that this, or a smaller power of two, does not divide.
LARGEST_STRIDE_VOX = 32

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def allocation_step_bytes(device_type: str) -> int:
    """Return what allocations on a device are rounded up to: 512 in torch's CUDA allocator, nothing elsewhere."""
    return 512 if device_type == "cuda" else 1


def weights_bytes(network: torch.nn.Module, *, step_bytes: int = 1) -> int:
    """Return what parameters, buffers and TorchScript constants take, each storage rounded up to *step_bytes*."""
    return sum(round_up(size, step_bytes) for size in storage_sizes(network_weights(network)).values())


def torch_sees_memory_of(network: torch.nn.Module) -> bool:
    """Whether torch allocates what *network* takes: one that another library runs says how its account may be off."""
    return not any(hasattr(module, "memory_error") for module in network.modules())


def measure_forward(
    network: torch.nn.Module, input_shape: tuple[int, ...], *, precision: str = "float32", step_bytes: int = 1
) -> PassTrace:
    """Run *network* on numbers, where its weights are, and return what the pass allocated.

    Its modules are copied, its tensors are used as they are. Parameters: see `ForwardTracer`.
    """
    weights = network_weights(network)
    device = weights[0].device if weights else torch.device("cpu")
    recorder = Recorder(weights, device_type=device.type, step_bytes=step_bytes)
    module = share_weights(network)
    autocast = autocast_flags(device.type, _AUTOCAST.get(precision))
    with (
        evaluating(network),
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.no_grad(),
        attention_by_parts(),
        autocast,
    ):
        # A ramp: values on both sides of any threshold.
        windows = torch.linspace(0, 1, math.prod(input_shape), device=device).reshape(input_shape)
        return recorder.record(module, windows)


class ForwardTracer:
    """Traces one network at one precision for many input shapes; its twins are built once.

    Parameters
    ----------
    network
        Eager or TorchScript, on any device. It is neither run (but see `PassTrace.is_scaled`) nor changed nor copied.
    precision
        ``float32``, ``tf32`` (the same memory), ``bfloat16`` or ``float16`` (autocast).
    device_type
        Where it will run, ``cpu``, ``cuda`` or ``mps``; need not be there. Decides which operations autocast lowers
        (for MPS, CUDA's lists) and what allocations are rounded up to.
    """

    def __init__(self, network: torch.nn.Module, *, precision: str = "float32", device_type: str = "cpu") -> None:
        self._network = network
        self._lower = _AUTOCAST.get(precision)
        self._step_bytes = allocation_step_bytes(device_type)
        self._twins = twin_devices(device_type, self._lower)
        self._skeletons: dict[str, Skeleton] = {}
        self._real_passes: dict[tuple[int, tuple[int, ...]], tuple[int, int, Shapes]] = {}

    def trace(self, input_shape: tuple[int, ...]) -> PassTrace:
        """Return the memory of a pass over a float32 input of *input_shape*, (B, C, *window), without running it.

        Raises
        ------
        ModelError
            If the network refuses such an input (its exception is the ``__cause__``) or gives no tensor.
        """
        with evaluating(self._network):
            outcome = self._try_twins(input_shape)
            return outcome if isinstance(outcome, PassTrace) else self._measure(input_shape, outcome)

    def _try_twins(self, shape: tuple[int, ...]) -> PassTrace | Exception:
        """Return the trace of the first twin that accepts *shape*, or the failure of the last."""
        outcome: Exception = ModelError("there is no twin")
        for twin_device, error_fraction in self._twins.items():
            try:
                return self._trace_twin(self._skeleton(twin_device), shape, error_fraction)
            except ModelError:
                raise
            except Exception as error:  # anything may go wrong in code that others wrote
                outcome = _without_locals(error)
        return outcome

    def _skeleton(self, device_type: str) -> Skeleton:
        if device_type not in self._skeletons:
            self._skeletons[device_type] = build_skeleton(self._network, device_type)
        return self._skeletons[device_type]

    def _trace_twin(self, skeleton: Skeleton, shape: tuple[int, ...], error_fraction: float) -> PassTrace:
        recorder = Recorder(skeleton.weights, device_type=skeleton.device_type, step_bytes=self._step_bytes)
        with skeleton.running(self._lower):
            windows = torch.empty(shape, dtype=torch.float32, device=skeleton.device_type)
            traced = recorder.record(skeleton.module, windows)
        # A network that another library runs says itself how far its own account of it may be off.
        own_error = getattr(self._network, "memory_error", 0.0)
        return replace(traced, error_fraction=max(traced.error_fraction, error_fraction, own_error))

    def _measure(self, shape: tuple[int, ...], failure: Exception) -> PassTrace:
        """Return the memory of a pass of *shape*, scaled up from real passes after tracing ended in *failure*."""
        batch, channels, *window = shape
        sides = [_small_window(window)]
        if _is_untraceable(failure):  # it says nothing of the shape: the network may accept this very window only
            sides.append(tuple(window))
        elif sides[0] != tuple(window) and isinstance(self._try_twins((batch, channels, *sides[0])), PassTrace):
            sides.clear()  # it can be traced, only not with this shape
        for small in dict.fromkeys(sides):
            try:
                one, two, outputs = self._measured(channels, small)
            except Exception as error:  # as in `_try_twins`
                if small == tuple(window):
                    failure = _without_locals(error)
                continue
            power = self._growth(channels, small, two - one)
            per_window = (two - one) * (math.prod(window) / math.prod(small)) ** power
            peak = round(max(one - (two - one), 0) + batch * per_window)
            full = {name: (batch, *_scaled(shape[1:], small, window)) for name, shape in outputs.items()}
            sure = MEASURED_ERROR if power < CURVED else CURVED_ERROR
            return PassTrace(full, array("q", [0]), array("q", [peak]), (), self._step_bytes, sure, is_scaled=True)
        raise ModelError(
            f"the network refuses an input of shape {shape} (batch, channels, axes of the window): "
            f"{_reason(failure)}{precision_remedy(failure)}"
        ) from failure

    def _growth(self, channels: int, window: tuple[int, ...], per_window: int) -> float:
        """Return the power of its voxels that a window's memory grows with, from a pass over a smaller one; 1 to 2."""
        smaller = tuple(max(side // 2, 1) for side in window)
        try:
            one, two, _ = self._measured(channels, smaller)
        except Exception:  # as in `_try_twins`; a network may take no smaller window
            return 1.0
        ratio = math.prod(window) / math.prod(smaller)
        grown = max(per_window, 1) / max(two - one, 1)
        return min(max(math.log(grown) / math.log(ratio), 1.0), 2.0) if ratio > 1 else 1.0

    def _measured(self, channels: int, window: tuple[int, ...]) -> tuple[int, int, Shapes]:
        """Return the peaks of real passes over one and two windows, and the outputs' shapes for one."""
        if (channels, window) not in self._real_passes:
            one, two = (
                measure_forward(self._network, (n, channels, *window), step_bytes=self._step_bytes) for n in (1, 2)
            )
            self._real_passes[channels, window] = one.activations_bytes, two.activations_bytes, one.outputs
        return self._real_passes[channels, window]


def twin_devices(device_type: str, lower: torch.dtype | None) -> dict[str, float]:
    """Return where twins may claim to be, best first, and the error of each.

    Code may look for a driver, which only the CPU does without; there autocast lowers other operations.
    """
    if device_type == "cpu":
        return {"cpu": TRACED_ERROR}
    return {"cuda": TRACED_ERROR, "cpu": TRACED_ERROR if lower is None else OTHER_DEVICE_ERROR}


def _small_window(window: Iterable[int]) -> tuple[int, ...]:
    """Return sides near `MEASURED_SIDE_VOX`, divisible by the same powers of two up to `LARGEST_STRIDE_VOX`."""
    small = []
    for side in window:
        step = math.gcd(side, LARGEST_STRIDE_VOX)
        count = max(MEASURED_SIDE_VOX // step, 1)
        if step < LARGEST_STRIDE_VOX:
            count |= 1  # odd, or it would be divisible by more
        small.append(min(side, step * count))
    return tuple(small)


def _scaled(shape: tuple[int, ...], small: tuple[int, ...], window: list[int]) -> tuple[int, ...]:
    """Return what becomes of the output's shape, (C, *axes), if the window is *window* instead of *small*."""
    if len(shape) != 1 + len(window):
        return shape
    return (shape[0], *(n * full // part for n, part, full in zip(shape[1:], small, window, strict=True)))


def _is_untraceable(failure: Exception) -> bool:
    """Whether *failure* says that the pass cannot be traced, rather than that the network refuses its input."""
    return isinstance(failure, NotImplementedError)


def _reason(error: Exception) -> str:
    """Return the line of a message that says what is wrong: the first, or TorchScript's last, after its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if "TorchScript" in lines[0] else lines[0]


def _without_locals(error: Exception) -> Exception:
    """Return *error* with its traceback, but without the tensors and modules that the frames hold."""
    traceback.clear_frames(error.__traceback__)
    return error
