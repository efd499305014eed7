"""ONNX graphs, run by onnxruntime. They hold no code of their own, so no trust is needed."""

from __future__ import annotations

import re
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec as find_library
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_tessera.errors import ModelError, first_line, lacks_memory
from napari_tessera.models.assumed import assume
from napari_tessera.models.formats.base import Description, Risk
from napari_tessera.models.formats.embedded import check_told, find_spec
from napari_tessera.models.formats.onnx_graph import ITEM_BYTES, OnnxShapes, check_external, external_files, walk_graphs
from napari_tessera.models.formats.onnx_reader import iter_values, read_skeleton
from napari_tessera.models.formats.passes import in_passes_of
from napari_tessera.models.formats.stored_program import remember_program
from napari_tessera.models.model import Model
from napari_tessera.models.spec import ModelSpec, WindowRule
from napari_tessera.models.trust import NO_FILES, TrustedFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FORMAT", "Onnx", "OnnxNetwork", "open_onnx", "read_whole_graph"]

# A description may travel in the file's metadata under this key, or lie beside it as <stem>.yaml.
METADATA_KEY = "tessera.yaml"
INSTALL = "install it with: pip install 'napari-tessera[onnx]'"
# Where in its source onnxruntime stood.
SOURCE_PLACE = re.compile(r"\S*\.(?:cc|cpp|cu|cuh|h|hpp):\d+ ?")
MOST_LETTERS = 200
# onnx.TensorProto's FLOAT, FLOAT16 and DOUBLE.
FLOATING_POINT = {1: np.float32, 10: np.float16, 11: np.float64}


class Onnx:
    """Files that exporters such as `torch.onnx.export` write."""

    name = "ONNX graph"

    def risk(self, path: Path) -> Risk | None:
        """Return None: a graph of standard operators, and no library of others is ever registered."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the description beside *path* or inside it says, else what the graph says of shapes."""
        graph = read_graph(path)
        return Description(_spec(path, graph, OnnxShapes.of(graph, path)))

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open *path*.

        Raises
        ------
        ModelError
            If onnx or onnxruntime is not installed, the file cannot be read, names files outside its folder, or takes
            anything but one tensor of windows.
        """
        graph = read_graph(path)
        shapes = OnnxShapes.of(graph, path)
        spec = _spec(path, graph, shapes)
        return Model(_open(path, graph, shapes), spec, str(path))


FORMAT = Onnx()


def open_onnx(path: Path) -> tuple[OnnxNetwork, set[str]]:
    """Return the graph *path* as a network, and the names of the files beside it that it takes weights from.

    Raises
    ------
    ModelError
        As `Onnx.load` does.
    """
    graph = read_graph(path)
    names = external_files(graph)
    return _open(path, graph, OnnxShapes.of(graph, path)), names


def _open(path: Path, graph: Any, shapes: OnnxShapes) -> OnnxNetwork:
    data = [path.parent / name for name in external_files(graph)]
    network = OnnxNetwork(path, graph, shapes)
    remember_program(network, "onnx", lambda: nullcontext(path), path, *data)
    return network


class OnnxNetwork(torch.nn.Module):
    """A graph as a network: windows, (B, C, *window), in, the graph's first output out, on the device of the windows.

    Parameters
    ----------
    path
        The file; sessions of onnxruntime, one for each device, are opened from it when they are first needed.
    graph, shapes
        What was read from it; read now if None.

    Notes
    -----
    onnxruntime's memory is not torch's. For an input without data, as a plan traces networks with, every tensor that
    the graph makes is allocated, and given back once nothing needs it any more: what a pass takes is then an estimate
    of the graph as written, which onnxruntime may undercut by fusing and by working in place.
    """

    memory_error = 0.3

    def __init__(self, path: Path, graph: Any = None, shapes: OnnxShapes | None = None) -> None:
        super().__init__()
        self._path = path
        self._graph = read_graph(path) if graph is None else graph
        self.shapes = OnnxShapes.of(self._graph, path) if shapes is None else shapes
        self._sessions: dict[torch.device, Any] = {}
        # Counts as weights in a plan, and moves nowhere: onnxruntime has the values.
        size = _weights_bytes(self._graph)
        self.register_buffer("weights", torch.empty(size, dtype=torch.uint8, device="meta"), persistent=False)
        self.training = False

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> OnnxNetwork:
        """Leave everything where it is: a session is opened on the device of the windows."""
        return self

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the graph's first output, float32."""
        if _has_no_data(windows):
            return self.shapes.replay(self._graph, windows)
        return in_passes_of(self.shapes.batch, self._run, windows)

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
                (output,) = session.run([self.shapes.output], {self.shapes.input: windows.numpy(force=True)})
            except Exception as error:  # onnxruntime has a class of its own for each kind
                if lacks_memory(error):
                    raise MemoryError(_reason(error)) from error
                raise ModelError(
                    f"onnxruntime cannot run {self._path} on windows of shape {tuple(windows.shape)}: {_reason(error)}"
                ) from error
            return torch.from_numpy(output).to(windows.device)
        shape = self.shapes.output_shape(self._graph, tuple(windows.shape))
        output = torch.empty(shape, dtype=torch.float32, device=windows.device)
        torch.cuda.current_stream(windows.device).synchronize()  # onnxruntime has a stream of its own
        binding = session.io_binding()
        where = ("cuda", windows.device.index or 0)
        binding.bind_input(self.shapes.input, *where, "float32", tuple(windows.shape), windows.data_ptr())
        binding.bind_output(self.shapes.output, *where, "float32", shape, output.data_ptr())
        session.run_with_iobinding(binding)
        return output

    def _session(self, device: torch.device) -> Any:
        if device not in self._sessions:
            self._sessions[device] = _open_session(self._path, device)
        return self._sessions[device]

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        """Return a network of the same file; sessions are not shared."""
        return OnnxNetwork(self._path, self._graph, self.shapes)


