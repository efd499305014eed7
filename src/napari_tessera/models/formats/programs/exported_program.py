"""Programs of `torch.export`, .pt2 archives. Their shapes are JSON and read as data; opening them needs trust."""

from __future__ import annotations

import io
import logging
import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from zipfile import ZIP_STORED

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import load_json
from napari_tessera.engine.loop.several_outputs import Shapes, assumed_output, list_outputs, output_called
from napari_tessera.models.formats.base import Description, Risk
from napari_tessera.models.formats.programs.embedded import (
    EXTRA_FILE,
    Sizes,
    check_sizes,
    find_description,
    pick_output,
    read_extra,
)
from napari_tessera.models.formats.programs.stored_program import in_passes_of, remember_program
from napari_tessera.models.model import Model
from napari_tessera.models.networks.training_mode import iter_graph_operations, sentences_of
from napari_tessera.models.safety.archive import open_archive, read_entry
from napari_tessera.models.safety.contents import Content, expect
from napari_tessera.models.safety.tensors_only import reason_of_torch
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_tessera.models.networks.training_mode import Operation
    from napari_tessera.models.spec.model_file import Architecture

# The graph of a network of thousands of layers as JSON; more is no network.
MAX_JSON_BYTES = 50_000_000
# As torch writes sizes that may differ: a symbol, or a multiple of one.
SYMBOL = re.compile(r"Symbol\('(\w+)'")
MULTIPLE = re.compile(r"Mul\(Integer\((\d+)\), Symbol\('(\w+)'[^()]*\)\)")

# torch.export's numbers for half, float, double and bfloat16.
_FLOATING = frozenset((6, 7, 8, 13))


class _Size(NamedTuple):
    least: int
    step: int  # 0 where only the least is taken


