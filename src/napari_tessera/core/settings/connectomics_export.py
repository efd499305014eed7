"""Settings as a file for PyTorch Connectomics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import yaml

from napari_tessera.core.errors import OutputError, SettingsError
from napari_tessera.core.settings.choices import Blend, TtaMode
from napari_tessera.core.settings.connectomics import CONTOUR_DISTANCE, MARK, NM_PER_UM, PAIRS, SIZES, read_values
from napari_tessera.core.settings.connectomics_config import Configuration, Generation
from napari_tessera.core.settings.connectomics_views import QUARTERS, Flips, view_of
from napari_tessera.core.settings.settings import Settings
from napari_tessera.core.settings.views import View, views
from napari_tessera.core.writing import write_text


def write_connectomics(path: str | Path, settings: Settings) -> tuple[str, ...]:
    """Write *settings* as a file of PyTorch Connectomics, of its newest generation; `from_yaml` reads it back.

    What its program has no key for stands in a comment at the top, which only Tessera reads. Returned are the names of
    the settings that its program will not know of.
    """
    path = Path(path)
    content = _sections(settings)
    text = yaml.safe_dump(content, sort_keys=False)
    plain = settings.to_dict()
    written = Configuration(path, content, error=SettingsError, generation=Generation.C)
    back = Settings.from_mapping(read_values(written)[0]).to_dict()
    other = {name: plain[name] for name in plain if plain[name] != back[name]}
    try:
        write_text(path, f"{MARK}{json.dumps(other, default=str)}\n{text}" if other else text)
    except OSError as error:
        raise OutputError(f"cannot write the settings file {path}: {error.strerror or error}") from error
    if content["inference"]["test_time_augmentation"]["enabled"]:
        for name in ("tta_axes", "tta_views"):  # its program has the same views, however they are named here
            other.pop(name, None)
    return tuple(other)


def _sections(settings: Settings) -> dict[str, Any]:
    window = None if settings.window_size is None else list(settings.window_size)
    content: dict[str, Any] = {
        "inference": {
            "window": {
                **({} if window is None else {"window_size": window}),
                "sw_batch_size": settings.sw_batch_size,
                "overlap": settings.overlap,
                # It has no gaussian; bump falls off towards the borders as that does, though faster.
                "blending": "bump" if settings.blend is Blend.GAUSSIAN else settings.blend.value,
            },
            "test_time_augmentation": _write_views(settings),
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


def _write_views(settings: Settings) -> dict[str, Any]:
    """Return the keys for the views of *settings*, where PyTorch Connectomics has the same ones; else none."""
    dims = 3 if settings.window_size is None else len(settings.window_size)
    named = {*(settings.tta_axes or ""), *(letter for name in (settings.tta_views or ())[1:] for letter in name)}
    if settings.tta_num == 1 or settings.tta_mode is TtaMode.INTERLEAVED or not named <= {"t", *"zyx"[-dims:]}:
        return {"enabled": False}
    seen = views(settings.tta_num, dims, settings.tta_axes, settings.tta_views)
    if not any(view.transpose for view in seen):
        flips = [view.flips for view in seen[1:]]
        return {"enabled": True, "flip_axes": _written(flips, dims), "ensemble_mode": "mean"}
    return _with_turns(seen, dims) or {"enabled": False}


def _with_turns(seen: Sequence[View], dims: int) -> dict[str, Any] | None:
    """Return the keys of which reflections and turns of the plane make just what is *seen*; None where none do."""
    plane, every = (dims - 2, dims - 1), [flip for n in range(dims + 1) for flip in combinations(range(dims), n)]
    for n in range(len(QUARTERS), 0, -1):
        for rest in combinations(QUARTERS[1:], n - 1):
            quarters = (0, *rest)
            flips = [flip for flip in every if all(view_of(flip, plane, k, dims) in seen for k in quarters)]
            made = {view_of(flip, plane, k, dims) for flip, k in product(flips, quarters)}
            if () in flips and made == set(seen) and len(seen) == len(made):
                keys = {"flip_axes": _written(flips[1:], dims), "rotation90_axes": [list(plane)]}
                turns = {} if quarters == QUARTERS else {"rotate90_k": list(quarters)}
                return {"enabled": True, **keys, **turns, "ensemble_mode": "mean"}
    return None


def _written(flips: Iterable[Flips], dims: int) -> Any:
    """Return the key for views of which each reflects one of *flips*, beside the identity."""
    listed = [list(flip) for flip in flips]
    if sorted(listed) == sorted(list(flip) for n in range(1, dims + 1) for flip in combinations(range(dims), n)):
        return "all"
    return listed or None
