"""The memory of a forward pass: a trace without data against a real pass, and all that may stand in its way."""

from __future__ import annotations

import functools
import gc
import logging
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.networks import nets
from tests.memory.conftest import trace_forward
from tests.refusals import raises
from torch import nn
from torch.nn import functional

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import Precision
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.memory import trace
from napari_tessera.memory.allocations import peak_of_allocations
from napari_tessera.memory.dataless import DatalessTensor, storage_of
from napari_tessera.memory.skeleton import build_skeleton, network_weights
from napari_tessera.memory.trace import (
    ForwardTracer,
    allocation_step_bytes,
    measure_forward,
    weights_bytes,
)

if TYPE_CHECKING:
    from napari_tessera.memory.recorder import PassTrace

pytestmark = pytest.mark.usefixtures("one_thread")


def unet(dims: int = 3, side: int = 32) -> nn.Module:
    return nets.UNet(dims, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1)


def basic_unet(dims: int, side: int) -> nn.Module:
    return nets.BasicUNet(dims, 1, 2, features=(4, 4, 8, 8, 16, 4))


def dynunet(dims: int, side: int) -> nn.Module:
    blocks = {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2] * 2, "filters": [4, 8, 16]}
    return nets.DynUNet(dims, 1, 2, **blocks, deep_supervision=True, res_block=True)


def segresnet(dims: int, side: int) -> nn.Module:
    return nets.SegResNet(dims, init_filters=8, out_channels=3)


def attention_unet(dims: int, side: int) -> nn.Module:
    return nets.AttentionUnet(dims, 1, 2, channels=(4, 8, 16), strides=(2, 2))


def vnet(dims: int, side: int) -> nn.Module:
    return nets.VNet(dims, 1, 2)


def unetr(dims: int, side: int) -> nn.Module:
    pytest.importorskip("einops")
    sizes = {"feature_size": 4, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
    return nets.UNETR(1, 2, (side,) * dims, **sizes, spatial_dims=dims)


def swin_unetr(dims: int, side: int) -> nn.Module:
    pytest.importorskip("einops")
    return nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=dims)


CONVOLUTIONAL = (unet, basic_unet, dynunet, segresnet, attention_unet)
NETWORKS = [
    *((build, 3, side) for build in CONVOLUTIONAL for side in (32, 48)),
    *((build, 2, side) for build in (unet, vnet, unetr) for side in (32, 48)),
    (swin_unetr, 2, 64),
    *(pytest.param(build, 3, 64, marks=pytest.mark.slow) for build in (vnet, unetr, swin_unetr)),
    pytest.param(swin_unetr, 2, 96, marks=pytest.mark.slow),
]


class Head(nn.Module):
    """Two convolutions; what the tests of oddities are made from."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv2d(1, 4, 3, padding=1)
        self.narrow = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.narrow(functional.relu(self.widen(x)))


class Odd(Head):
    """A `Head` whose forward pass is *call*."""

    def __init__(self, call: Callable[[Head, torch.Tensor], Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self, x)


@pytest.fixture(autouse=True)
def _old_torchscript() -> Iterator[None]:
    """Let tests make TorchScript networks, which torch calls deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        yield


def as_traced(network: nn.Module, windows: torch.Tensor) -> nn.Module:
    return torch.jit.trace(network, windows)


def as_scripted(network: nn.Module, windows: torch.Tensor) -> nn.Module:
    return torch.jit.script(network)


def as_frozen(network: nn.Module, windows: torch.Tensor) -> nn.Module:
    return torch.jit.freeze(torch.jit.script(network))


def assert_as_measured(network: nn.Module, *shapes: tuple[int, ...], precision: str = "float32") -> PassTrace:
    tracer = ForwardTracer(network, precision=precision)
    for shape in shapes:
        traced = tracer.trace(shape)
        measured = measure_forward(network, shape, precision=precision)
        assert not traced.is_scaled
        assert traced.outputs == measured.outputs
        assert traced.activations_bytes == pytest.approx(measured.activations_bytes, rel=0.005)
    return traced


