"""A picture of a segmentation: one plane, as it is and under its labels, with a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from napari_tessera.images.writers.output import output_file

if TYPE_CHECKING:
    import numpy.typing as npt

PANEL_PIXELS = 480
MARGIN, TITLE, FONT_SIZE = 16, 36, 20
OPACITY = 0.45
BACKGROUND, INK = (24, 24, 27), (240, 240, 240)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One of the pictures side by side; *labels*, (Y, X), are laid over the image in colour, 0 left free."""

    title: str
    labels: npt.NDArray[Any] | None = None


def draw_picture(
    path: Path, plane: npt.NDArray[Any], panels: Sequence[Panel], *, pixel_size_um: float | None = None
) -> None:
    """Draw *plane*, (Y, X), once for every panel, side by side, as a PNG, which is replaced if it exists.

    The last panel with labels gives the colours. In the others the object that shares most with one of its objects has
    the same colour, and only that one, so that split and merged objects show.
    """
    scale = max(1, -(-PANEL_PIXELS // max(plane.shape)))
    height, width = (n * scale for n in plane.shape)
    canvas = Image.new("RGB", (MARGIN + len(panels) * (width + MARGIN), TITLE + height + 2 * MARGIN), BACKGROUND)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    grey = _to_grey(plane)
    reference = next((panel.labels for panel in reversed(panels) if panel.labels is not None), None)
    for number, panel in enumerate(panels):
        left = MARGIN + number * (width + MARGIN)
        picture = grey
        if panel.labels is not None and reference is not None:
            picture = _overlay(grey, panel.labels, match_colours(panel.labels, reference), scale)
        else:
            picture = _enlarge(grey, scale)
        canvas.paste(Image.fromarray(picture), (left, MARGIN + TITLE))
        draw.text((left, MARGIN), panel.title, INK, font)
    if pixel_size_um is not None:
        _draw_scale_bar(draw, font, (MARGIN, MARGIN + TITLE, width, height), scale / pixel_size_um)
    with output_file(path) as temporary:
        canvas.save(temporary, format="PNG")


def _to_grey(plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the image as (Y, X, 3), all but its darkest and brightest hundredth spread over black to white."""
    low, high = np.percentile(plane, (1, 99))
    grey = np.clip((plane - low) / max(high - low, 1e-9), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[..., np.newaxis], 3, axis=-1)


def _enlarge(picture: npt.NDArray[Any], scale: int) -> npt.NDArray[Any]:
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _overlay(
    grey: npt.NDArray[np.uint8], labels: npt.NDArray[Any], colours: npt.NDArray[np.uint8], scale: int
) -> npt.NDArray[np.uint8]:
    """Return the image under half-transparent colours, with dark lines between the objects."""
    mixed = grey.copy()
    inside = labels > 0
    mixed[inside] = ((1 - OPACITY) * grey[inside] + OPACITY * colours[labels[inside]]).astype(np.uint8)
    large, big_labels = _enlarge(mixed, scale), _enlarge(labels, scale)
    edge = np.zeros(big_labels.shape, bool)
    edge[1:] |= big_labels[1:] != big_labels[:-1]
    edge[:, 1:] |= big_labels[:, 1:] != big_labels[:, :-1]
    large[edge] = BACKGROUND
    return large


def match_colours(labels: npt.NDArray[Any], reference: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return a colour for every label, (n, 3): that of the reference object it matches best, else one of its own.

    Of several labels over one reference object, the largest share takes the colour.
    """
    n_labels, n_reference = int(labels.max()) + 1, int(reference.max()) + 1
    pairs, shared = np.unique(labels.astype(np.int64).ravel() * n_reference + reference.ravel(), return_counts=True)
    hue = np.arange(n_labels) + n_reference  # none of the reference's
    taken: set[int] = set()
    for pair in pairs[np.argsort(-shared)]:
        label, other = divmod(int(pair), n_reference)
        if label and other and other not in taken and hue[label] >= n_reference:
            hue[label] = other
            taken.add(other)
    return _palette(hue)


def _palette(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return one colour per number: neighbouring numbers get distant hues (golden ratio), at three brightnesses."""
    from skimage.color import hsv2rgb

    hsv = np.stack([numbers * 0.618034 % 1, 0.65 + 0.3 * (numbers % 2), 1 - 0.18 * (numbers % 3)], axis=-1)
    return np.asarray(hsv2rgb(hsv) * 255, np.uint8)


def scale_bar_um(width_um: float) -> float:
    """Return the round length, 1, 2 or 5 times a power of ten, nearest below a third of *width_um*.

    Examples
    --------
    >>> scale_bar_um(1.92), scale_bar_um(100.0)
    (0.5, 20.0)
    """
    limit = width_um / 3 * (1 + 1e-9)  # a third of 0.3 is just below 0.1 in floating point
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit))


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: tuple[int, int, int, int],
    pixels_per_um: float,
) -> None:
    left, top, width, height = box
    length_um = scale_bar_um(width / pixels_per_um)
    x, y = left + 12, top + height - 16
    draw.rectangle((x - 4, y - 32, x + length_um * pixels_per_um + 4, y + 10), fill=BACKGROUND)
    draw.text((x, y - 28), _length(length_um), INK, font)
    draw.rectangle((x, y, x + length_um * pixels_per_um, y + 5), fill=INK)


def _length(length_um: float) -> str:
    # The font that comes with Pillow has no Greek letters.
    return f"{length_um:g} um" if length_um >= 1 else f"{1000 * length_um:g} nm"
