"""Which axis of an ONNX graph's tensors is which, and which output is used: as the graph shows, by sizes, or asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.loop.several_outputs import Shapes, assumed_output
from napari_tessera.models.formats.programs.embedded import Sizes, pick_output
from napari_tessera.models.formats.programs.stored_program import in_passes_of
from napari_tessera.models.spec.spec import WindowRule

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from napari_tessera.models.spec.spec import ModelSpec

# onnx.TensorProto.FLOAT
FLOAT = 1
# Operators that have batch and channels first, as the standard says.
_CHANNELS_FIRST = frozenset(
    (
        *("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool", "GlobalMaxPool"),
        *("GlobalAveragePool", "BatchNormalization", "InstanceNormalization", "GroupNormalization"),
        *("DepthToSpace", "SpaceToDepth"),
    )
)
# And those that leave axes where they are.
_KEEPING = frozenset(
    (
        *("Abs", "Add", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Dropout", "Elu", "Erf", "Exp", "Gelu"),
        *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "LogSoftmax", "Max", "Mean", "Min", "Mul", "Neg"),
        *("PRelu", "Pad", "Pow", "QuantizeLinear", "Relu", "Resize", "Selu", "Sigmoid", "Softmax", "Softplus", "Sqrt"),
        *("Slice", "Sub", "Sum", "Tanh", "Upsample", "Where"),
    )
)


@dataclass(frozen=True, slots=True)
class OnnxPorts:
    """What goes into a graph and comes out of it: names of the only input, and of the output that is used."""

    input: str
    output: str
    dims: tuple[int | None, ...]  # of the input; None where any size goes
    outputs: tuple[str, ...]  # names of all of floating-point numbers
    batch: int | None  # windows per pass, where they are the first axis; None: any number

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


@dataclass(frozen=True, slots=True)
class OnnxLayout:
    """What a graph's tensors are."""

    ports: OnnxPorts
    axes_in: str  # a letter for each axis: b, c, z, y, x
    axes_out: str
    in_channels: int
    out_channels: int
    window: tuple[int | None, ...]  # voxels per axis in image order; None where any side goes
    assumed: tuple[str, ...]  # what the graph does not show

    @property
    def sizes(self) -> Sizes:
        """Its spatial dimensions, input and output channels."""
        return len(self.window), self.in_channels, self.out_channels

    @property
    def is_plain(self) -> bool:
        """Whether both tensors have the axes of Tessera's."""
        return self.axes_in == self.axes_out == _plain(len(self.axes_in))


def read_layout(model: Any, path: Path, described: ModelSpec | None, network_output: str) -> OnnxLayout:
    """Return the layout of *model*, which was read from *path*."""
    ports = OnnxPorts.of(model, path)
    dims = ports.dims
    if len(dims) not in (4, 5):
        raise ModelError(
            f"{path} takes an input of shape {dims}, but it must be (windows, channels, y, x) or (windows, channels, "
            f"z, y, x), or have its channels last"
        )
    axes = _axes_of_input(model, ports)
    is_shown, assumed = bool(axes), tuple[str, ...]()
    if not is_shown:
        axes = _axes_by_size(path, dims, described)
        assumed = (f"axes are {axes}, by the sizes of the input {dims}, as the graph does not show them",)
    in_channels = dims[axes.index("c")]
    if in_channels is None:
        raise ModelError(f"{path} does not say how many channels it takes: export it with a fixed number of them")
    window = tuple(dims[axes.index(letter)] for letter in _plain(len(dims))[2:])
    shown = {name: _axes_of_output(model, name, len(dims)) for name in ports.outputs}
    outputs = {name: order or axes for name, order in shown.items()}
    shapes = _output_shapes(model, path, ports, axes, outputs, window)
    channels = None if described is None else described.out_channels
    name = pick_output(path, shapes, network_output, out_channels=channels, window=_sides(window))
    if not network_output and len(shapes) > 1 and described is None:
        assumed += (assumed_output(name, shapes),)
    if is_shown and not shown[name]:
        assumed += (f"axes of the output are {axes}, as those of the input, as the graph does not show them",)
    return OnnxLayout(replace(ports, output=name), axes, outputs[name], in_channels, shapes[name][1], window, assumed)


def _plain(rank: int) -> str:
    return "bc" + "zyx"[2 - rank :]