@pytest.mark.parametrize(("build", "dims", "side"), NETWORKS)
def test_a_trace_predicts_what_a_real_pass_allocates(build: Callable[..., nn.Module], dims: int, side: int) -> None:
    network = build(dims, side).eval()
    assert_as_measured(network, *((batch, 1, *(side,) * dims) for batch in (1, 2, 4)))


@pytest.mark.parametrize("build", [unet, dynunet, segresnet, basic_unet])
def test_a_trace_follows_the_autocast_rules_of_the_cpu(build: Callable[..., nn.Module]) -> None:
    assert_as_measured(build(2, 32).eval(), (2, 1, 32, 32), precision="bfloat16")


@pytest.mark.parametrize("form", [as_traced, as_scripted, as_frozen])
@pytest.mark.parametrize("build", [unet, segresnet])
def test_torchscript_is_traced(build: Callable[..., nn.Module], form: Callable[..., nn.Module]) -> None:
    network = form(build(2, 32).eval(), torch.zeros(1, 1, 32, 32))
    traced = assert_as_measured(network, (2, 1, 32, 32))
    assert traced.error_fraction <= 0.01
    if form is not as_frozen:
        assert_as_measured(network, (2, 1, 32, 32), precision="bfloat16")


def test_a_frozen_network_keeps_its_lowered_constants() -> None:
    network, shape = as_frozen(unet(2).eval(), torch.zeros(1, 1, 32, 32)), (1, 1, 32, 32)
    kernels = sum(weight.numel() for weight in network_weights(network) if weight.dim() > 1)
    traced = trace_forward(network, shape, precision="bfloat16")
    measured = measure_forward(network, shape, precision="bfloat16").activations_bytes
    assert 2 * kernels < measured <= traced.activations_bytes < 1.1 * measured


def test_shapes_that_torchscript_computes_have_their_values() -> None:
    network = as_traced(unetr(2, 32).eval(), torch.zeros(1, 1, 32, 32))
    for precision in ("float32", "bfloat16"):
        assert assert_as_measured(network, (1, 1, 32, 32), precision=precision).error_fraction <= 0.01


def test_a_torchscript_executor_learns_nothing_from_a_trace() -> None:
    network = as_traced(Head().eval(), torch.zeros(1, 1, 8, 8))
    trace_forward(network, (1, 1, 16, 16))
    with raises(RuntimeError, "optimized_plan_"):
        network.get_debug_state()  # nothing planned: it has never run
    network(torch.zeros(1, 1, 8, 8))
    assert network.get_debug_state().execution_plans is not None


def test_a_torchscript_part_of_a_network_is_traced() -> None:
    network = nn.Sequential(as_traced(Head().eval(), torch.zeros(1, 1, 8, 8)), nn.Sigmoid())
    assert_as_measured(network, (2, 1, 16, 16))
    assert weights_bytes(network) == weights_bytes(Head())


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_an_exported_program_is_traced() -> None:
    program = torch.export.export(Head().eval(), (torch.zeros(1, 1, 16, 16),))
    assert_as_measured(program.module(), (1, 1, 16, 16))


