"""What there is to know of a model, for the tooltip beside its name; and what is wrong with a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_tessera.core.settings.views import count_reflections
from napari_tessera.core.units import format_voxel_size

if TYPE_CHECKING:
    from napari_tessera.models.model import Model
    from napari_tessera.models.spec.spec import ModelSpec, WindowRule


def summary_of(model: Model) -> str:
    """Return the model's description, a fact per line."""
    spec = model.spec
    voxels = format_voxel_size(spec.voxel_size_um) if spec.voxel_size_um else "unknown"
    rule = spec.window
    facts = {
        "": spec.description,
        "axes": f"{'zyx'[-spec.spatial_dims :]}, {spec.in_channels} channel(s) in, {spec.out_channels} out",
        "output": spec.output.kind + (f" ({', '.join(spec.classes)})" if spec.classes else ""),
        "network output": spec.network_output,
        "voxel size": voxels,
        "window": f"{_sides(rule.default)}, "
        + (f"in steps of {_sides(rule.step)} from {_sides(rule.minimum)}" if any(rule.step) else "no other"),
        "mirrored axes": mirrored_axes(spec),
        "intensities": ", ".join(
            dict.fromkeys(" then ".join(step.mode for step in one.steps) for one in spec.normalisations)
        ),
        "decoder": spec.suggested_decoder.name,
        "from": model.origin,
        "licence": spec.licence,
        "citation": spec.citation,
    }
    lines = [f"{name}: {fact}" if name else fact for name, fact in facts.items() if fact]
    lines += [f"assumed: {sentence}" for sentence in spec.assumed]
    return "\n".join([*lines, *(f"not taken over: {note}" for note in model.notes)])


def mirrored_axes(spec: ModelSpec) -> str:
    """Return the axes along which the author averages over reflections, or the views; nothing where not known.

    Examples
    --------
    >>> from napari_tessera.models.spec.spec import ModelSpec, WindowRule
    >>> mirrored_axes(ModelSpec("n", 3, 1, 2, WindowRule.free(3), mirror_axes="zx"))
    'z, x: 4 views'
    """
    if spec.tta_views is not None:
        return f"{', '.join(spec.tta_views)}: {len(spec.tta_views)} views"
    if spec.mirror_axes is None:
        return ""
    if not spec.mirror_axes:
        return "none"
    return f"{', '.join(spec.mirror_axes)}: {count_reflections(spec.mirror_axes)} views"


def window_complaints(rule: WindowRule, window: tuple[int, ...]) -> dict[int, str]:
    """Return for each axis with a side that the model does not take what would do instead.

    Examples
    --------
    >>> from napari_tessera.models.spec.spec import WindowRule
    >>> window_complaints(WindowRule((64, 64), (16, 16), (16, 16)), (64, 100))
    {1: 'x must be a multiple of 16: 96 or 112'}
    """
    names = "zyx"[-len(rule.default) :]
    complaints = {}
    for axis, side in enumerate(window):
        allowed = rule.nearest(axis, side)
        if side not in allowed:
            step, least = rule.step[axis], rule.minimum[axis]
            sides = " or ".join(map(str, allowed))
            if step == 0:
                complaints[axis] = f"{names[axis]} must be {sides}"
                continue
            what = f"a multiple of {step}" if least % step == 0 else f"{least} + n × {step}"
            complaints[axis] = f"{names[axis]} must be {what}: {sides}"
    return complaints


def _sides(sides: tuple[int, ...]) -> str:
    return str(sides[0]) if len(set(sides)) == 1 else " × ".join(map(str, sides))
