"""Any model whose network Tessera rebuilds, in the project's own format: safetensors weights and a YAML description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from napari_tessera.errors import ModelError, OutputError
from napari_tessera.models.architectures import built_from
from napari_tessera.models.spec_file import ModelFile

if TYPE_CHECKING:
    import torch

    from napari_tessera.models.model import Model
    from napari_tessera.models.spec import Chain, ModelSpec, Normalisation

__all__ = ["pack"]


def pack(model: Model, path: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write *model* as *path* (.yaml) and its weights beside it (.safetensors), and return both paths.

    Opening them gives the same network with the same description, and never runs code.

    Parameters
    ----------
    model
        Its network must be of an allow-listed class, as loaded: see `architectures.ARCHITECTURES`.
    path
        The description's file.
    overwrite
        Whether existing files may be replaced.

    Raises
    ------
    ModelError
        If the network is none that Tessera rebuilds from a description.
    OutputError
        If a file exists or cannot be written.
    """
    from safetensors.torch import save_file

    built = built_from(model.network)
    if built is None:
        raise ModelError(
            f"'{model.spec.name}' ({model.origin}) cannot be packed: its network is not, as it is, one of a class that "
            f"Tessera rebuilds, so keep its own file"
        )
    weights = path.with_suffix(".safetensors")
    for file in (path, weights):
        if file.exists() and not overwrite:
            raise OutputError(f"'{file}' exists: choose another name, or say that it may be replaced")
    name, arguments = built
    content = _content(model.spec) | {
        "architecture": {"class": name, "arguments": arguments},
        "weights": weights.name,
    }
    ModelFile.model_validate(content)  # before anything is written
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = _apart(model.network.state_dict())
        # Beside it and then in its place: the model may be the one that is mapped from the very file.
        beside = weights.with_name(f".{weights.name}.partial")
        try:
            save_file(tensors, beside)
            beside.replace(weights)
        finally:
            beside.unlink(missing_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
    return path, weights


def _apart(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return *weights* as safetensors takes them: what a network holds under two names, such as DynUNet, twice."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        plain = tensor.detach().cpu().contiguous()
        found[name] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return found


def _content(spec: ModelSpec) -> dict[str, Any]:
    """Return the keys of a model's file that say what *spec* does."""
    rule, decoder = spec.window, spec.suggested_decoder
    optional = {
        "description": spec.description,
        "overlap": spec.overlap,
        "halo": None if spec.halo is None else list(spec.halo),
        "voxel_size_um": None if spec.voxel_size_um is None else list(spec.voxel_size_um),
        "classes": list(spec.classes),
        "class_colours": list(spec.class_colours),
        "licence": spec.licence,
        "citation": spec.citation,
    }
    each = list(map(_normalisation, spec.normalisations))
    alike = all(one == each[0] for one in each)
    return {
        "format": "tessera-model/1",
        "name": spec.name,
        "spatial_dims": spec.spatial_dims,
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "window": {"default": list(rule.default), "step": list(rule.step), "minimum": list(rule.minimum)},
        "normalisation": each[0] if alike else each,
        "activation": spec.activation if isinstance(spec.activation, str) else list(spec.activation),
        "output": {"kind": spec.output.kind, "offsets": [list(offset) for offset in spec.output.offsets]},
        "decoder": {"name": decoder.name, "parameters": _plain(dict(decoder.parameters))},
    } | {name: value for name, value in optional.items() if value not in ("", None, [])}


def _normalisation(normalisation: Normalisation | Chain) -> dict[str, Any]:
    if len(normalisation.steps) > 1:
        return {"chain": list(map(_step, normalisation.steps))}
    return _step(normalisation.steps[0])


def _step(normalisation: Normalisation) -> dict[str, Any]:
    return {"mode": normalisation.mode, **dict(normalisation.parameters)}


def _plain(value: Any) -> Any:
    """Return *value* with lists for tuples, as YAML knows none."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