@pytest.mark.parametrize("build", [unet, segresnet, unetr])
def test_every_kind_of_twin_gives_the_same_in_float32(
    build: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(2, 32).eval()
    peaks = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(trace, "twin_devices", lambda device_type, lower, device=device: {device: 0.0})
        peaks[device] = trace_forward(network, (2, 1, 32, 32)).activations_bytes
    assert peaks["cuda"] == pytest.approx(peaks["cpu"], abs=1024)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_cuda_autocast_lowers_other_operations_than_the_cpus(precision: str) -> None:
    network, shape = segresnet(3, 32).eval(), (1, 1, 32, 32, 32)
    full = trace_forward(network, shape, device_type="cuda").activations_bytes
    lower = trace_forward(network, shape, precision=precision, device_type="cuda")
    assert lower.error_fraction == pytest.approx(0.01)
    # CUDA keeps group normalisation in float32, the CPU does not: half precision saves little there.
    assert 0.85 * full < lower.activations_bytes < full
    assert trace_forward(network, shape, precision=precision).activations_bytes < 0.6 * full


def test_tf32_takes_the_memory_of_float32() -> None:
    passes = [trace_forward(unet(), (1, 1, 32, 32, 32), precision=p, device_type="cuda") for p in ("tf32", "float32")]
    assert passes[0].activations_bytes == passes[1].activations_bytes


def test_a_peak_that_can_be_worked_out_by_hand() -> None:
    class Chain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.cat([x, x, x], 1)  # input + 3 channels
            y = y * 2  # input + 3 + 3
            return y.sum(1, keepdim=True)

    plane_bytes = 4 * 10 * 10  # one window, one channel
    traced = trace_forward(Chain(), (2, 1, 10, 10))
    assert traced.activations_bytes == 2 * 7 * plane_bytes
    assert list(traced.signed_bytes) == [n * 2 * plane_bytes for n in (1, 3, 3, -3, 1, -3)]
    assert traced.outputs == {"": (2, 1, 10, 10)}


def test_allocations_are_rounded_up_as_the_device_does() -> None:
    network, shape = Head(), (1, 1, 5, 5)
    sizes = [100, 4 * 100, 4 * 100, 2 * 100]  # the input, twice the wide layer, the output
    assert trace_forward(network, shape).activations_bytes == sum(sizes[:3])
    assert trace_forward(network, shape, device_type="cuda").activations_bytes == 3 * 512
    assert (allocation_step_bytes("cpu"), allocation_step_bytes("mps"), allocation_step_bytes("cuda")) == (1, 1, 512)


def test_workspaces_of_convolutions_are_noted() -> None:
    (at, size), (later, _) = trace_forward(Head(), (3, 1, 8, 8)).workspaces
    assert size == 4 * (3 * 8 * 8 + 4 * 1 * 3 * 3)  # float32: input and weights
    assert at < later


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(16, 16, bias=False)
            self.b = nn.Linear(16, 16, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("c", self.a.weight.detach()[:4])  # another tensor, the same storage

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)) @ self.c.T

    network = Tied()
    assert weights_bytes(network) == 4 * 16 * 16
    skeleton = build_skeleton(network, "cuda")
    assert len({storage_of(weight)._cdata for weight in skeleton.weights}) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_skeleton_owns_no_memory_and_shares_none(device: str) -> None:
    network = Head()
    network.table = torch.ones(1000)
    network.tables = [nn.Parameter(torch.ones(1000))]
    skeleton = build_skeleton(network, device)
    module = skeleton.module
    tensors = [*module.parameters(), module.table, *module.tables]
    assert not {id(t) for t in tensors} & {id(t) for t in (*network.parameters(), network.table, *network.tables)}
    assert all(isinstance(t, DatalessTensor) for t in tensors)
    assert all(storage_of(t).device.type == "meta" for t in tensors)
    assert not any(t.requires_grad for t in skeleton.weights)


def item(net: Head, x: torch.Tensor) -> torch.Tensor:
    return Head.forward(net, x) * (2 if x.max().item() > 0.5 else 3)


def in_place(net: Head, x: torch.Tensor) -> torch.Tensor:
    y = net.widen(x).relu_()
    y[:, 0] = 0
    y[:, 1:3, ..., None] += 1
    y[y > 0.5] = 0
    return net.narrow(y[:, [0, 1, 2, 3]].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))


def random(net: Head, x: torch.Tensor) -> torch.Tensor:
    return Head.forward(net, functional.dropout(x + torch.rand_like(x), training=True))


