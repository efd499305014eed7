"""The decoding steps of PyTorch Connectomics, read as decoders of Tessera."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_tessera.core.settings.choices import DecoderChoice

if TYPE_CHECKING:
    from napari_tessera.core.settings.connectomics_config import Configuration

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
        elif choice is None and (found := _translate(config, name, kwargs)) is not None:
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


def _translate(config: Configuration, name: str, kwargs: dict[str, Any]) -> tuple[DecoderChoice, list[str]] | None:
    """Return Tessera's decoder for one step, and the parameters that it has no match for; None where there is none."""
    return DECODERS[name](config, kwargs) if name in DECODERS else None


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


_Translator = Callable[["Configuration", dict[str, Any]], tuple[DecoderChoice, list[str]] | None]
DECODERS: dict[str, _Translator] = {
    **dict.fromkeys((*CONTOUR_DISTANCE_NAMES, "decoding_bcd"), _contour_distance),
    **dict.fromkeys(("binary_thresholding", "decode_binary_thresholding"), _threshold),
}
