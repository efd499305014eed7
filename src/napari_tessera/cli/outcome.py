"""What became of each image file of a run."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from napari_tessera.cli.console import count, say
from napari_tessera.cli.exit import describe, exit_code_of, report
from napari_tessera.core.errors import InputError
from napari_tessera.core.units import format_duration

if TYPE_CHECKING:
    from napari_tessera.cli.channel_files import ImagePaths

MOST_NAMED = 5


@dataclass(slots=True)
class Outcome:
    """What became of one image file.

    *image* is its file, or what to call it where it is read from several *files*; *errors* has the name of the file or
    frame beside each. A result that could not get its name is *kept* elsewhere, whole or as far as it is finished.
    """

    image: Path
    target: Path
    skipped: str = ""
    errors: list[tuple[str, Exception]] = field(default_factory=list)
    failed_frames: list[int] = field(default_factory=list)
    written: bool = False
    kept: Path | None = None
    seconds: float = 0.0
    passes_s: float = 0.0
    decoding_s: float = 0.0
    forward_passes: int = 0
    count: int = 0
    counted: str = "objects"
    files: tuple[Path, ...] = ()

    def fail(self, name: str, error: Exception) -> None:
        """Remember *error*, which the file or frame *name* met, and say so at once."""
        self.errors.append((name, error))
        sentence = describe(error)
        report(error, sentence if self.image.name in sentence else f"{name}: {sentence}")

    def __str__(self) -> str:
        from napari_tessera.session.wording import WORTH_SAYING_S

        found, passes = count(self.count, self.counted), count(self.forward_passes, "forward passes")
        taken = format_duration(self.seconds)
        if self.decoding_s >= WORTH_SAYING_S:
            taken += f" (passes {format_duration(self.passes_s)}, labels {format_duration(self.decoding_s)})"
        return f"{self.kept or self.target}: {found}, {taken}, {passes}"

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain numbers, strings, lists and dictionaries."""
        return {
            "image": str(self.image),
            "result": str(self.target) if self.written else None,
            "kept_as": None if self.kept is None else str(self.kept),
            "skipped": self.skipped or None,
            self.counted: self.count,
            "seconds": round(self.seconds, 3),
            "passes_seconds": round(self.passes_s, 3),
            "decoding_seconds": round(self.decoding_s, 3),
            "forward_passes": self.forward_passes,
            "errors": [f"{name}: {describe(error)}" for name, error in self.errors],
        }


def end_with_errors(outcomes: Sequence[Outcome]) -> None:
    """Name the images that failed, and end with the exit code of the first error, if there is one."""
    failed = [outcome for outcome in outcomes if outcome.errors]
    if failed and len(outcomes) > 1:
        names = ", ".join(outcome.image.name for outcome in failed)
        say(f"{len(failed)} of {len(outcomes)} images failed: {names}", kind="Error")
    if failed:
        _, error = failed[0].errors[0]
        raise typer.Exit(exit_code_of(error))


def without_mask(images: Sequence[Path], mask: Path | None) -> list[Path]:
    """Return *images* without the mask of one of them, which ``*.tif`` takes along."""
    others = [image for image in images if mask is None or os.path.realpath(image) != os.path.realpath(mask)]
    return others or list(images)


def choose_outcomes(
    images: Sequence[ImagePaths],
    output: Path,
    *,
    own: Collection[Path],
    kind: str,
    overwrite: bool,
    skip_existing: bool,
    many: bool,
) -> list[Outcome]:
    """Return what becomes of each image: where its result goes, or why it is left out, which is said.

    Found out before the seconds that torch takes to load. *own*, from `results_among`, are left out; the rest is as for
    `choose_targets`, errors included.
    """
    from napari_tessera.cli.targets import choose_targets

    inputs = [image for image, _ in images if image not in own]
    chosen = choose_targets(
        output,
        inputs,
        kind=kind,
        overwrite=overwrite,
        skip_existing=skip_existing,
        many=many,
        files=[file for image, files in images if image not in own for file in files],
    )
    targets = dict(zip(inputs, chosen, strict=True))
    outcomes = [Outcome(image, targets.get(image, image), files=files) for image, files in images]
    there = {image for image, target in targets.items() if skip_existing and os.path.lexists(target)}
    if there:
        say(f"{_named(there)} left out: a file of the result's name exists, which is not looked at", kind="Note")
    for outcome in outcomes:
        if outcome.image in own:
            outcome.skipped = "it is a result of Tessera"
        elif outcome.image in there:
            outcome.skipped = f"'{outcome.target}' exists"
    return outcomes


def results_among(images: Sequence[ImagePaths]) -> set[Path]:
    """Return which of several images are results of Tessera, taken along by ``*.tif``, and say that they are left out.

    `InputError` if all are.
    """
    from napari_tessera.cli.targets import is_result

    own = {image for image, files in images if is_result(files[0])}
    if len(images) == 1:
        if own:
            say(f"'{images[0][0].name}' is itself a result of Tessera", kind="Warning")
        return set()
    if len(own) == len(images):
        raise InputError(f"all {len(own)} images are results of Tessera: to run one all the same, name it alone")
    if own:
        say(f"{_named(own)} left out: made by Tessera; to run such a file all the same, name it alone", kind="Note")
    return own


def _named(images: Collection[Path]) -> str:
    """Return the names of a few, and how many more there are."""
    names = sorted(image.name for image in images)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more} {'is' if len(names) == 1 else 'are'}"