def attention(net: Head, x: torch.Tensor) -> torch.Tensor:
    y = net.widen(x).flatten(2).unsqueeze(1)
    y = functional.scaled_dot_product_attention(y, y, y)
    return net.narrow(y.transpose(1, 2).reshape(len(x), 4, *x.shape[2:]))


def from_numbers(net: Head, x: torch.Tensor) -> torch.Tensor:
    scale = (
        torch.tensor([[0.5]], device=x.device)
        + torch.as_tensor([1.0], device=x.device)
        + torch.ones(1, device=x.device)
    )
    return Head.forward(net, x) * scale[..., None, None]


def reshaped_in_place(net: Head, x: torch.Tensor) -> torch.Tensor:
    y = net.widen(x).unsqueeze_(0)
    y.squeeze_(0).transpose_(2, 3)
    return net.narrow(torch.relu(y).transpose_(2, 3) + y.new_zeros(1))


ODDITIES: dict[str, tuple[Callable[[Head, torch.Tensor], Any], float]] = {
    "tuple": (lambda net, x: (Head.forward(net, x), x), 0.01),
    "dictionary": (lambda net, x: {"labels": [Head.forward(net, x)], "input": x}, 0.01),
    "item": (item, 0.1),
    "condition": (lambda net, x: Head.forward(net, x) if x.sum() > 0 else x, 0.1),
    "in place": (in_place, 0.01),
    "random": (random, 0.01),
    "from numbers": (from_numbers, 0.01),
    "reshaped in place": (reshaped_in_place, 0.01),
    "attention": (attention, 0.01),
    "host": (lambda net, x: Head.forward(net, x.cpu().to(x.device)), 0.01),
}


@pytest.mark.parametrize("name", ODDITIES)
@pytest.mark.parametrize(("precision", "device_type"), [("float32", "cpu"), ("bfloat16", "cpu"), ("float16", "cuda")])
def test_odd_networks_are_traced(name: str, precision: str, device_type: str) -> None:
    call, error_fraction = ODDITIES[name]
    network = Odd(call).eval()
    traced = trace_forward(network, (2, 1, 16, 16), precision=precision, device_type=device_type)
    assert (traced.is_scaled, next(iter(traced.outputs.values()))) == (False, (2, 2, 16, 16))
    assert traced.error_fraction == error_fraction
    if device_type == "cpu":
        measured = measure_forward(network, (2, 1, 16, 16), precision=precision).activations_bytes
        assert traced.activations_bytes == pytest.approx(measured, rel=0.005)


def test_attention_layers_use_a_fused_kernel() -> None:
    network = Odd(lambda net, x: net.attention(*(x[:, 0],) * 3, need_weights=False)[0])
    network.attention = nn.MultiheadAttention(16, 2, batch_first=True)
    for precision, device_type in (("float32", "cpu"), ("float16", "cuda")):
        traced = trace_forward(network, (1, 1, 1024, 16), precision=precision, device_type=device_type)
        assert (traced.is_scaled, traced.error_fraction) == (False, 0.01)
        assert traced.activations_bytes < 2 * 1024 * 1024  # one head's matrix of float16 numbers


def test_hooks_run_on_the_twin() -> None:
    network = Head()
    kept: list[torch.Tensor] = []
    network.widen.register_forward_hook(lambda module, args, output: kept.append(output))
    traced = trace_forward(network, (1, 1, 8, 8))
    assert [type(tensor) for tensor in kept] == [DatalessTensor]
    assert traced.activations_bytes == 4 * 64 * (1 + 4 + 4 + 2)  # the wide layer outlives the pass


def test_what_cannot_be_copied_is_shared() -> None:
    network = Head()
    network.lock = threading.Lock()
    network.train()
    assert_as_measured(network, (1, 1, 16, 16))
    assert network.training
    assert network.widen.training


def numpy(net: Head, x: torch.Tensor) -> torch.Tensor:
    return Head.forward(net, torch.from_numpy(x.numpy()))


