"""The settings that a model's author suggests beyond its window: overlap, and the views of test-time augmentation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_tessera.engine.settings import Settings
    from napari_tessera.models.spec import ModelSpec

__all__ = ["count_reflections", "with_overlap_of", "with_views_of"]


def with_overlap_of(settings: Settings, spec: ModelSpec) -> Settings:
    """Return *settings* with the overlap that the model suggests for their window, if it does."""
    overlap = spec.overlap_at(settings.window_size)
    return settings if overlap is None else replace(settings, overlap=overlap)


def with_views_of(settings: Settings, spec: ModelSpec, *, tta_num: int | None = None) -> Settings:
    """Return *settings* with the reflections of the axes that the model is mirrored along, if it says so.

    *tta_num* is how many of them, all if None.
    """
    if spec.mirror_axes is None:
        return settings
    # A model that was trained without mirroring gets one view; who asks for more may have those of all axes.
    return replace(settings, tta_num=tta_num or count_reflections(spec.mirror_axes), tta_axes=spec.mirror_axes or None)


def count_reflections(axes: str) -> int:
    """Return how many views all reflections of *axes* are, the identity included."""
    return int(2 ** len(axes))
