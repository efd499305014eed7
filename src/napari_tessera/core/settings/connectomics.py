"""What the YAML files of PyTorch Connectomics say, as names and values of settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.plain_data import load_json
from napari_tessera.core.settings.choices import Blend, DecoderChoice, stride_for
from napari_tessera.core.settings.connectomics_config import Configuration, Generation, read_configuration
from napari_tessera.core.settings.connectomics_views import read_views

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
    Generation.A: "inference.overlap",
    Generation.B: "inference.sliding_window.overlap",
    Generation.C: "inference.window.overlap",
}
DEFAULT_OVERLAP = 0.5
# Of version 1 (connectomics/config/defaults.py), of z, y and x, whatever the window.
DEFAULT_STRIDE = (4, 128, 128)
_BLEND = {
    Generation.V1: ("INFERENCE.BLENDING", "gaussian"),
    Generation.A: ("inference.blending", "gaussian"),
    Generation.B: ("inference.sliding_window.blending", "gaussian"),
    Generation.C: ("inference.window.blending", "bump"),
}
# What its programs call the distance to the nearest face of a window.
_DISTANCES = {
    "distance",
    "distance_transform",
    "distance-transform",
    "distance_transform_cdt",
    "banis",
    "banis_distance",
}
_RESOLUTION = (
    *("data.train.resolution", "data.train_resolution", "data.test.resolution", "data.test_resolution"),
    *("inference.data.test_resolution", "inference.data.resolution"),
)

CONTOUR_DISTANCE = "decode_instance_binary_contour_distance"
# Its names in older releases.
CONTOUR_DISTANCE_NAMES = (CONTOUR_DISTANCE, "decode_binary_contour_distance_watershed")
# Its parameters of two thresholds, for seeds and for the foreground: Tessera's name and the defaults of both programs.
PAIRS = {
    "binary_threshold": ("binary", 0.9, 0.85),
    "contour_threshold": ("contour", 0.8, 1.1),
    "distance_threshold": ("distance", 0.5, 0.0),
}
SIZES = {"min_seed_size": "min_seed_size_vox", "min_instance_size": "min_size_vox"}
_DEFAULT_STEPS = {"mode": "watershed", "binary_channels": [0], "contour_channels": [1], "distance_channels": [2]}

# Steps that run a command.
COMMANDS = ("decode_abiss",)


def read_connectomics(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings that the file *path* gives, ranges not checked, and a sentence for all not carried over."""
    config = read_configuration(path, error=SettingsError)
    values, notes = read_values(config)
    values |= _from_comment(path)
    left_out = config.left_out()
    if left_out:
        notes.append(f"{path.name} also says what is not carried over: {', '.join(left_out)}")
    return values, tuple(notes)


def read_values(config: Configuration) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that *config* gives, and sentences on those that are not quite as there."""
    generation, notes = config.generation, []
    window = config.sides(*_WINDOW[generation])
    values: dict[str, Any] = {"window_size": window}
    batch = config.first(*_SW_BATCH[generation])
    if batch is not None and batch != -1:  # -1 keeps what training has
        values["sw_batch_size"] = batch
    if generation is Generation.A and config.get("inference.batch_size", -1) != -1:
        values["batch_size"] = config.get("inference.batch_size")
    for name, (value, note) in {"overlap": read_overlap(config, window), "blend": read_blend(config)}.items():
        values |= {} if value is None else {name: value}
        notes += [note] if note else []
    dims = 2 if window is not None and len(window) == 2 else 3
    if window is None and generation is Generation.V1:
        notes.append("no INPUT_SIZE is named, of which [8, 256, 256] holds there: the window is that of the model here")
    seen = read_views(config, dims)
    if seen.refusal:
        raise config.error(f"{config.path}: {seen.refusal}: choose other views there, or leave them out")
    values |= seen.as_settings(dims)
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
    """Return one overlap with which windows follow each other by the same voxels as there, and a note where none is.

    Its program rounds strides since May 2026, and cut them before, as Tessera does. Where axes differ, and no single
    overlap gives the stride of each, the largest is taken, so that no axis loses.
    """
    each, key, strides = _overlaps(config, window)
    if not each:
        return None, ""
    numbers = [one for one in each if isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < 10]
    if len(numbers) < len(each) or len(each) not in (1, len(window or each)):
        raise config.complain(key, each, "a finite number, the fraction of a window, or one for each axis")
    clamped = [min(max(0.0, one), MAX_OVERLAP) for one in numbers]
    chosen = max(clamped)
    if window is None:
        differ = chosen - min(clamped) > 1e-9
        return chosen, f"the overlap differs by axis; the largest, {chosen:g}, is taken for all" if differ else ""
    fractions = clamped * len(window) if len(clamped) == 1 else clamped
    as_whole = round if config.generation is Generation.C else int
    cut = tuple(max(1, int(as_whole(side * (1 - one)))) for side, one in zip(window, fractions, strict=True))
    strides = strides or cut
    found = _overlap_for(window, strides, chosen)
    if found is not None:
        return found, ""
    here = [stride_for(side, chosen) for side in window]
    return (
        chosen,
        f"windows follow each other by {here} voxels, of the overlap {chosen:g}, and there by {list(strides)}",
    )


def _overlaps(config: Configuration, window: tuple[int, ...] | None) -> tuple[list[Any], str, tuple[int, ...] | None]:
    """Return the overlap of all axes or of each, where it is said, and strides if these are; nothing if unknown."""
    place = "INFERENCE.STRIDE" if config.generation is Generation.V1 else _OVERLAP[config.generation]
    value = None if config.generation is Generation.V1 else config.get(place)
    # Beside an overlap a stride does not count, in A not even beside the one that holds where none is given.
    if config.generation is Generation.V1 or (
        config.generation is Generation.A and value is None and config.says(place)
    ):
        place = "inference.stride" if config.generation is Generation.A else place
        stride = config.sides(place)
        if stride is None and window is not None and config.generation is Generation.V1:
            stride = DEFAULT_STRIDE[-len(window) :]
        if stride is not None and window is not None and len(stride) == len(window):
            each = [max(0.0, 1 - step / side) for step, side in zip(stride, window, strict=True)]
            return list(each), place, stride if config.generation is Generation.V1 else None
        if config.generation is Generation.V1:
            return [], place, None
    value = DEFAULT_OVERLAP if value is None else value
    return value if isinstance(value, list) else [value], place, None


def _overlap_for(window: Sequence[int], strides: Sequence[int], wanted: float) -> float | None:
    """Return the overlap with which Tessera's windows follow each other by *strides*, *wanted* if it does that."""
    # A stride of 1 is the least there is, however far windows overlap.
    least = max(0.0 if stride == 1 else stride / side for side, stride in zip(window, strides, strict=True))
    most = min((stride + 1) / side for side, stride in zip(window, strides, strict=True))
    middle = max(0.0, 1 - (least + most) / 2)
    tried = (wanted, round(middle, 3), middle)
    return next(
        (
            overlap
            for overlap in tried
            if all(stride_for(side, overlap) == stride for side, stride in zip(window, strides, strict=True))
        ),
        None,
    )