def nonzero(net: Head, x: torch.Tensor) -> torch.Tensor:
    return Head.forward(net, x) + x[x > 0.5].sum()


def fixed(net: Head, x: torch.Tensor) -> torch.Tensor:
    if x.shape[2:] != (64, 64):
        raise ValueError("64 x 64 only")
    return nonzero(net, x)


@pytest.mark.parametrize("call", [numpy, nonzero, fixed])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_what_cannot_be_traced_is_measured_on_small_windows(
    call: Callable[[Head, torch.Tensor], Any], precision: str
) -> None:
    network, shape = Odd(call).eval(), (5, 1, 64, 64)
    state = torch.get_rng_state()
    traced = trace_forward(network, shape, precision=precision, device_type="cuda")
    assert (traced.is_scaled, traced.outputs, traced.workspaces) == (True, {"": (5, 2, 64, 64)}, ())
    measured = measure_forward(network, shape, step_bytes=512).activations_bytes
    assert traced.activations_bytes == pytest.approx(measured, rel=traced.error_fraction)
    assert torch.equal(torch.get_rng_state(), state)


def test_torchscript_that_cannot_be_traced_is_measured() -> None:
    network = as_scripted(unet(2).eval(), torch.zeros(1, 1, 32, 32))
    network = torch.jit.optimize_for_inference(network)  # packed weights have no strides
    assert trace_forward(network, (2, 1, 64, 64)).is_scaled


@pytest.mark.parametrize("shape", [(1, 1, 30, 30, 30), (1, 2, 32, 32, 32), (1, 1, 4, 4, 4)])
@pytest.mark.parametrize(("precision", "device_type"), [("float32", "cuda"), ("bfloat16", "cpu"), ("float16", "cuda")])
def test_a_refused_input_is_told_with_its_shape(
    shape: tuple[int, ...], precision: str, device_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as caught:
        trace_forward(unet(), shape, precision=precision, device_type=device_type)
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, (RuntimeError, ValueError))
    assert not caplog.records


def test_a_network_for_one_window_refuses_others() -> None:
    network = unetr(2, 32).eval()
    with raises(ModelError, "(1, 1, 96, 96)"):  # a small real pass would be one of 32 x 32
        trace_forward(network, (1, 1, 96, 96))


def test_torchscripts_reason_is_found_behind_its_traceback() -> None:
    network = as_traced(unet().eval(), torch.zeros(1, 1, 32, 32, 32))
    with raises(ModelError, "(1, 1, 30, 30, 30)", "must match") as caught:
        trace_forward(network, (1, 1, 30, 30, 30))
    assert "\n" not in str(caught.value)


