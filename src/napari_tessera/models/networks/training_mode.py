"""Programs that work as in training: what they give depends on chance, or on the windows that share a pass.

A Python module is put in evaluation mode before it runs; in a program the mode was written down when it was exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

Operation = tuple[str, Mapping[str, Any]]
"""The name of an operation without its library, and those of its arguments that are constants."""

# By the name of the argument that says so.
_DROPS = {
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout"),
    *("rrelu", "rrelu_with_noise", "rrelu_with_noise_functional"),
}
# Layers that drop by a share of their own, which is 0 in evaluation mode.
_ATTENDS = {
    "scaled_dot_product_attention",
    *(f"_scaled_dot_product_{way}_attention" for way in ("efficient", "flash")),
    "_scaled_dot_product_flash_attention_for_cpu",
}
_NORMALISES = {
    *("batch_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"),
    *("_native_batch_norm_legit_functional", "_batch_norm_impl_index"),
    "BatchNormalization",  # of ONNX
}
_ALWAYS_NORMALISES = {"_batch_norm_with_update", "_batch_norm_with_update_functional"}
_DRAWS = {
    *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "bernoulli", "multinomial"),
    *("normal", "normal_functional", "uniform", "poisson", "exponential", "cauchy", "geometric", "log_normal"),
    *("random", "_fused_dropout"),
    # of ONNX
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"),
}
# Scales of the whole pass: of quantisation while it runs.
_MEASURES = {"DynamicQuantizeLinear", "quantize_per_tensor_dynamic", "linear_dynamic", "linear_relu_dynamic"}


def find_training_mode(network: torch.nn.Module) -> tuple[str, ...]:
    """Return a sentence for each way in which programs within *network* work as in training.

    A module that holds a program that torch does not know yields its operations itself, by ``iter_operations``.
    """
    return sentences_of(_iter_operations(network))


def sentences_of(operations: Iterable[Operation]) -> tuple[str, ...]:
    """Return a sentence for each way in which a program of these *operations* works as in training."""
    random, by_batch, by_window = set[str](), set[str](), set[str]()
    for name, arguments in operations:
        name = name.removesuffix("_")
        in_training = any(arguments.get(key) for key in ("train", "training", "training_mode"))
        drops = in_training and name in _DROPS and arguments.get("p") != 0
        if drops or name in _DRAWS or (name in _ATTENDS and arguments.get("dropout_p", 0) != 0):
            random.add(name)
        elif name in _MEASURES | _ALWAYS_NORMALISES or (in_training and name in _NORMALISES):
            by_batch.add(name)
        elif name == "instance_norm" and arguments.get("use_input_stats") and _keeps(arguments):
            by_window.add(name)
    found = []
    if random:
        found.append(
            f"the program is random, as in training ({', '.join(sorted(random))}), so no two runs agree: export it "
            f"again in evaluation mode (network.eval())"
        )
    if by_batch:
        found.append(
            f"the program takes statistics of all windows of a pass ({', '.join(sorted(by_batch))}), so the result "
            f"depends on sw_batch_size: choose 1, with which each window stands alone, or export it again in "
            f"evaluation mode (network.eval())"
        )
    if by_window:
        found.append(
            f"the program normalises each window by its own values, as in training, and not by the statistics that "
            f"training kept ({', '.join(sorted(by_window))}), so the result is not that of the trained network: export "
            f"it again in evaluation mode (network.eval())"
        )
    return tuple(found)


def _keeps(arguments: Mapping[str, Any]) -> bool:
    """Whether a norm has statistics of training: what is no constant is not among *arguments*; True is None as JSON."""
    return arguments.get("running_mean", ...) not in (None, True)


def iter_graph_operations(module: torch.nn.Module) -> Iterator[Operation]:
    """Yield the operations of the graphs of ``torch.fx`` within *module*, as of an exported program."""
    for part in module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                schema = getattr(node.target, "_schema", None)
                if schema is not None:
                    names = (argument.name for argument in schema.arguments)
                    yield _plain(schema.name), {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _iter_operations(network: torch.nn.Module) -> Iterator[Operation]:
    if isinstance(network, torch.jit.ScriptModule):
        if (graph := getattr(network, "inlined_graph", None)) is not None:
            yield from _iter_script(graph)
        return
    if (own := getattr(network, "iter_operations", None)) is not None:
        yield from own()
        return
    for child in network.children():
        yield from _iter_operations(child)


def _iter_script(block: Any) -> Iterator[Operation]:
    for node in block.nodes():
        for inner in node.blocks():
            yield from _iter_script(inner)
        schema = node.schema()
        if schema == "(no schema)":
            continue
        names = (argument.name for argument in torch._C.parse_schema(schema).arguments)
        constants = {
            name: given.toIValue()
            for name, given in zip(names, node.inputs(), strict=False)
            if given.node().kind() == "prim::Constant"
        }
        yield _plain(node.kind()), constants


def _plain(name: str) -> str:
    return name.rpartition("::")[2]
