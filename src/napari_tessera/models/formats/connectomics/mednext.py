"""The MedNeXt of PyTorch Connectomics: what its configuration says, and what its weights are called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.interpolating_unet import DEPTH, LEVELS

if TYPE_CHECKING:
    from napari_tessera.core.settings.connectomics_config import Configuration

# How many times the blocks of each level widen what comes, and how many there are, as ``create_mednext_v1`` has them.
_SIZES = {
    "S": ([2] * LEVELS, [2] * LEVELS),
    "B": ([2, 3, 4, 4, 4, 4, 4, 3, 2], [2] * LEVELS),
    "M": ([2, 3, 4, 4, 4, 4, 4, 3, 2], [3, 4, 4, 4, 4, 4, 4, 4, 3]),
    "L": ([3, 4, 8, 8, 8, 8, 8, 4, 3], [3, 4, 8, 8, 8, 8, 8, 4, 3]),
}
# What only one way of is rebuilt.
_FIXED = (("do_res", True), ("do_res_up_down", True), ("norm", "group"))
_THEIRS = (
    *(("enc_block_", "enc_stages.", False), ("down_", "down_blocks.", False)),
    *(("up_", "up_blocks.", True), ("dec_block_", "dec_stages.", True)),
)


def mednext_recipe(config: Configuration, *, is_custom: bool) -> tuple[int, bool, list[tuple[str, dict[str, Any]]]]:
    """Return the step of windows, that others fail, and the class and arguments of the network."""
    if config.get("model.heads"):
        raise ModelError(
            f"{config.path} describes a MedNeXt of several heads (model.heads), which Tessera does not rebuild: export "
            f"it with the head that you want as TorchScript, .pt2 or ONNX"
        )
    kernel = _said(config, "kernel_size", 3)
    if kernel not in (3, 5, 7):
        raise config.complain("model.mednext.kernel_size", kernel, "3, 5 or 7")
    own = {"init_filters": 32, **(_custom(config) if is_custom else _sized(config)), "kernel_size": kernel}
    return 2**DEPTH, True, [(architectures.MEDNEXT, own)]


def _sized(config: Configuration) -> dict[str, Any]:
    size = _said(config, "size", "S")
    if size not in _SIZES:
        raise config.complain("model.mednext.size", size, f"one of {', '.join(_SIZES)}")
    expansion, blocks = _SIZES[size]
    return {"expansion": expansion, "blocks": blocks}


def _custom(config: Configuration) -> dict[str, Any]:
    for key, value in _FIXED:
        if (said := _said(config, key, value)) != value:
            raise config.complain(f"model.mednext.{key}", said, f"{value}: Tessera rebuilds no other")
    expansion, blocks = _said(config, "exp_r", 4), _said(config, "block_counts", [2] * LEVELS)
    expansion = expansion if isinstance(expansion, list) else [expansion] * LEVELS
    for key, each in (("exp_r", expansion), ("block_counts", blocks)):
        if not isinstance(each, list) or len(each) != LEVELS or not all(type(n) is int and 1 <= n <= 64 for n in each):
            raise config.complain(f"model.mednext.{key}", each, f"{LEVELS} whole numbers from 1 to 64")
    filters = _said(config, "base_channels", 32)
    if type(filters) is not int or not 1 <= filters <= 1024:
        raise config.complain("model.mednext.base_channels", filters, "a whole number from 1 to 1024")
    grn = _said(config, "grn", False) is True
    return {"init_filters": filters, "expansion": expansion, "blocks": blocks, "global_resp_norm": grn}


def _said(config: Configuration, key: str, default: Any) -> Any:
    """Return what a newer file says within ``model.mednext``, and an older one beside it."""
    value = config.first(f"model.mednext.{key}", f"model.mednext_{key}")
    return default if value is None else value


def renamed(name: str) -> str | None:
    """Return what MONAI calls the weight that its authors call *name*; None of those that only training needs.

    Examples
    --------
    >>> renamed("dec_block_3.1.grn_beta"), renamed("down_0.res_conv.bias"), renamed("out_2.conv_out.bias")
    ('dec_stages.0.1.global_resp_beta', 'down_blocks.0.res_conv.bias', None)
    """
    if name == "dummy_tensor" or re.match(r"out_[1-4]\.", name):
        return None
    name = name.replace(".grn_beta", ".global_resp_beta").replace(".grn_gamma", ".global_resp_gamma")
    for theirs, ours, upwards in _THEIRS:
        if found := re.match(rf"{theirs}([0-3])\.", name):
            level = int(found[1])
            return f"{ours}{DEPTH - 1 - level if upwards else level}.{name[found.end() :]}"
    return name