@dataclass(frozen=True, slots=True)
class ExportedProgram:
    """Archives that `torch.export.save` wrote; *network_output*: the one to use of several, empty if nobody says."""

    name: ClassVar[str] = "exported program"
    network_output: str = ""

    def choosing(self, network_output: str) -> ExportedProgram:
        """Return the format of networks of which that output is used."""
        return ExportedProgram(network_output)

    def risk(self, path: Path) -> Risk | None:
        """Return that parts of such archives are pickles."""
        return Risk("opening it may run code from the file, with your rights", (path,))

    def describe(self, path: Path) -> Description:
        """Return what the description beside *path* or inside it says, else what its graph says of shapes."""
        content, text = _read(path)
        graph = _Graph.of(content, path)
        spec, _ = _spec(path, text, graph, self.network_output)
        return Description(spec, notes=graph.notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open *path*."""
        archive = trusted.of(path)
        content, text = _read(path, archive)
        graph = _Graph.of(content, path)
        spec, architecture = _spec(path, text, graph, self.network_output)
        return Model(_open(path, archive, graph, spec.network_output, architecture), spec, str(path))


FORMAT = ExportedProgram()


def open_exported(path: Path, archive: bytes, described: ModelSpec) -> tuple[torch.nn.Module, Sizes]:
    """Return the program *path*, whose content *archive* is trusted, and its sizes."""
    content, _ = _read(path, archive)
    graph = _Graph.of(content, path)
    name = graph.choose(path, described.network_output, described.out_channels)
    return _open(path, archive, graph, name), graph.told(name)


def _open(
    path: Path, archive: bytes, graph: _Graph, network_output: str, architecture: Architecture | None = None
) -> torch.nn.Module:
    log = _TorchLog()
    try:
        with log:
            program = torch.export.load(io.BytesIO(archive))
    except Exception as error:  # whatever a damaged archive makes of torch's reader
        raise ModelError(
            f"cannot open {path} as an exported program, it may be damaged or of another torch than "
            f"{torch.__version__} ({reason_of_torch(log.reason or error)}): export it again"
        ) from error
    batch = graph.sizes[0].least if graph.sizes[0].step == 0 else None
    network = _Exported(program.module(), batch, network_output)
    remember_program(network, "exported-program", lambda: nullcontext(path), path, architecture=architecture)
    return network


class _TorchLog(logging.Filter):
    """Keeps what torch writes to its log while it opens an archive, with tracebacks, from being shown."""

    def __init__(self) -> None:
        super().__init__()
        self.reason: BaseException | None = None
        self._loggers = [logging.getLogger(name) for name in ("torch.export", "torch.export.pt2_archive._package")]

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the error that is told of, which torch does not raise itself."""
        if record.exc_info and self.reason is None:
            self.reason = record.exc_info[1]
        return False

    def __enter__(self) -> None:
        for logger in self._loggers:
            logger.addFilter(self)

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.removeFilter(self)


class _Exported(torch.nn.Module):
    """The graph of an exported program, which knows no training and refuses to be asked about it."""

    def __init__(self, graph: torch.nn.Module, batch: int | None, network_output: str) -> None:
        super().__init__()
        for module in graph.modules():
            module.training = False
        self.graph = graph
        self.batch = batch
        self.network_output = network_output
        self.training = False

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the program's output for *windows*, (B, C, *window)."""
        return in_passes_of(self.batch, self._run, windows)

    def iter_operations(self) -> Iterator[Operation]:
        """Yield the program's operations."""
        return iter_graph_operations(self.graph)

    def _run(self, windows: torch.Tensor) -> torch.Tensor:
        return output_called(self.network_output, self.graph(windows))


def _read(path: Path, content: bytes | None = None) -> tuple[dict[str, Any], bytes]:
    """Return the graph of the archive *path*, whose *content* may be read already, and the description inside."""
    expect(path, Content.EXPORTED, "save it with torch.export.save")
    with open_archive(path, content) as archive:
        graph = next((name for name in archive.namelist() if name.endswith("/models/model.json")), None)
        if graph is None:
            raise ModelError(
                f"{path} holds no models/model.json, as what torch wrote before 2.8: export it again with a newer torch"
            )
        if archive.getinfo(graph).compress_type != ZIP_STORED:
            raise ModelError(f"the graph in {path} is compressed, which torch.export.save never does: export again")
        text = read_entry(archive, graph, label=f"the graph in {path}", limit=MAX_JSON_BYTES)
        extra = read_extra(archive, path)
    try:
        return load_json(text), extra
    except ValueError as error:
        raise ModelError(
            f"cannot open {path} as an exported program, the file may be cut short ({error}): get it again"
        ) from error


def _iter_operations(graph: dict[str, Any]) -> Iterator[Operation]:
    """Yield the operations of a graph as JSON, whose names are such as ``torch.ops.aten.dropout.default``."""
    for node in graph["nodes"]:
        numbers = {given["name"]: next(iter(given["arg"].values()), None) for given in node["inputs"]}
        yield "".join(node["target"].removeprefix("torch.ops.").split(".")[1:2]), numbers


@dataclass(frozen=True, slots=True)
class _Graph:
    """The sizes that the program's only input may have, its window as exported, and the shapes of its outputs then.

    *notes* say how it works as in training.
    """

    sizes: tuple[_Size, ...]
    window: tuple[int, ...]
    outputs: Shapes
    notes: tuple[str, ...]

    @classmethod
    def of(cls, content: dict[str, Any], path: Path) -> _Graph:
        try:
            graph = content["graph_module"]["graph"]
            specs = content["graph_module"]["signature"]["input_specs"]
            inputs = [spec["user_input"]["arg"]["as_tensor"]["name"] for spec in specs if "user_input" in spec]
            if len(inputs) != 1:
                raise ModelError(f"{path} takes {len(inputs)} inputs, but Tessera gives one: windows of an image")
            ranges = content.get("range_constraints", {})
            given = graph["tensor_values"][inputs[0]]["sizes"]
            sizes = tuple(_size(size, ranges) for size in given)
            names = _names_of_outputs(content["graph_module"]["module_call_graph"][0]["signature"]["out_spec"])
            found = [graph["tensor_values"].get(one.get("as_tensor", {}).get("name")) for one in graph["outputs"]]
            tensors = {name: tensor for name, tensor in zip(names, found, strict=True) if tensor is not None}
            scores = {name: tensor for name, tensor in tensors.items() if tensor["dtype"] in _FLOATING}
            shapes = {name: tuple(map(_exported_size, tensor["sizes"])) for name, tensor in (scores or tensors).items()}
            window = tuple(map(_exported_size, given))[2:]
            notes = sentences_of(_iter_operations(graph))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"the graph in {path} does not say what shapes it takes and gives ({error!r}): export it again"
            ) from error
        if len(sizes) not in (4, 5):
            raise ModelError(
                f"{path} takes an input of {len(sizes)} axes, but Tessera gives (windows, channels, y, x) or "
                f"(windows, channels, z, y, x)"
            )
        images = {name: shape for name, shape in shapes.items() if len(shape) == len(sizes)}
        if not images:
            raise ModelError(f"{path} gives {list_outputs(shapes)}, but no image: export the network with its scores")
        return cls(sizes, window, images, notes)

    def choose(self, path: Path, name: str, out_channels: int | None) -> str:
        """Return the name of the output to use: *name*, or the one that is it for sure."""
        return pick_output(path, self.outputs, name, out_channels=out_channels, window=self.window)

    def told(self, name: str) -> Sizes:
        return len(self.window), self.sizes[1].least, self.outputs[name][1]


