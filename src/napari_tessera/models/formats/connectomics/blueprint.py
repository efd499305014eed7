"""The networks that PyTorch Connectomics builds with MONAI, rebuilt, and filled with the weights of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError, nearest
from napari_tessera.models.formats.saved_weights import assign
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.interpolating_unet import DEPTH, LEVELS
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    import torch

    from napari_tessera.core.settings.connectomics_config import Configuration
    from napari_tessera.models.formats.saved_weights import SavedWeights
    from napari_tessera.models.safety.allowed import Names


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


MONAI = "monai.networks.nets"
# The step of a network whose position embedding is of one size.
ONLY = 0
LEVELS_OF_BASIC = 6


@dataclass(frozen=True, slots=True)
class Blueprint:
    """How a network is built."""

    name: str  # as PyTorch Connectomics calls it
    spatial_dims: int
    in_channels: int
    out_channels: int
    step: int  # what each side of a window must be a multiple of; `ONLY` where only one size goes
    exact: bool  # whether other sides fail, and not only lose a little
    # (class, arguments) for each way in which its releases built it; what the weights fit is right.
    recipes: tuple[tuple[str, dict[str, Any]], ...]
    hint: str = ""  # what to do where none fits
    # What the network calls the weight of a name in the file; None of one that it does not have.
    rename: Callable[[str], str | None] = str

    def build(self, weights: SavedWeights) -> tuple[torch.nn.Module, tuple[str, ...]]:
        """Return the network with its *weights*, which it then shares, and notes on which were taken."""
        path, complaint = weights.label, ""
        for name, arguments in self.recipes:
            try:
                network = architectures.build(name, arguments, weights.size)
            except ModelError as error:
                if path in str(error):
                    raise
                raise ModelError(f"{path}: {error}") from error
            fit = weights.fit(network, self.rename)
            if not fit.misfit:
                assign(network, fit.weights)
                return network.requires_grad_(False), fit.notes
            complaint = complaint or fit.misfit
        raise ModelError(f"the weights of {path} do not fit the configured {self.name}: {complaint}{self.hint}")


def known_architecture(
    config: Configuration, key: str, name: Any, known: Mapping[str, Any], elsewhere: Names, *, which: str = ""
) -> str:
    """Return *name*, the value of *key*, if it is one of those *known*; *which*: of what they are, for errors."""
    rebuilt = ", ".join(known)
    if not isinstance(name, str):
        raise config.complain(key, name, f"a name such as {rebuilt}")
    if name in elsewhere.names:
        raise ModelError(
            f"{config.path} names the architecture '{name}', which needs {elsewhere.names[name]}; Tessera rebuilds "
            f"{rebuilt}: export it from there as TorchScript, .pt2 or ONNX"
        )
    if name not in known:
        raise ModelError(
            f"{config.path} names the architecture '{name[:80]}', which Tessera does not know{which}"
            f"{nearest(name, known)} (it rebuilds {rebuilt})"
        )
    return name


def read_blueprint(config: Configuration) -> Blueprint:
    """Return how the network of *config* is built."""
    given = config.first("model.arch.type", "model.architecture") or "monai_basic_unet3d"
    config.used.add("model")
    name = known_architecture(config, "model.arch.type", given, ARCHITECTURES, allowed.CONNECTOMICS_ELSEWHERE)
    size = config.sides("model.input_size")
    dims = len(size) if size else config.integer("model.monai.spatial_dims", 3)
    if dims not in (2, 3):
        raise config.complain("model.monai.spatial_dims", dims, "2 or 3")
    in_channels, out_channels = (config.integer(f"model.{key}_channels", 1) for key in ("in", "out"))
    arguments = _Arguments(config, size or (128,) * dims, "model.monai" if _is_nested(config) else "model")
    step, exact, recipes = ARCHITECTURES[name](arguments)
    common = {"spatial_dims": dims, "in_channels": in_channels, "out_channels": out_channels}
    full = tuple((cls, {**common, **own}) for cls, own in recipes)
    rename = renamed if full[0][0] == architectures.MEDNEXT else str
    return Blueprint(name, dims, in_channels, out_channels, step, exact, full, rename=rename)


def _is_nested(config: Configuration) -> bool:
    return config.get("model.arch") is not None or config.get("model.monai") is not None


@dataclass(frozen=True, slots=True)
class _Arguments:
    """The model section, whose older form keeps all keys at one level."""

    config: Configuration
    input_size: tuple[int, ...]
    place: str

    @property
    def nested(self) -> bool:
        return self.place != "model"

    def filters(self, most: int) -> list[int]:
        found = self.config.numbers(f"{self.place}.filters") or (32, 64, 128, 256, 512)
        if len(found) < 2 or not all(n == int(n) and 1 <= n <= 16_384 for n in found):
            raise self.config.complain(
                f"{self.place}.filters", list(found), "two or more whole numbers from 1 to 16384"
            )
        return list(map(int, found))[:most]

    def norm(self) -> str | tuple[str, dict[str, int]]:
        norm = str(self.config.get(f"{self.place}.norm", "batch"))
        if norm != "group":
            return norm
        return norm, {"num_groups": self.config.integer(f"{self.place}.num_groups", 8)}

    def text(self, key: str, default: str) -> str:
        return str(self.config.get(key, default))


_Recipes = tuple[int, bool, list[tuple[str, dict[str, Any]]]]


def _basic_unet(arguments: _Arguments) -> _Recipes:
    """Six levels: missing ones repeat the last width; until November 2025 they doubled it."""
    config, place = arguments.config, arguments.place
    given = arguments.filters(LEVELS_OF_BASIC)
    missing = range(1, LEVELS_OF_BASIC - len(given) + 1)
    repeated, doubled = [given + [given[-1] * factor**n for n in missing] for factor in (1, 2)]
    own = {
        "dropout": config.number(f"{place}.dropout", 0.0),
        "act": arguments.text(f"{place}.activation", "relu"),
        "norm": arguments.norm(),
        "upsample": arguments.text(f"{place}.upsample_mode" if arguments.nested else f"{place}.upsample", "deconv"),
    }
    widths = [repeated] if repeated == doubled else [repeated, doubled]
    return 16, False, [(f"{MONAI}.BasicUNet", {**own, "features": tuple(features)}) for features in widths]


def _unet(arguments: _Arguments) -> _Recipes:
    """Strides of 2 between all levels. The older form took five levels at most."""
    config, place = arguments.config, arguments.place
    channels = arguments.filters(16 if arguments.nested else 5)
    units = int(config.number(f"{place}.num_res_units", 2))
    if not 0 <= units <= 64:
        raise config.complain(f"{place}.num_res_units", units, "a whole number from 0 to 64")
    own: dict[str, Any] = {
        "channels": channels,
        "strides": [2] * (len(channels) - 1),
        "num_res_units": units,
        "kernel_size": config.integer(f"{place}.kernel_size", 3, most=31),
        "norm": arguments.norm(),
        "dropout": config.number(f"{place}.dropout", 0.0),
    }
    step = 2 ** (len(channels) - 1)
    mode = arguments.text(f"{place}.upsample_mode", "deconv") if arguments.nested else "deconv"
    if mode in ("", "deconv"):
        return step, True, [(f"{MONAI}.UNet", own)]
    own |= {
        "upsample_mode": mode,
        "upsample_interp_mode": arguments.text(f"{place}.upsample_interp_mode", "linear"),
        "upsample_align_corners": config.get(f"{place}.upsample_align_corners", True) is True,
    }
    return step, True, [(architectures.INTERPOLATING, own)]


def _unetr(arguments: _Arguments) -> _Recipes:
    config, place = arguments.config, "model.transformer" if arguments.nested else "model"
    own = {
        "img_size": arguments.input_size,
        "feature_size": config.integer(f"{place}.feature_size", 16, most=4096),
        "hidden_size": config.integer(f"{place}.hidden_size", 768),
        "mlp_dim": config.integer(f"{place}.mlp_dim", 3072),
        "num_heads": config.integer(f"{place}.num_heads", 12, most=4096),
        # MONAI's name of today for what the file calls pos_embed.
        "proj_type": arguments.text(f"{place}.pos_embed", "perceptron"),
        "norm_name": arguments.text(f"{place}.norm", "instance" if arguments.nested else "batch"),
        "dropout_rate": config.number(f"{place}.dropout", 0.0),
    }
    return ONLY, True, [(f"{MONAI}.UNETR", own)]


def _swin_unetr(arguments: _Arguments) -> _Recipes:
    config, place = arguments.config, "model.transformer" if arguments.nested else "model"
    own = {
        "feature_size": config.integer(f"{place}.feature_size", 16, most=4096),
        "drop_rate": config.number(f"{place}.dropout", 0.0),
        "attn_drop_rate": config.number(f"{place}.attn_drop_rate", 0.0),
        "dropout_path_rate": config.number(f"{place}.dropout_path_rate", 0.0),
    }
    return 32, True, [(f"{MONAI}.SwinUNETR", own)]


ARCHITECTURES: Mapping[str, Callable[[_Arguments], _Recipes]] = allowed.CONNECTOMICS_NETWORKS.handled(
    {
        "monai_basic_unet3d": _basic_unet,
        "monai_unet": _unet,
        "monai_unetr": _unetr,
        "monai_swin_unetr": _swin_unetr,
        "mednext": lambda arguments: mednext_recipe(arguments.config, is_custom=False),
        "mednext_custom": lambda arguments: mednext_recipe(arguments.config, is_custom=True),
    }
)
