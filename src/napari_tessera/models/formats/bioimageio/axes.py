"""What a bioimage.io description says of the axes: windows, channels, voxel size, halo, and the network's own order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from napari_tessera.core.errors import ModelError
from napari_tessera.models.spec.spec import WindowRule

# Micrometres per unit: the units of length that microscopes and telescopes use.
UM_PER_UNIT = {
    "angstrom": 1e-4,
    "attometer": 1e-12,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "femtometer": 1e-9,
    "foot": 304_800.0,
    "inch": 25_400.0,
    "kilometer": 1e9,
    "meter": 1e6,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "nanometer": 1e-3,
    "picometer": 1e-6,
    "yard": 914_400.0,
}
# Of a side, its step and the halo: far beyond what a network takes, and within what floating point tells apart.
MOST_VOXELS = 1_000_000
# Side of the window to begin with, where the size rule leaves a choice, by the number of spatial axes.
SIDE = {2: 256, 3: 64}


@dataclass(frozen=True, slots=True)
class Layout:
    """What the axes of input and output say.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    in_channels, out_channels
        Their names; one name where a tensor has no channel axis.
    window
        Which windows the network accepts.
    halo
        Voxels on each side in which a window's output is not to be trusted; None without any.
    voxel_size_um
        Micrometres, in image order; None if not every axis says.
    order_in, order_out
        Axes of the network's tensors, a letter each: b, c, z, y, x.
    one_by_one
        Whether a batch is always of one window.
    notes
        What is not taken over.
    """

    spatial_dims: int
    in_channels: tuple[str, ...]
    out_channels: tuple[str, ...]
    window: WindowRule
    halo: tuple[int, ...] | None
    voxel_size_um: tuple[float, ...] | None
    order_in: str
    order_out: str
    one_by_one: bool
    notes: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the network takes and gives (B, C, *spatial) in image order."""
        plain = f"bc{'zyx'[-self.spatial_dims :]}"
        return self.order_in == self.order_out == plain and not self.one_by_one


def read_layout(source: str, taken: Any, given: Any) -> Layout:
    """Return the layout of the input tensor *taken* and the output tensor *given*, both of `bioimageio.spec`."""
    order_in, order_out = _letters(source, "input", taken), _letters(source, "output", given)
    spatial = "".join(axis for axis in "zyx" if axis in order_in)
    if spatial not in ("zyx", "yx") or {*order_out} - {"b", "c"} != set(spatial):
        raise ModelError(
            f"{source} has the axes {order_in} in and {order_out} out, but Tessera needs y and x, or z, y and x, in "
            f"both"
        )
    axes_in, axes_out = _by_letter(order_in, taken), _by_letter(order_out, given)
    for letter in spatial:
        _refuse_other_size(source, letter, axes_in[letter], axes_out[letter])
    halos = [int(getattr(axes_out[letter], "halo", 0) or 0) for letter in spatial]
    window, notes = _window(source, spatial, [axes_in[letter] for letter in spatial], halos)
    voxel_size, unit_notes = _voxel_size([axes_in[letter] for letter in spatial])
    if "c" in axes_in and len(axes_in["c"].channel_names) > 1:
        notes += (f"The input channels are, in this order: {', '.join(map(str, axes_in['c'].channel_names))}.",)
    if getattr(taken, "pad", None) is not None:
        notes += ("Its padding of the input is not taken over: Tessera pads as its settings say.",)
    return Layout(
        spatial_dims=len(spatial),
        in_channels=_channels(axes_in),
        out_channels=_channels(axes_out),
        window=window,
        halo=_halo(source, window, halos),
        voxel_size_um=voxel_size,
        order_in=order_in,
        order_out=order_out,
        one_by_one=axes_in["b"].size == 1,
        notes=notes + unit_notes,
    )


def _letters(source: str, kind: str, tensor: Any) -> str:
    what, letters = f"{kind} '{tensor.id}'", ""
    for axis in tensor.axes:
        letter = {"batch": "b", "channel": "c"}.get(axis.type, str(axis.id))
        if axis.type not in ("batch", "channel", "space") or (axis.type == "space" and letter not in set("zyx")):
            raise ModelError(
                f"{source}: the {what} has the axis '{axis.id}' of type {axis.type}, but Tessera knows batch, channel "
                f"and the spaces z, y and x"
            )
        letters += letter
    if "b" not in letters or len(set(letters)) < len(letters):
        raise ModelError(f"{source}: the {what} has the axes {letters}, but it needs a batch and each axis once")
    return letters


