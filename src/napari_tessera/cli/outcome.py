"""What became of each image file of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_tessera.cli.console import count
from napari_tessera.cli.exit import describe, report
from napari_tessera.session.cost import WORTH_SAYING_S
from napari_tessera.units import format_duration

__all__ = ["Outcome"]


@dataclass(slots=True)
class Outcome:
    """What became of one image file.

    Parameters
    ----------
    image, target
        The image's file and the result's.
    errors
        What went wrong: the name of the file or the frame, and the error.
    failed_frames
        Frames without a result; 0 for an image without a time axis.
    written
        Whether the result stands under its name.
    seconds, passes_s, decoding_s, forward_passes
        That it took; of the seconds those of the passes and of making labels.
    count, counted
        What there is in the result; see `ResultFile`.
    """

    image: Path
    target: Path
    errors: list[tuple[str, Exception]] = field(default_factory=list)
    failed_frames: list[int] = field(default_factory=list)
    written: bool = False
    seconds: float = 0.0
    passes_s: float = 0.0
    decoding_s: float = 0.0
    forward_passes: int = 0
    count: int = 0
    counted: str = "objects"

    def fail(self, name: str, error: Exception) -> None:
        """Remember *error*, which the file or frame *name* met, and say so at once."""
        self.errors.append((name, error))
        sentence = describe(error)
        report(error, sentence if self.image.name in sentence else f"{name}: {sentence}")

    def __str__(self) -> str:
        found, passes = count(self.count, self.counted), count(self.forward_passes, "forward passes")
        taken = format_duration(self.seconds)
        if self.decoding_s >= WORTH_SAYING_S:
            taken += f" (passes {format_duration(self.passes_s)}, labels {format_duration(self.decoding_s)})"
        return f"{self.target}: {found}, {taken}, {passes}"

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain numbers, strings, lists and dictionaries."""
        return {
            "image": str(self.image),
            "result": str(self.target) if self.written else None,
            self.counted: self.count,
            "seconds": round(self.seconds, 3),
            "passes_seconds": round(self.passes_s, 3),
            "decoding_seconds": round(self.decoding_s, 3),
            "forward_passes": self.forward_passes,
            "errors": [f"{name}: {describe(error)}" for name, error in self.errors],
        }
