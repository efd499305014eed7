"""Test-time augmentation of PyTorch Connectomics as views of Tessera, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_tessera.engine.settings import Settings, TtaMode
from napari_tessera.models.formats.connectomics.config import Generation

if TYPE_CHECKING:
    from napari_tessera.models.formats.connectomics.config import Configuration

__all__ = ["Views", "read_views", "write_views"]

_PLACE = "inference.test_time_augmentation"


@dataclass(frozen=True, slots=True)
class Views:
    """The views that a configuration names.

    Parameters
    ----------
    axes
        Letters of those that are reflected, in the order z, y, x, in all combinations.
    transposed
        Whether each of these comes with a transpose of y and x, too.
    note
        What is different about them; empty where they are the very same.
    """

    axes: str = ""
    transposed: bool = False
    note: str = ""

    @property
    def tta_num(self) -> int:
        """How many they are."""
        return int(2 ** (len(self.axes) + self.transposed))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the description of a network has no place for: transposes, and views that Tessera does not have."""
        notes: tuple[str, ...] = (self.note,) if self.note else ()
        if self.transposed:
            notes += (f"its views are transposed along y and x, too: tta_num {self.tta_num} does the same",)
        return notes

    @property
    def mirror_axes(self) -> str | None:
        """The axes as the description of a network has them: None where augmentation is off, which says nothing."""
        return self.axes if self.tta_num > 1 else None

    def tta_axes(self, dims: int) -> str | None:
        """Return the axes as a setting: None where the fixed order of views begins with these."""
        names = "zyx"[-dims:]
        first = names.endswith(self.axes) if not self.transposed else names == self.axes
        return None if first else self.axes


def read_views(config: Configuration, dims: int) -> Views:
    """Return the views that *config* asks for in *dims* dimensions; a single one where it asks for none.

    Raises
    ------
    TesseraError
        Of the configuration's own type: if a number of views is none that there is.
    """
    names = "zyx"[-dims:]
    if config.generation is Generation.V1:
        return _read_v1(config, names)
    if config.generation is Generation.A:
        return Views(names if config.get(_PLACE) is True else "")
    if config.get(f"{_PLACE}.enabled") is not True:
        config.used.add(_PLACE)
        return Views()
    default = "all" if config.generation is Generation.C else None
    flips, exact = _read_flips(config.get(f"{_PLACE}.flip_axes", default), names)
    rotations = config.get(f"{_PLACE}.rotation90_axes")
    transposed = False
    if rotations not in (None, []):
        in_plane = rotations in ([[dims - 2, dims - 1]], [[-2, -1]]) or (rotations == "all" and dims == 2)
        # All rotations of a plane and one reflection make every reflection of it, each with and without a transpose.
        transposed = bool(set(flips) & set("yx")) and (in_plane or rotations == "all")
        exact &= transposed and in_plane
    exact &= config.get(f"{_PLACE}.rotate90_k") in (None, [0, 1, 2, 3])
    exact &= config.get(f"{_PLACE}.ensemble_mode", "mean") == "mean"
    exact &= config.first(f"{_PLACE}.flip_combinations", f"{_PLACE}.transforms") is None
    axes = "".join(axis for axis in names if axis in flips or (transposed and axis in "yx"))
    found = Views(axes, transposed)
    if exact:
        return found
    note = f"test-time augmentation becomes the mean of {found.tta_num} views, not the very ones that it names"
    return Views(axes, transposed, note)


def _read_v1(config: Configuration, names: str) -> Views:
    n, mode = config.get("INFERENCE.AUG_NUM", 1), config.get("INFERENCE.AUG_MODE", "mean")
    if n in (0, 1):
        return Views()
    # 4 are reflections in the plane; 8 their transposes, too; 16 those of z, too.
    known = {4: Views("yx"), 8: Views("yx", transposed=True), 16: Views(names, transposed=True)}
    if n not in known or n > 2 << len(names):
        raise config.complain("INFERENCE.AUG_NUM", n, "0, 4, 8 or, in 3D, 16")
    if mode == "mean":
        return known[n]
    note = f"the {n} views are averaged, not combined by '{str(mode)[:20]}'"
    return Views(known[n].axes, known[n].transposed, note)


def _read_flips(value: Any, names: str) -> tuple[str, bool]:
    """Return the axes that are reflected, and whether the file says just that."""
    if value in (None, "none", []):
        return "", True
    if value == "all":
        return names, True
    items = value if isinstance(value, list) else [value]
    dims = len(names)
    axes = {item % dims for item in items if type(item) is int and -dims <= item < dims}
    return "".join(names[axis] for axis in sorted(axes)), len(axes) == len(items)


def write_views(settings: Settings) -> dict[str, Any]:
    """Return the keys for the views of *settings*, where PyTorch Connectomics has the same ones; else none."""
    names = "zyx" if settings.window_size is None else "zyx"[-len(settings.window_size) :]
    axes = names if settings.tta_axes is None else settings.tta_axes
    n = settings.tta_num
    if n == 1 or settings.tta_mode is TtaMode.INTERLEAVED or not set(axes) <= set(names):
        return {"enabled": False}
    reflections = {2**k: axes[-k:] for k in range(1, len(axes) + 1)}
    if n in reflections:
        return {"enabled": True, "flip_axes": _numbers(reflections[n], names), "ensemble_mode": "mean"}
    if n == 2 << len(axes) and {"y", "x"} <= set(axes):
        flips = "all" if axes == names else _numbers(axes, names)
        planes = [_numbers("yx", names)]
        return {"enabled": True, "flip_axes": flips, "rotation90_axes": planes, "ensemble_mode": "mean"}
    return {"enabled": False}


def _numbers(axes: str, names: str) -> list[int]:
    return [names.index(axis) for axis in axes]