def _open_session(path: Path, device: torch.device) -> Any:
    runtime = _library("onnxruntime")
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
    return windows.data_ptr() == 0


def _library(name: str, *, needed_now: bool = True) -> Any:
    """Return a library; None where it is there but not *needed_now*, as importing takes a while."""
    try:
        if needed_now:
            return import_module(name)
        if find_library(name) is None:
            raise ImportError(name)
    except (ImportError, ValueError) as error:  # ValueError: it is marked as not to be had
        raise ModelError(f"ONNX graphs need the library {name}, which is not there: {INSTALL}") from error
    return None


def _reason(error: Exception) -> str:
    """Return what onnxruntime says, without its codes and the places in its source."""
    text = " ".join(str(error).split())
    before, place, after = text.rpartition(found[-1]) if (found := SOURCE_PLACE.findall(text)) else ("", "", text)
    said = after.rpartition(") ")[2] if place else after
    return (said or before).rpartition(" : ")[2].strip()[:MOST_LETTERS] or type(error).__name__


def read_whole_graph(path: Path) -> Any:
    """Return the graph at *path* with the values that lie in the file itself, checked as `read_graph` does."""
    read_graph(path)
    return _library("onnx").load(str(path), load_external_data=False)


def read_graph(path: Path) -> Any:
    """Return the graph at *path* without the values of its weights; what lies in other files is checked to be there."""
    onnx = _library("onnx")
    _library("onnxruntime", needed_now=False)
    content = read_skeleton(path)
    try:
        graph = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf has a class of its own for each kind
        raise ModelError(
            f"cannot read {path} as ONNX, it may be damaged ({first_line(error)}): get it again"
        ) from error
    if not graph.graph.node or not graph.graph.output or not graph.opset_import:
        raise ModelError(f"{path} holds no graph: it may be cut short, or no ONNX file")
    check_external(graph, path)
    return graph


def _weights_bytes(model: Any) -> int:
    """Return the bytes of all weights; those of less than a byte count as one."""
    tensors = (tensor for graph in walk_graphs(model) for tensor in graph.initializer)
    return sum(max(prod(tensor.dims), 0) * ITEM_BYTES.get(tensor.data_type, 1) for tensor in tensors)


def _spec(path: Path, model: Any, shapes: OnnxShapes) -> ModelSpec:
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), "")
    if described := find_spec(path, text, f"the metadata '{METADATA_KEY}' in {path}"):
        return check_told(
            path,
            described,
            spatial_dims=len(shapes.window),
            in_channels=shapes.in_channels,
            out_channels=shapes.out_channels,
        )
    free = WindowRule.free(len(shapes.window))
    sides = tuple(side or default for side, default in zip(shapes.window, free.default, strict=True))
    steps = tuple(0 if side else 1 for side in shapes.window)
    rule = WindowRule(sides, steps, tuple(side or 1 for side in shapes.window))
    assumed = assume("normalisation", "activation", "output")
    return ModelSpec(path.stem, len(sides), shapes.in_channels, shapes.out_channels, rule, assumed=assumed)
