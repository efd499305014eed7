"""The settings that a model's author suggests beyond its window: overlap, blending, and the views of augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_tessera.core.settings.views import count_reflections

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.models.spec.spec import ModelSpec


def with_overlap_of(settings: Settings, spec: ModelSpec) -> Settings:
    """Return *settings* with the overlap that the model suggests for their window, if it does."""
    overlap = spec.overlap_at(settings.window_size)
    return settings if overlap is None else settings.replace(overlap=overlap)


def with_blend_of(settings: Settings, spec: ModelSpec) -> Settings:
    """Return *settings* with the blending that the model suggests, if it does."""
    return settings if spec.blend is None else settings.replace(blend=spec.blend)


def with_views_of(settings: Settings, spec: ModelSpec, *, tta_num: int | None = None) -> Settings:
    """Return *settings* with the views that the model names, or with the reflections of the axes it is mirrored along.

    *tta_num* is how many of them, all if None. Who asks for more than it names has those of the fixed order.
    """
    if spec.tta_views is not None and (tta_num or 0) <= len(spec.tta_views):
        count = tta_num or len(spec.tta_views)
        return settings.replace(tta_num=count, tta_axes=None, tta_views=spec.tta_views)
    if spec.mirror_axes is None:
        return settings
    # A model that was trained without mirroring gets one view; who asks for more may have those of all axes.
    count = tta_num or count_reflections(spec.mirror_axes)
    return settings.replace(tta_num=count, tta_axes=spec.mirror_axes or None, tta_views=None)


def without_views_of(settings: Settings, spec: ModelSpec) -> Settings:
    """Return *settings* with a single view, if theirs are those that the model suggests."""
    if not (spec.mirror_axes or spec.tta_views) or settings != with_views_of(settings, spec):
        return settings
    return settings.replace(tta_num=1, tta_axes=None, tta_views=None)