def _sides(window: Sequence[int | None]) -> tuple[int, ...]:
    """Return a window that a common network takes."""
    return tuple(side or free for side, free in zip(window, WindowRule.free(len(window)).default, strict=True))


def _output_shapes(
    model: Any,
    path: Path,
    ports: OnnxPorts,
    axes: str,
    outputs: dict[str, str],
    window: Sequence[int | None],
) -> Shapes:
    """Return the shapes of all outputs that are images, their axes as Tessera's; of one alone no more than is said."""
    plain = _plain(len(axes))
    if len(outputs) == 1:
        ((name, order),) = outputs.items()
        channels = _channels_of(model, name, order.index("c"))
        if channels is None:
            raise ModelError(f"{path} does not say how many channels it gives: export it with a fixed number of them")
        return {name: (1, channels, *_sides(window))}
    sides = dict(zip(plain[2:], _sides(window), strict=True))
    sizes = {"b": ports.batch or 1, "c": ports.dims[axes.index("c")] or 1, **sides}
    found = ports.output_shapes(model, tuple(sizes[letter] for letter in axes))
    return {
        name: tuple(shape[outputs[name].index(letter)] for letter in plain)
        for name, shape in found.items()
        if len(shape) == len(plain)
    }


def _channels_of(model: Any, name: str, axis: int) -> int | None:
    """Return the size of an output along *axis*: as it says, else as the last node that knows."""
    output = next(value for value in model.graph.output if value.name == name)
    if len(shape := dims_of(output)) > axis and shape[axis] is not None:
        return shape[axis]
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found = dims_of(next(value for value in inferred.graph.output if value.name == name))
    return found[axis] if len(found) > axis else None


def _axes_by_size(path: Path, dims: Sequence[int | None], described: ModelSpec | None) -> str:
    """Return the axes of an input whose channels are second or last: sides are larger, or any number."""
    plain = _plain(len(dims))
    last = f"b{plain[2:]}c"
    known = {axes: size for axes, size in ((plain, dims[1]), (last, dims[-1])) if size is not None}
    if described is not None:
        known = {axes: size for axes, size in known.items() if size == described.in_channels}
    fewest = [axes for axes, size in known.items() if size == min(known.values())]
    if len(fewest) != 1:
        raise ModelError(
            f"{path} takes an input of shape {tuple(dims)}, and nothing tells which axis holds its channels: describe "
            f"it as a program with 'around' (docs/models/onnx.md)"
        )
    return fewest[0]


def _axes_of_input(model: Any, ports: OnnxPorts) -> str:
    """Return the input's axes, from the first operator that has an order of its own; empty if there is none."""
    rank, letters = len(ports.dims), _plain(len(ports.dims))
    # Tensors with, for each axis, which one of the input it is.
    waiting, seen = [(ports.input, tuple(range(rank)))], {ports.input}
    for tensor, order in waiting:
        for node in (node for node in model.graph.node if tensor in node.input):
            if node.op_type in _CHANNELS_FIRST and node.input[0] == tensor:
                return "".join(letters[order.index(axis)] for axis in range(rank))
            turned = _turn(node, rank)
            if turned is not None and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append((node.output[0], tuple(order[axis] for axis in turned)))
    return ""


def _axes_of_output(model: Any, name: str, rank: int) -> str:
    """Return the axes of an output, from the last operator that has an order of its own; empty if there is none."""
    letters, made = _plain(rank), {name: node for node in model.graph.node for name in node.output}
    # Tensors with, for each axis of the output, which one of theirs it is.
    waiting, seen = [(name, tuple(range(rank)))], {name}
    for tensor, order in waiting:
        node = made.get(tensor)
        if node is None:
            continue
        if node.op_type in _CHANNELS_FIRST:
            return "".join(letters[axis] for axis in order)
        if (turned := _turn(node, rank)) is None:
            continue
        for source in node.input:
            if source in made and source not in seen:
                seen.add(source)
                waiting.append((source, tuple(turned[axis] for axis in order)))
    return ""


def _turn(node: Any, rank: int) -> tuple[int, ...] | None:
    """Return which axis of its input each axis of a node's output is; None where it makes others."""
    if node.op_type in _KEEPING:
        return tuple(range(rank))
    if node.op_type != "Transpose":
        return None
    turned = next((tuple(each.ints) for each in node.attribute if each.name == "perm"), tuple(reversed(range(rank))))
    return turned if sorted(turned) == list(range(rank)) else None
