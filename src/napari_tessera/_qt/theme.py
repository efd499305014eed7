"""Colours from napari's theme, for what a style sheet does not reach."""

from __future__ import annotations

import colorsys
from typing import Any

from napari.utils.theme import get_theme
from psygnal import Signal

from napari_tessera.session.wording import Tone

# napari's themes have a colour for warnings and one for errors, but none for what is well.
GOOD = "#3f9e5a"
# Contrast that WCAG 2 asks of text. Errors in napari's dark theme and warnings in its light one have half of it.
TEXT_CONTRAST = 4.5


class Theme:
    """The viewer's colours now; `changed` says that the user has chosen others."""

    changed = Signal()

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._colours, self._readable = get_theme(viewer.theme), dict[Tone, str]()
        viewer.events.theme.connect(self._follow)

    def close(self) -> None:
        """Follow the viewer no longer."""
        self._viewer.events.theme.disconnect(self._follow)
        self.changed.disconnect()

    def _follow(self, event: Any = None) -> None:
        self._colours = get_theme(self._viewer.theme)
        self._readable.clear()
        self.changed.emit()

    def colour(self, name: str) -> str:
        """Return one of the theme's colours, such as ``"text"`` or ``"secondary"``, as ``#rrggbb``."""
        return str(getattr(self._colours, name).as_hex(format="long"))

    def of(self, tone: Tone) -> str:
        """Return the colour of text of *tone*."""
        if tone is Tone.PLAIN:
            return self.colour("text")
        if tone not in self._readable:
            colour = GOOD if tone is Tone.GOOD else self.colour("warning" if tone is Tone.WARNING else "error")
            self._readable[tone] = readable(colour, self.colour("background"))
        return self._readable[tone]


def readable(colour: str, background: str) -> str:
    """Return *colour*, lighter or darker as far as text on *background* needs it; both ``#rrggbb``.

    Examples
    --------
    >>> readable("#ffffff", "#23242b"), readable("#99121f", "#23242b")
    ('#ffffff', '#eb5967')
    """
    hue, lightness, saturation = colorsys.rgb_to_hls(*_channels(colour))
    ground = _luminance(_channels(background))
    step = 0.02 if ground < 0.18 else -0.02
    while True:
        channels = colorsys.hls_to_rgb(hue, lightness, saturation)
        low, high = sorted((_luminance(channels), ground))
        if (high + 0.05) / (low + 0.05) >= TEXT_CONTRAST or not 0 < lightness < 1:
            return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)
        lightness = min(max(lightness + step, 0.0), 1.0)


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _luminance(channels: tuple[float, float, float]) -> float:
    """Return the relative luminance as WCAG 2 defines it."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