def test_an_output_without_tensors_is_an_error() -> None:
    with raises(ModelError, "NoneType"):
        trace_forward(Odd(lambda net, x: None), (1, 1, 8, 8))


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("call", [Head.forward, numpy, lambda net, x: 1 / 0])
def test_nothing_outside_is_changed(call: Callable[[Head, torch.Tensor], Any], precision: str) -> None:
    def state() -> tuple[Any, ...]:
        return (
            [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")],
            (torch.is_autocast_cache_enabled(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            (torch.get_default_dtype(), gc.isenabled(), gc.get_threshold()),
            len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
            [(id(p), p.requires_grad, p.data_ptr(), p.clone().tolist()) for p in network.parameters()],
            [(part.training, sorted(part.__dict__)) for part in network.modules()],
            torch.get_rng_state().tolist(),
        )

    network = Odd(call).train()
    before = state()
    with suppress(ModelError):
        trace_forward(network, (1, 1, 16, 16), precision=precision, device_type="cuda")
    assert state() == before


def test_tracing_inside_inference_mode_and_autocast_gives_the_same() -> None:
    network = unet(2)
    alone = trace_forward(network, (1, 1, 32, 32))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert trace_forward(network, (1, 1, 32, 32)) == alone


def test_tracing_while_another_thread_runs_the_network() -> None:
    network, windows = unet(2).eval(), torch.rand(4, 1, 32, 32)
    done = threading.Event()
    outputs: list[torch.Tensor] = []

    def run() -> None:
        with torch.inference_mode():
            while not done.is_set():
                outputs[:1] = [network(windows)]

    with torch.inference_mode():
        expected = network(windows)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        traces = [trace_forward(network, (4, 1, 32, 32), precision=p) for p in ("float32", "bfloat16", "float32")]
    finally:
        done.set()
        thread.join()
    assert traces[0] == traces[2]
    assert traces[1].activations_bytes < traces[0].activations_bytes
    torch.testing.assert_close(outputs[0], expected)


def test_traces_keep_no_network_alive() -> None:
    network = unet(2)
    watch = weakref.ref(network)
    traced = trace_forward(network, (1, 1, 32, 32), precision="bfloat16")
    del network
    gc.collect()
    assert watch() is None
    assert traced.activations_bytes > 0


class Attends(torch.nn.Module):
    """Attention over pieces of the window, behind an operation that no trace follows."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        bright = windows.flatten().nonzero().numel()
        tokens = torch.nn.functional.avg_pool3d(windows, 4).flatten(2)
        weights = (tokens.transpose(1, 2) @ tokens * min(bright, 1)).softmax(-1)
        return windows + (weights @ tokens.transpose(1, 2)).mean()


def test_memory_that_grows_faster_than_the_window_is_told_apart_and_less_sure() -> None:
    network = Attends().eval()
    for side in (64, 96):
        traced = trace_forward(network, (2, 1, side, side, side))
        measured = measure_forward(network, (2, 1, side, side, side)).activations_bytes
        assert traced.is_scaled
        assert traced.error_fraction > 0.3
        assert traced.activations_bytes == pytest.approx(measured, rel=traced.error_fraction)


class Tokens(nn.Module):
    """Every voxel is a token."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        tokens = windows.flatten(2).transpose(1, 2).expand(-1, -1, 16).contiguous()
        return self.layer(tokens).mean(-1).view_as(windows)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


def allocated(network: nn.Module, windows: torch.Tensor) -> int:
    """What torch's allocator gives out for a pass of the engine, the input included."""
    with CpuDevice().running(Precision.FLOAT32):
        network(windows)
        peak = peak_of_allocations(lambda: network(windows))
    assert peak is not None
    return peak + windows.nbytes


@pytest.mark.parametrize("layer", [SelfAttention(), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)])
def test_the_engine_runs_attention_as_it_is_traced(layer: nn.Module) -> None:
    network, windows = Tokens(layer).eval(), torch.rand(2, 1, 48, 48)
    traced = trace_forward(network, tuple(windows.shape))
    assert traced.error_fraction == pytest.approx(0.01)
    assert allocated(network, windows) == pytest.approx(traced.activations_bytes, rel=0.3)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripts_run_whole_attention_layers() -> None:
    network, windows = torch.jit.script(Tokens(SelfAttention()).eval()), torch.rand(2, 1, 48, 48)
    traced = trace_forward(network, tuple(windows.shape))
    assert (traced.is_scaled, traced.error_fraction) == (False, 0.5)
    assert allocated(network, windows) == pytest.approx(traced.activations_bytes, rel=traced.error_fraction)


@functools.lru_cache
def kept_by_device(side: int, device: torch.device) -> torch.Tensor:
    return torch.ones(side, device=device)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_code_keeps_by_device_is_not_taken_for_real(precision: str) -> None:
    kept_by_device.cache_clear()
    network = Odd(lambda net, x: x * kept_by_device(x.shape[-1], x.device))
    trace_forward(network, (2, 1, 8, 8), precision=precision)
    assert torch.equal(network(torch.ones(2, 1, 8, 8)), torch.ones(2, 1, 8, 8))
