"""ONNX graphs, run by onnxruntime. They hold no code of their own, so no trust is needed."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from napari_tessera.core.errors import ModelError, lacks_memory
from napari_tessera.models.formats.base import Description, Risk
from napari_tessera.models.formats.onnx.graph import (
    ITEM_BYTES,
    external_files,
    iter_operations,
    iter_values,
    library,
    read_graph,
    walk_graphs,
)
from napari_tessera.models.formats.onnx.layout import OnnxLayout, OnnxPorts, read_layout
from napari_tessera.models.formats.programs.embedded import Sizes, check_sizes, find_spec
from napari_tessera.models.formats.programs.stored_program import in_passes_of, remember_program
from napari_tessera.models.model import Model
from napari_tessera.models.networks.adapters import AxesInOrder
from napari_tessera.models.networks.training_mode import sentences_of
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_tessera.models.networks.training_mode import Operation

# A description may travel in the file's metadata under this key, or lie beside it as <stem>.yaml.
METADATA_KEY = "tessera.yaml"
# Where in its source onnxruntime stood.
SOURCE_PLACE = re.compile(r"\S*\.(?:cc|cpp|cu|cuh|h|hpp):\d+ ?")
MOST_LETTERS = 200
_UNSAID = ("normalisation", "activation", "output")
# onnx.TensorProto's FLOAT, FLOAT16 and DOUBLE.
FLOATING_POINT = {1: np.float32, 10: np.float16, 11: np.float64}


@dataclass(frozen=True, slots=True)
class Onnx:
    """Files that exporters such as `torch.onnx.export` write; *network_output*: which of several, empty if open."""

    name: ClassVar[str] = "ONNX graph"
    network_output: str = ""

    def choosing(self, network_output: str) -> Onnx:
        """Return the format of networks of which that output is used."""
        return Onnx(network_output)

    def risk(self, path: Path) -> Risk | None:
        """Return None: a graph of standard operators, and no library of others is ever registered."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the description beside *path* or inside it says, else what the graph says of shapes."""
        graph = read_graph(path)
        spec, _ = _describe(path, graph, self.network_output)
        return Description(spec, notes=sentences_of(iter_operations(graph)))

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open *path*."""
        graph = read_graph(path)
        spec, layout = _describe(path, graph, self.network_output)
        network: torch.nn.Module = _open(path, graph, layout.ports)
        if not layout.is_plain:
            network = AxesInOrder(network, layout.axes_in, layout.axes_out, dtype=torch.float32)
        return Model(network, spec, str(path))


FORMAT = Onnx()


def open_onnx(path: Path, described: ModelSpec, *, is_adapted: bool) -> tuple[OnnxNetwork, Sizes | None, set[str]]:
    """Return the graph *path* as a network, its sizes, and the names of the files with its weights.

    *is_adapted*: something stands around it, so that its axes are not those of the model and tell no sizes.
    """
    graph = read_graph(path)
    names = external_files(graph)
    if is_adapted:
        ports = OnnxPorts.of(graph, path)
        wanted = described.network_output or ports.output
        if wanted not in ports.outputs:
            raise ModelError(f"{path} has no output '{wanted}': it gives {', '.join(ports.outputs)}")
        return _open(path, graph, replace(ports, output=wanted)), None, names
    layout = read_layout(graph, path, described, described.network_output)
    if not layout.is_plain:
        raise ModelError(
            f"{path} has the axes {layout.axes_in} in and {layout.axes_out} out: say so under 'around' in its "
            f"description (docs/models/onnx.md)"
        )
    return _open(path, graph, layout.ports), layout.sizes, names


def _open(path: Path, graph: Any, ports: OnnxPorts) -> OnnxNetwork:
    data = [path.parent / name for name in external_files(graph)]
    network = OnnxNetwork(path, graph, ports)
    remember_program(network, "onnx", lambda: nullcontext(path), path, *data)
    return network


class OnnxNetwork(torch.nn.Module):
    """A graph as a network: windows, (B, C, *window), in, one of the graph's outputs out, on the device of the windows.

    Sessions of onnxruntime, one for each device, are opened from the file *path* when they are first needed.

    onnxruntime's memory is not torch's. For an input without data, as a plan traces networks with, every tensor that
    the graph makes is allocated, and given back once nothing needs it any more: what a pass takes is then an estimate
    of the graph as written, which onnxruntime may undercut by fusing and by working in place.
    """

    memory_error = 0.3

    def __init__(self, path: Path, graph: Any = None, ports: OnnxPorts | None = None) -> None:
        super().__init__()
        self._path = path
        self._graph = read_graph(path) if graph is None else graph
        self.ports = OnnxPorts.of(self._graph, path) if ports is None else ports
        self._sessions: dict[torch.device, Any] = {}
        # Counts as weights in a plan, and moves nowhere: onnxruntime has the values.
        size = _weights_bytes(self._graph)
        self.register_buffer("weights", torch.empty(size, dtype=torch.uint8, device="meta"), persistent=False)
        self.network_output = self.ports.output if len(self.ports.outputs) > 1 else ""
        self.training = False

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> OnnxNetwork:
        """Leave everything where it is: a session is opened on the device of the windows."""
        return self

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the graph's output, float32."""
        if _has_no_data(windows):
            return self.ports.replay(self._graph, windows)
        return in_passes_of(self.ports.batch, self._run, windows)

    def iter_operations(self) -> Iterator[Operation]:
        """Yield the graph's operations."""
        return iter_operations(self._graph)

    def iter_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the weights that are in the file itself and of floating point, by name, one after another."""
        for name, kind, values in iter_values(self._path):
            if kind in FLOATING_POINT:
                yield name, torch.from_numpy(np.frombuffer(bytearray(values), FLOATING_POINT[kind]))

    def _run(self, windows: torch.Tensor) -> torch.Tensor:
        windows = windows.contiguous()
        session = self._session(windows.device)
        if windows.device.type != "cuda":
            try:
                (output,) = session.run([self.ports.output], {self.ports.input: windows.numpy(force=True)})
            except Exception as error:  # onnxruntime has a class of its own for each kind
                if lacks_memory(error):
                    raise MemoryError(_reason(error)) from error
                raise ModelError(
                    f"onnxruntime cannot run {self._path} on windows of shape {tuple(windows.shape)}: {_reason(error)}"
                ) from error
            return torch.from_numpy(output).to(windows.device)
        shape = self.ports.output_shapes(self._graph, tuple(windows.shape))[self.ports.output]
        output = torch.empty(shape, dtype=torch.float32, device=windows.device)
        torch.cuda.current_stream(windows.device).synchronize()  # onnxruntime has a stream of its own
        binding = session.io_binding()
        where = ("cuda", windows.device.index or 0)
        binding.bind_input(self.ports.input, *where, "float32", tuple(windows.shape), windows.data_ptr())
        binding.bind_output(self.ports.output, *where, "float32", shape, output.data_ptr())
        session.run_with_iobinding(binding)
        return output

    def _session(self, device: torch.device) -> Any:
        if device not in self._sessions:
            self._sessions[device] = _open_session(self._path, device)
        return self._sessions[device]

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        """Return a network of the same file; sessions are not shared."""
        return OnnxNetwork(self._path, self._graph, self.ports)


def _open_session(path: Path, device: torch.device) -> Any:
    runtime = library("onnxruntime")
    wanted: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ModelError(
                "this onnxruntime cannot use CUDA: install onnxruntime-gpu in its place, or choose device cpu"
            )
        wanted.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors, which are raised anyway
    try:
        return runtime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # onnxruntime has a class of its own for each kind
        if lacks_memory(error):
            raise MemoryError(_reason(error)) from error
        raise ModelError(f"onnxruntime cannot run {path}: {_reason(error)}") from error


def _has_no_data(windows: torch.Tensor) -> bool:
    # A view of such a tensor has an address all the same: how far it lies behind the first number.
    return windows.data_ptr() == windows.storage_offset() * windows.element_size()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    before, place, after = text.rpartition(found[-1]) if (found := SOURCE_PLACE.findall(text)) else ("", "", text)
    said = after.rpartition(") ")[2] if place else after
    return (said or before).rpartition(" : ")[2].strip()[:MOST_LETTERS] or type(error).__name__


def _weights_bytes(model: Any) -> int:
    """Return the bytes of all weights; those of less than a byte count as one."""
    tensors = (tensor for graph in walk_graphs(model) for tensor in graph.initializer)
    return sum(max(prod(tensor.dims), 0) * ITEM_BYTES.get(tensor.data_type, 1) for tensor in tensors)


def _describe(path: Path, model: Any, network_output: str) -> tuple[ModelSpec, OnnxLayout]:
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), "")
    described = find_spec(path, text, f"the metadata '{METADATA_KEY}' in {path}")
    said = network_output or ("" if described is None else described.network_output)
    layout = read_layout(model, path, described, said)
    found = _undescribed(path, layout)
    if described is None:
        return replace(found, assumed=(*(() if network_output else found.assumed), *assume(*_UNSAID))), layout
    told = check_sizes(path, described, layout.sizes)
    return replace(told, network_output=found.network_output, assumed=(*layout.assumed, *told.assumed)), layout


def _undescribed(path: Path, layout: OnnxLayout) -> ModelSpec:
    sides = layout.window
    free = WindowRule.free(len(sides))
    default = tuple(side or other for side, other in zip(sides, free.default, strict=True))
    rule = WindowRule(default, tuple(0 if side else 1 for side in sides), tuple(side or 1 for side in sides))
    spec = ModelSpec(path.stem, *layout.sizes, rule)
    chosen = layout.ports.output if len(layout.ports.outputs) > 1 else ""
    return replace(spec, network_output=chosen, assumed=layout.assumed)
