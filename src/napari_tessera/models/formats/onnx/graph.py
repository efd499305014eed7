"""What an ONNX graph says of its tensors without running it: shapes, files beside it, how long each one lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.fixed_batch import in_passes_of
from napari_tessera.models.safety.archive import is_file

if TYPE_CHECKING:
    import torch

    from napari_tessera.models.networks.training_mode import Operation

# onnx.TensorProto.FLOAT
FLOAT = 1
# Bytes of one number, by onnx.TensorProto.DataType; those of less than a byte are packed and not in here.
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
# Of a size in a file.
MOST_DIGITS = 20


def walk_graphs(model: Any) -> Iterator[Any]:
    """Yield the graph of *model* and those that branches and loops of it hold."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [
            inner for node in graph.node for each in node.attribute for inner in (each.g, *each.graphs) if inner.node
        ]


def iter_operations(model: Any) -> Iterator[Operation]:
    """Yield the operations of *model*, and whether they train; onnxruntime drops nothing, whatever a dropout says."""
    for graph in walk_graphs(model):
        for node in graph.node:
            yield node.op_type, {each.name: each.i for each in node.attribute if each.name == "training_mode"}


def external_files(model: Any) -> set[str]:
    """Return the names of the files that *model* takes tensors from, as they stand in it."""
    return {entry.value for entry in _iter_locations(model)}


def rename_external_files(model: Any, names: Mapping[str, str]) -> None:
    """Have *model* take its tensors from the files *names*, by the names that stood in it."""
    for entry in _iter_locations(model):
        entry.value = names[entry.value]


def _iter_locations(model: Any) -> Iterator[Any]:
    """Yield the entry, of each tensor that lies in another file, that names the file."""
    for tensor in _external_tensors(model):
        yield from (entry for entry in tensor.external_data if entry.key == "location")


def check_external(model: Any, path: Path) -> None:
    """Check that all that *model*, which is the file *path*, takes from other files is there, in its folder."""
    for tensor in _external_tensors(model):
        _check_tensor(path, tensor)


def _external_tensors(model: Any) -> list[Any]:
    external = 1  # onnx.TensorProto.EXTERNAL
    tensors = [tensor for graph in walk_graphs(model) for tensor in graph.initializer]
    for graph in walk_graphs(model):
        tensors += [part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)]
        tensors += [held for node in graph.node for each in node.attribute for held in (each.t, *each.tensors)]
    for function in model.functions:
        tensors += [held for node in function.node for each in node.attribute for held in (each.t, *each.tensors)]
    return [tensor for tensor in tensors if tensor.data_location == external]


def _check_tensor(path: Path, tensor: Any) -> None:
    """Raise unless *tensor*, whose values are in another file, lies within one beside *path*."""
    told = Counter(entry.key for entry in tensor.external_data)
    twice = [key for key, times in told.items() if times > 1]
    if twice:
        raise ModelError(f"{path} says twice of '{tensor.name[:80]}' what its {twice[0][:80]} is: that is refused")
    said = {entry.key: entry.value for entry in tensor.external_data}
    name = said.get("location", "")
    size = _size_beside(path, name)
    numbers = {key: said.get(key) or "0" for key in ("offset", "length")}
    if not all(value.isascii() and value.isdecimal() and len(value) <= MOST_DIGITS for value in numbers.values()):
        raise ModelError(f"{path} says of '{tensor.name[:80]}' that it lies at {str(numbers)[:80]}, which are no sizes")
    offset, length = int(numbers["offset"]), int(numbers["length"])
    wanted = prod(tensor.dims) * ITEM_BYTES.get(tensor.data_type, 0)
    if length and length < wanted:
        raise ModelError(f"{path} says that '{tensor.name[:80]}' has {length} bytes, but its shape needs {wanted}")
    if offset + max(length, wanted) > size:
        raise ModelError(
            f"{path} takes '{tensor.name[:80]}' from byte {offset} to {offset + max(length, wanted)} of '{name}', but "
            f"that has {size} bytes, so it was cut short or is another file: copy or download it again"
        )


