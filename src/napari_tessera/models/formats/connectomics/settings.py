"""Settings from the YAML files of PyTorch Connectomics, and files for it from settings."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from napari_tessera.engine.settings import Blend, Settings
from napari_tessera.errors import OutputError, SettingsError
from napari_tessera.models.formats.connectomics.config import (
    Configuration,
    Generation,
    is_connectomics,
    read_configuration,
    read_tree,
)
from napari_tessera.models.formats.connectomics.output import CONTOUR_DISTANCE, PAIRS, SIZES, read_decoder
from napari_tessera.models.formats.connectomics.views import read_views, write_views
from napari_tessera.models.plain_json import load_json

__all__ = ["OpenedSettings", "open_settings", "read_overlap", "write_connectomics"]

NM_PER_UM = 1000
# Beyond, its program takes this.
MAX_OVERLAP = 0.99
# What PyTorch Connectomics has no key for stands in a comment, which it does not read, under this mark.
MARK = "# napari-tessera: "

# Where each generation keeps what all of them have. The first that is given counts.
_WINDOW = {
    Generation.V1: ("INFERENCE.INPUT_SIZE", "MODEL.INPUT_SIZE"),
    Generation.A: ("inference.window_size", "data.patch_size"),
    Generation.B: ("inference.sliding_window.window_size", "data.patch_size", "data.dataloader.patch_size"),
    Generation.C: ("inference.window.window_size", "model.output_size", "data.dataloader.patch_size"),
}
_SW_BATCH = {
    Generation.V1: ("INFERENCE.SAMPLES_PER_BATCH",),
    Generation.A: ("inference.sw_batch_size",),
    Generation.B: ("inference.sliding_window.sw_batch_size", "system.inference.batch_size"),
    Generation.C: ("inference.window.sw_batch_size", "data.dataloader.batch_size"),
}
_OVERLAP = {
    Generation.V1: ("INFERENCE.STRIDE", ""),
    Generation.A: ("inference.stride", "inference.overlap"),
    Generation.B: ("inference.sliding_window.stride", "inference.sliding_window.overlap"),
    Generation.C: ("", "inference.window.overlap"),
}
_BLEND = {
    Generation.V1: ("INFERENCE.BLENDING", "gaussian"),
    Generation.A: ("inference.blending", "gaussian"),
    Generation.B: ("inference.sliding_window.blending", "gaussian"),
    Generation.C: ("inference.window.blending", "bump"),
}
_RESOLUTION = (
    *("data.train.resolution", "data.train_resolution", "data.test.resolution", "data.test_resolution"),
    *("inference.data.test_resolution", "inference.data.resolution"),
)


@dataclass(frozen=True, slots=True)
class OpenedSettings:
    """The settings of a file.

    Parameters
    ----------
    settings
        What it says.
    notes
        What was not carried over, and what stands in for it, one sentence each; empty for Tessera's own files.
    """

    settings: Settings
    notes: tuple[str, ...] = ()


def open_settings(path: str | Path) -> OpenedSettings:
    """Read the settings file *path*, Tessera's own or one of PyTorch Connectomics.

    Raises
    ------
    SettingsError
        If it cannot be read, or a key or value of it is not valid.
    """
    path = Path(path)
    tree = read_tree(path, error=SettingsError, kind="settings file") if path.is_file() else {}
    if not is_connectomics(tree):
        return OpenedSettings(Settings.from_yaml(path))
    config = read_configuration(path, error=SettingsError)
    values, notes = _read(config)
    values |= _from_comment(path)
    left_out = config.left_out()
    if left_out:
        notes.append(f"{path.name} also says what is not carried over: {', '.join(left_out)}")
    try:
        return OpenedSettings(Settings.from_mapping(values), tuple(notes))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _read(config: Configuration) -> tuple[dict[str, Any], list[str]]:
    generation, notes = config.generation, []
    window = config.sides(*_WINDOW[generation])
    values: dict[str, Any] = {"window_size": window}
    batch = config.first(*_SW_BATCH[generation])
    if batch is not None and batch != -1:  # -1 keeps what training has
        values["sw_batch_size"] = batch
    if generation is Generation.A and config.get("inference.batch_size", -1) != -1:
        values["batch_size"] = config.get("inference.batch_size")
    for name, (value, note) in {
        "overlap": read_overlap(config, window),
        "blend": _blend(config),
    }.items():
        values |= {} if value is None else {name: value}
        notes += [note] if note else []
    dims = 2 if window is not None and len(window) == 2 else 3
    seen = read_views(config, dims)
    values |= {"tta_num": seen.tta_num, "tta_axes": seen.tta_axes(dims) if seen.tta_num > 1 else None}
    notes += [seen.note] if seen.note else []
    sizes = config.numbers(*_RESOLUTION)
    if sizes is not None and (min(sizes) <= 0 or len(sizes) != len(window or sizes)):
        notes.append(f"the resolution {sizes} is left out: it is no length above 0 for each axis of the window")
    elif sizes is not None:
        values["resolution"] = [round(size / NM_PER_UM, 12) for size in sizes]
    decoder, left_out = read_decoder(config)
    if decoder is not None:
        values |= {"decoder": decoder.name, "decoder_parameters": dict(decoder.parameters)}
    return values, [*notes, *left_out]


def read_overlap(config: Configuration, window: tuple[int, ...] | None) -> tuple[float | None, str]:
    """Return the fraction, from a stride where there is one; the largest where axes differ, so that none loses."""
    stride_key, key = _OVERLAP[config.generation]
    stride = config.sides(stride_key) if stride_key else None
    each: list[Any]
    if stride is not None and window is not None and len(stride) == len(window):
        config.get(key or stride_key)
        each = [max(0.0, 1 - step / side) for step, side in zip(stride, window, strict=True)]
    else:
        value = config.get(key) if key else None
        if value is None:
            return None, ""
        each = value if isinstance(value, list) else [value]
    numbers = [one for one in each if isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < 10]
    if not each or len(numbers) < len(each):
        raise config.complain(key, each, "a fraction, or one for each axis")
    chosen = min(max(0.0, *each), MAX_OVERLAP)
    differ = max(each) - min(each) > 1e-9
    return chosen, f"the overlap differs by axis; the largest, {chosen:g}, is taken for all" if differ else ""


def _blend(config: Configuration) -> tuple[str, str]:
    key, default = _BLEND[config.generation]
    name = str(config.get(key, default))
    if name in list(Blend):
        return name, ""
    return Blend.GAUSSIAN.value, f"the blending '{name[:40]}' becomes gaussian, the nearest that Tessera has"


def _from_comment(path: Path) -> dict[str, Any]:
    """Return the settings that an exported file keeps in its comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    if not first.startswith(MARK):
        return {}
    try:
        found = load_json(first.removeprefix(MARK))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: its first line, which holds settings of Tessera, is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: its first line, which holds settings of Tessera, is no JSON object")
    return found