def _by_letter(order: str, tensor: Any) -> dict[str, Any]:
    return dict(zip(order, tensor.axes, strict=True))


def _channels(axes: dict[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, axes["c"].channel_names)) if "c" in axes else ("",)


def _refuse_other_size(source: str, letter: str, axis_in: Any, axis_out: Any) -> None:
    """Raise unless the output's size is the input's: windows are stitched voxel by voxel."""
    size = axis_out.size
    if isinstance(size, int):
        same = size == axis_in.size
    else:
        # A reference gives: its axis's size x that axis's scale / the own scale + offset.
        same_as = {str(axis_in.id), str(getattr(axis_in.size, "axis_id", axis_in.id))}
        same = size.offset == 0 and axis_out.scale == axis_in.scale and str(size.axis_id) in same_as
    if not same:
        raise ModelError(
            f"{source}: the output's size along {letter} is not the input's ({size} for {axis_in.size}), but Tessera "
            f"stitches outputs of the window's size: such a network cannot be used"
        )


def _window(source: str, spatial: str, axes: Sequence[Any], halos: Sequence[int]) -> tuple[WindowRule, tuple[str, ...]]:
    """Return the rule: a fixed side, ``min + n * step``, or that of the axis that a side refers to."""
    by_id = {str(axis.id): axis for axis in axes}
    rules, notes = [], []
    for letter, axis, halo in zip(spatial, axes, halos, strict=True):
        size = axis.size
        _refuse_huge(source, letter, size, halo)
        if hasattr(size, "axis_id"):
            other = by_id.get(str(size.axis_id))
            if other is None or size.offset != 0 or other.scale != axis.scale:
                raise ModelError(
                    f"{source}: the input's size along {letter} hangs on another axis ({size}), which Tessera cannot "
                    f"offer: only sides that are equal"
                )
            notes.append(f"The window's side along {letter} must equal that along {size.axis_id}.")
            size = other.size
            _refuse_huge(source, letter, size, halo)
        if isinstance(size, int):
            rules.append((size, 0, size))
            continue
        # What is left between the halos must be something, so that windows can cover the volume with it.
        least = size.min + max(0, -(-(2 * halo + 1 - size.min) // size.step)) * size.step
        steps = max(0, round((SIDE[len(spatial)] - least) / size.step))
        rules.append((least + steps * size.step, size.step, least))
    default, step, minimum = (tuple(numbers) for numbers in zip(*rules, strict=True))
    return WindowRule(default, step, minimum), tuple(notes)


def _refuse_huge(source: str, letter: str, size: Any, halo: int) -> None:
    if isinstance(size, int):
        said = {"size": size}
    else:  # a rule of sides, or a reference to another axis, which has none of its own
        said = {"size.min": size.min, "size.step": size.step} if hasattr(size, "step") else {}
    for key, number in {**said, "halo": halo}.items():
        if number > MOST_VOXELS:
            raise ModelError(
                f"{source}: the {key} along {letter} is {str(number)[:40]}, but it must be at most {MOST_VOXELS} voxels"
            )


def _halo(source: str, window: WindowRule, halos: Sequence[int]) -> tuple[int, ...] | None:
    if any(2 * halo >= side for halo, side in zip(halos, window.default, strict=True)):
        raise ModelError(
            f"{source}: its halo of {tuple(halos)} voxels leaves nothing of its window of {window.default}"
        )
    return tuple(halos) if any(halos) else None


def _voxel_size(axes: Sequence[Any]) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    scales = [f"{axis.scale:g} {axis.unit or 'of no unit'}" for axis in axes]
    if all(axis.unit in UM_PER_UNIT for axis in axes):
        return tuple(axis.scale * UM_PER_UNIT[axis.unit] for axis in axes), ()
    if any(axis.unit is not None or axis.scale != 1 for axis in axes):
        return None, (f"Its voxel size is not taken over: the axes say {', '.join(scales)}.",)
    return None, ()
