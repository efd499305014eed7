"""Test-time augmentation of PyTorch Connectomics as views of Tessera.

Its releases count axes in two ways. Until March 2026, with ``model.architecture``, a flip named dimensions of a batch
less one: 1 is the first axis of the image. Since then, with ``model.arch``, 0 is. Rotations count from 0 in both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations, product
from math import gcd
from typing import TYPE_CHECKING, Any

from napari_tessera.core.settings.choices import IDENTITY
from napari_tessera.core.settings.connectomics_config import Generation
from napari_tessera.core.settings.views import View, count_reflections, max_views, views

if TYPE_CHECKING:
    from napari_tessera.core.settings.connectomics_config import Configuration

_PLACE = "inference.test_time_augmentation"
QUARTERS = (0, 1, 2, 3)

Flips = tuple[int, ...]
Plane = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Views:
    """The views that a configuration names, the identity first, each as often as it counts.

    A *refusal* says what Tessera has no match for, so that the names are a single view instead; a *note* what is not
    sure.
    """

    names: tuple[str, ...] = (IDENTITY,)
    refusal: str = ""
    note: str = ""

    def as_settings(self, dims: int) -> dict[str, Any]:
        """Return them as settings: as a number of those of the fixed order where they are these, else one by one."""
        for axes in (None, self._axes(dims)):
            if len(self.names) <= max_views(dims, axes):
                ordered = [view.name("zyx"[-dims:]) for view in views(len(self.names), dims, axes)]
                if Counter(ordered) == Counter(self.names):
                    return {"tta_num": len(self.names), "tta_axes": axes}
        return {"tta_num": len(self.names), "tta_views": self.names}

    def as_description(self, dims: int) -> dict[str, Any]:
        """Return them as the description of a network has them; nothing where augmentation is off."""
        axes = self._axes(dims)
        if len(self.names) == 1:
            return {}
        mirrored = [view.name("zyx"[-dims:]) for view in views(count_reflections(axes), dims, axes)]
        return {"mirror_axes": axes} if Counter(mirrored) == Counter(self.names) else {"tta_views": self.names}

    def notes(self, *, activates: bool) -> tuple[str, ...]:
        """Return what is different about them, where they come with a network that *activates* its output."""
        if self.refusal:
            return (f"a single view is suggested, not those that it names: {self.refusal}",)
        averaged = "views are activated before they are averaged there, and after it by Tessera"
        return tuple(filter(None, (self.note, averaged if activates and len(self.names) > 1 else "")))

    def _axes(self, dims: int) -> str:
        return "".join(axis for axis in "zyx"[-dims:] if any(axis in name for name in self.names if name != IDENTITY))


def read_views(config: Configuration, dims: int) -> Views:
    """Return the views that *config* asks for in *dims* dimensions; a single one where it asks for none."""
    if config.generation is Generation.V1:
        return _read_v1(config, dims)
    if config.generation is Generation.A:
        if config.get(_PLACE) is not True:
            return Views()
        return _read(config, dims, "inference.tta_flip_axes", "", "inference.tta_ensemble_mode", "all", first=1)
    flips, turns, mode = (f"{_PLACE}.{key}" for key in ("flip_axes", "rotation90_axes", "ensemble_mode"))
    is_new = config.generation is Generation.C or isinstance(config.get("model.arch"), dict)
    enabled = config.get(f"{_PLACE}.enabled")
    is_old = not is_new and config.get("model.architecture") is not None
    # Its releases before 2026 did not look at `enabled`.
    if enabled is not True and not (is_old and enabled is None and config.get(flips) is not None):
        config.used.add(_PLACE)
        return Views()
    if not (is_new or is_old or config.get(flips) in ("all", "none") or config.get(turns)):
        return Views(
            refusal=f"{flips} counts axes from 1 in releases until March 2026 and from 0 since, and nothing in "
            f"the file shows which it is of"
        )
    found = _read(config, dims, flips, turns, mode, "all" if is_new else None, first=0 if is_new else 1)
    note = f"releases since January 2026 make these views only with {_PLACE}.enabled: true" if not enabled else ""
    return found if found.refusal else Views(found.names, note=note)


def _read(
    config: Configuration, dims: int, flips_key: str, turns_key: str, mode_key: str, default: Any, *, first: int
) -> Views:
    """Return the views; *first* is the number of the first axis in flips."""
    flips = _read_flips(config, flips_key, default, dims, first)
    planes = _read_planes(config, turns_key, dims) if turns_key else []
    quarters = _read_quarters(config) if planes else [0]
    if any(axis < 0 for flip in flips for axis in flip):
        return Views(refusal=f"{flips_key} counts axes from 1 there, and 0 reverses the order of the channels")
    turned = [(flip, plane, k) for flip, plane, k in product(flips, planes or [(dims - 2, dims - 1)], quarters)]
    if any(k % 2 and set(plane) != {dims - 2, dims - 1} for _, plane, k in turned):
        return Views(refusal=f"{turns_key} turns planes other than that of y and x, of which Tessera has no views")
    found = [view_of(flip, plane, k, dims).name("zyx"[-dims:]) for flip, plane, k in turned]
    if planes:
        if first and len(set(Counter(found).values())) > 1:
            return Views(refusal=f"some of its releases count a view twice that {turns_key} gives twice")
        found = list(dict.fromkeys(found))
    mode = config.get(mode_key, "mean")
    modes = {mode} if isinstance(mode, str) else {str(one[-1]) if isinstance(one, list) else str(one) for one in mode}
    if modes != {"mean"} and len(found) > 1:
        return Views(refusal=f"{mode_key} is {', '.join(sorted(modes))[:40]}, and Tessera only averages views")
    if IDENTITY not in found:
        return Views(
            refusal=f"{_PLACE} leaves the image as it is out of its views, and Tessera always averages it, too"
        )
    counts = Counter(found)
    share = gcd(*counts.values())  # views that are all there twice are an average of each once
    once = Counter({name: count // share for name, count in counts.items()}) - Counter([IDENTITY])
    return Views((IDENTITY, *once.elements()))


def view_of(flip: Flips, plane: Plane, k: int, dims: int) -> View:
    """Return the view of which an image is reflected along *flip*, then turned *k* times by 90° in *plane*."""
    a, b = plane
    reflected = set(flip)
    if k % 2:  # a turn is a transpose and a reflection after it; reflections before it change places with it
        reflected = {{a: b, b: a}.get(axis, axis) for axis in flip}
    reflected ^= {0: set(), 1: {a}, 2: {a, b}, 3: {b}}[k]
    return View(tuple(sorted(reflected)), transpose=bool(k % 2))


def _read_flips(config: Configuration, key: str, default: Any, dims: int, first: int) -> list[Flips]:
    """Return what is reflected in each of the views, nothing first; below 0 is no axis of the image."""
    value = config.get(key, None if config.says(key) else default)
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return [()]
    if value in ("all", []):
        return [flip for n in range(dims + 1) for flip in combinations(range(dims), n)]
    items = value if isinstance(value, list) else [value]
    return [(), *(_read_axes(config, key, item, dims, first) for item in items)]


def _read_axes(config: Configuration, key: str, item: Any, dims: int, first: int) -> Flips:
    numbers = item if isinstance(item, list) else [item]
    if first and item in (0, []):  # a number that is taken for nothing
        return ()
    lowest = -dims - 1 if first else 0  # negative ones count from the end there, channels included
    wanted = f"all, none, or a list of axes from {first} to {dims - 1 + first}, or of lists of them, one for each view"
    if not all(type(axis) is int and lowest <= axis < dims + first for axis in numbers):
        raise config.complain(key, config.get(key), wanted)
    axes = [axis + dims if axis < 0 else axis - first for axis in numbers]
    return tuple(sorted(set(axes)))


def _read_planes(config: Configuration, key: str, dims: int) -> list[Plane]:
    value = config.get(key)
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return []
    if value == "all":
        return list(combinations(range(dims), 2))
    items = value if isinstance(value, list) else [value]
    if not all(
        isinstance(one, list) and len(set(one)) == 2 == len(one) and set(one) <= set(range(dims)) for one in items
    ):
        raise config.complain(key, value, f"all, none, or a list of pairs of axes from 0 to {dims - 1}")
    return list(dict.fromkeys((one[0], one[1]) for one in items))


def _read_quarters(config: Configuration) -> list[int]:
    key = f"{_PLACE}.rotate90_k"
    value = config.get(key, list(QUARTERS))
    items = value if isinstance(value, list) else [value]
    if not all(type(k) is int for k in items):
        raise config.complain(key, value, "a list of whole numbers of quarter turns")
    return list(dict.fromkeys(k % 4 for k in items)) or [0]


def _read_v1(config: Configuration, dims: int) -> Views:
    n, mode = config.get("INFERENCE.AUG_NUM", 1), config.get("INFERENCE.AUG_MODE", "mean")
    if n in (0, 1):
        return Views()
    # 4 are reflections in the plane; 8 their transposes, too; 16 those of z, too.
    if n not in (4, 8, 16) or n > 2 << dims:
        raise config.complain("INFERENCE.AUG_NUM", n, "0, 4, 8 or, in 3D, 16")
    if mode != "mean":
        return Views(refusal=f"INFERENCE.AUG_MODE is {str(mode)[:20]}, and Tessera only averages views")
    seen = views(n, dims, "yx" if n < 16 else None)
    return Views(tuple(view.name("zyx"[-dims:]) for view in seen))