def write_connectomics(path: str | Path, settings: Settings) -> tuple[str, ...]:
    """Write *settings* as a file of PyTorch Connectomics, of its newest generation; `open_settings` reads them back.

    Parameters
    ----------
    path
        The file.
    settings
        What is written. What its program has no key for stands in a comment at the top, which only Tessera reads.

    Returns
    -------
    names
        The settings that its program will not know of.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    content = _sections(settings)
    text = yaml.safe_dump(content, sort_keys=False)
    plain = settings.to_dict()
    back = Settings.from_mapping(_read(_as_configuration(content, path))[0]).to_dict()
    other = {field.name: plain[field.name] for field in fields(settings) if plain[field.name] != back[field.name]}
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(f"{MARK}{json.dumps(other, default=str)}\n{text}" if other else text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write the settings file {path}: {error.strerror or error}") from error
    if content["inference"]["test_time_augmentation"]["enabled"]:
        other.pop("tta_axes", None)  # its program has the same views, however they are named here
    return tuple(other)


def _as_configuration(content: dict[str, Any], path: Path) -> Configuration:
    return Configuration(path, content, Generation.C, SettingsError)


def _sections(settings: Settings) -> dict[str, Any]:
    window = None if settings.window_size is None else list(settings.window_size)
    content: dict[str, Any] = {
        "inference": {
            "window": {
                **({} if window is None else {"window_size": window}),
                "sw_batch_size": settings.sw_batch_size,
                "overlap": settings.overlap,
                # It has no gaussian; bump falls off towards the borders as that does.
                "blending": "constant" if settings.blend is Blend.CONSTANT else "bump",
            },
            "test_time_augmentation": write_views(settings),
        }
    }
    if settings.resolution is not None:
        content["data"] = {"train": {"resolution": [round(size * NM_PER_UM, 9) for size in settings.resolution]}}
    if settings.decoder == "contour-distance":
        content["decoding"] = {"steps": [{"name": CONTOUR_DISTANCE, "kwargs": _contour_distance(settings)}]}
    return content


def _contour_distance(settings: Settings) -> dict[str, Any]:
    """Return the parameters that are given; those that are not have the same defaults there."""
    given = dict(settings.decoder_parameters)
    pairs = {
        key: [given.get(f"{name}_seed", seed), given.get(name, foreground)]
        for key, (name, seed, foreground) in PAIRS.items()
        if {name, f"{name}_seed"} & given.keys()
    }
    return {**pairs, **{key: given[name] for key, name in SIZES.items() if name in given}}