def _names_of_outputs(out_spec: str) -> list[str]:
    """Return names as `name_outputs` gives them, from the structure of a program's outputs as JSON."""

    def iter_names(node: dict[str, Any], name: str) -> Iterator[str]:
        if node["type"] is None:
            yield name
            return
        children = node["children_spec"]
        keys = load_json(node["context"]) if node["type"].endswith("dict") else range(len(children))
        for key, child in zip(keys, children, strict=True):
            yield from iter_names(child, f"{name}.{key}" if name else str(key))

    return list(iter_names(load_json(out_spec)[1], ""))


def _exported_size(size: dict[str, Any]) -> int:
    return int(size["as_int"] if "as_int" in size else size["as_expr"]["hint"]["as_int"])


def _size(size: dict[str, Any], ranges: dict[str, Any]) -> _Size:
    if "as_int" in size:
        return _Size(int(size["as_int"]), 0)
    text = size["as_expr"]["expr_str"]
    multiple, symbol = MULTIPLE.fullmatch(text), SYMBOL.match(text)
    if multiple:
        step, name = int(multiple[1]), f"{multiple[1]}*{multiple[2]}"
    elif symbol:
        step, name = 1, symbol[1]
    else:
        raise ValueError(f"a side of {text}")
    least = ranges.get(name, {}).get("min_val") or step
    return _Size(-(-max(int(least), step) // step) * step, step)


def _spec(path: Path, text: bytes, graph: _Graph, network_output: str) -> tuple[ModelSpec, Architecture | None]:
    """Return the description, and the class that it names; *network_output*: which of several, if somebody says."""
    sides = graph.sizes[2:]
    if described := find_description(path, text, f"{EXTRA_FILE} inside {path}"):
        spec = described.spec
        name = graph.choose(path, network_output or spec.network_output, spec.out_channels)
        return replace(check_sizes(path, spec, graph.told(name)), network_output=name), described.architecture
    name = graph.choose(path, network_output, None)
    free = WindowRule.free(len(sides)).default
    default = tuple(
        side.least if side.step == 0 else max(wanted // side.step * side.step, side.least)
        for side, wanted in zip(sides, free, strict=True)
    )
    rule = WindowRule(default, tuple(side.step for side in sides), tuple(side.least for side in sides))
    assumed = assume("normalisation", "activation", "output")
    if len(graph.outputs) > 1 and not network_output:
        assumed = (assumed_output(name, graph.outputs), *assumed)
    spec = ModelSpec(path.stem, *graph.told(name), rule)
    return replace(spec, assumed=assumed, network_output=name), None