def _size_beside(path: Path, name: str) -> int:
    """Return the size of the file *name* that *path* takes weights from; raise unless it lies in its folder."""
    folder = path.parent.resolve()
    # A backslash parts folders on Windows alone; no exporter writes one.
    inside = "\\" not in name and not PurePosixPath(name).is_absolute()
    if not name or not inside or "\0" in name or not (folder / name).resolve().is_relative_to(folder):
        raise ModelError(f"{path} takes weights from {name[:200]!r}, which is not in its folder: that is refused")
    if not is_file(folder / name):
        raise ModelError(f"{path} takes weights from '{name[:200]}', which is missing: put it beside the file")
    return (folder / name).stat().st_size


@dataclass(frozen=True, slots=True)
class OnnxPorts:
    """What goes into a graph and comes out of it.

    Parameters
    ----------
    input, output
        Names of the only input, and of the output that is used.
    dims
        Of the input; None where any size goes.
    outputs
        Names of all outputs of floating-point numbers.
    batch
        Windows per pass, where they are the first axis; None: any number.
    """

    input: str
    output: str
    dims: tuple[int | None, ...]
    outputs: tuple[str, ...]
    batch: int | None

    @classmethod
    def of(cls, model: Any, path: Path) -> OnnxPorts:
        """Return those of *model*, which was read from *path*; the first output is used."""
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        if len(inputs) != 1:
            raise ModelError(f"{path} takes {len(inputs)} inputs, but Tessera gives one: windows of an image")
        first = inputs[0]
        outputs = tuple(each.name for each in model.graph.output if each.type.tensor_type.elem_type == FLOAT)
        if first.type.tensor_type.elem_type != FLOAT or not outputs:
            raise ModelError(
                f"{path} takes or gives other numbers than float32: export it with float32 input and output"
            )
        dims = dims_of(first)
        return cls(first.name, outputs[0], dims, outputs, dims[0] if dims else None)

    def inferred(self, model: Any, shape: tuple[int, ...]) -> Any:
        """Return *model* with the shape of every tensor that follows from an input of *shape*."""
        import onnx
        from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        given = next(value for value in copy.graph.input if value.name == self.input)
        for dim, size in zip(given.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
        del copy.graph.value_info[:]  # as exported: they hold for another input
        for value in copy.graph.output:
            value.type.tensor_type.ClearField("shape")
        try:
            # onnx's own inference does not follow sizes that the graph computes, such as those of paddings.
            inferred = SymbolicShapeInference.infer_shapes(copy, auto_merge=True)
        except Exception as error:  # whatever a rule of it stumbles over
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ModelError(f"the graph does not take an input of shape {shape}: {reason}") from error
        unknown = {name for node in inferred.graph.node for name in node.output if name} - _known(inferred).keys()
        if unknown:
            raise ModelError(
                f"the graph does not take an input of shape {shape}, or makes tensors of a size that depends on their "
                f"values: {', '.join(sorted(unknown)[:3])}"
            )
        return inferred

    def output_shapes(self, model: Any, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all outputs for an input of *shape*, by name."""
        known = _known(self.inferred(model, shape))
        return {name: known[name] for name in self.outputs}

    def replay(self, model: Any, windows: torch.Tensor) -> torch.Tensor:
        """Allocate what the graph would, in its order, on the device of *windows*, which hold no data.

        Every output of a node lives until its last use; initialisers are weights and not counted here.
        """
        size = self.batch or windows.shape[0]
        inferred = self.inferred(model, (size, *windows.shape[1:]))
        shapes, graph = _known(inferred), inferred.graph

        def allocate(part: torch.Tensor) -> torch.Tensor:
            uses = Counter(name for node in graph.node for name in node.input)
            alive: dict[str, torch.Tensor] = {}
            for node in graph.node:
                alive |= {name: part.new_empty(shapes[name]) for name in node.output if name}
                for name in node.input:
                    uses[name] -= 1
                    if uses[name] == 0 and name != self.output:
                        alive.pop(name, None)
            return alive[self.output]

        return in_passes_of(self.batch, allocate, windows)


def dims_of(value: Any) -> tuple[int | None, ...]:
    """Return the sizes of a graph's input, output or tensor; None where one may be any."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims)


def _known(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors that are numbers throughout, by name; a tensor that is one number has none."""
    values = [value for value in (*model.graph.value_info, *model.graph.output) if value.type.HasField("tensor_type")]
    found = {value.name: dims_of(value) for value in values if value.type.tensor_type.HasField("shape")}
    return {name: dims for name, dims in found.items() if None not in dims}  # type: ignore[misc]