def read_blend(config: Configuration) -> tuple[Blend, str]:
    """Return how windows are weighted, and a note where it is not quite as there."""
    key, default = _BLEND[config.generation]
    name = str(config.get(key, default)).strip().lower()
    if name in _DISTANCES:
        return Blend.DISTANCE_TRANSFORM, ""
    if name not in list(Blend):
        raise config.complain(key, name[:40], f"one of {', '.join(Blend)}")
    of_v1 = config.generation is Generation.V1
    return Blend(name), f"version 1 weights overlapping windows by another {name} than Tessera" if of_v1 else ""


def _from_comment(path: Path) -> dict[str, Any]:
    """Return the settings that an exported file keeps in its comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    if not first.startswith(MARK):
        return {}
    try:
        found = load_json(first.removeprefix(MARK))
    except ValueError as error:
        raise SettingsError(f"{path}: its first line, which holds settings of Tessera, is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: its first line, which holds settings of Tessera, is no JSON object")
    return found


def read_decoder(config: Configuration) -> tuple[DecoderChoice | None, tuple[str, ...]]:
    """Return the decoder that stands for the file's steps, None where none does, and what of them is left out.

    No step is ever run: the parameters of the ones that Tessera has are read, all others are named.
    """
    choice, notes = None, []
    for name, kwargs in decoding_steps(config):
        if name in COMMANDS:
            notes.append(
                f"the decoding step {name} is left out: it runs a command that the file names, which Tessera never does"
            )
        elif choice is None and name in DECODERS and (found := DECODERS[name](config, kwargs)):
            choice, ignored = found
            if ignored:
                notes.append(f"of the decoding step {name}, these are not taken over: {', '.join(ignored)}")
        else:
            notes.append(f"the decoding step {name[:80]} is left out: Tessera has no decoder like it")
    return choice, tuple(notes)


def decoding_steps(config: Configuration) -> list[tuple[str, dict[str, Any]]]:
    """Return the steps that are switched on, each by its name and arguments."""
    found = config.first("decoding.steps", "inference.decoding")
    if found is None and isinstance(config.content.get("decoding"), list):
        found = config.get("decoding")
    steps = []
    for step in found if isinstance(found, list) else ():
        if isinstance(step, dict) and step.get("enabled", True):
            kwargs = step.get("kwargs")
            name = step.get("name") or step.get("template") or "without a name"
            steps.append((str(name), kwargs if isinstance(kwargs, dict) else {}))
    return steps


def _threshold(config: Configuration, kwargs: dict[str, Any]) -> tuple[DecoderChoice, list[str]]:
    taken = {key: value for key, value in kwargs.items() if key == "threshold" and isinstance(value, int | float)}
    return DecoderChoice("threshold", tuple(taken.items())), [key for key in kwargs if key not in taken]


def _contour_distance(config: Configuration, kwargs: dict[str, Any]) -> tuple[DecoderChoice, list[str]] | None:
    if kwargs.get("mode", "watershed") != "watershed":
        return None
    taken: dict[str, Any] = {}
    for key, (name, _, _) in PAIRS.items():
        pair = kwargs.get(key)
        if pair is None:
            continue
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(one, int | float) for one in pair):
            raise config.complain(f"decoding.{key}", pair, "two numbers: for seeds, and for the foreground")
        taken |= {f"{name}_seed": float(pair[0]), name: float(pair[1])}
    taken |= {name: kwargs[key] for key, name in SIZES.items() if isinstance(kwargs.get(key), int)}
    known = {*PAIRS, *SIZES}
    ignored = [
        key
        for key, value in kwargs.items()
        if key not in known and value is not None and value != _DEFAULT_STEPS.get(key)
    ]
    return DecoderChoice("contour-distance", tuple(sorted(taken.items()))), ignored


# Each gives the decoder, and the parameters that it has no match for; None where there is no decoder like it.
_Translator = Callable[[Configuration, dict[str, Any]], tuple[DecoderChoice, list[str]] | None]
DECODERS: dict[str, _Translator] = {
    **dict.fromkeys((*CONTOUR_DISTANCE_NAMES, "decoding_bcd"), _contour_distance),
    **dict.fromkeys(("binary_thresholding", "decode_binary_thresholding"), _threshold),
}
