"""The image files of a run, open and numbered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_tessera.cli.images import ImageFile
from napari_tessera.cli.targets import ResultFile
from napari_tessera.core.errors import SettingsError
from napari_tessera.decode.classes import makes_classes
from napari_tessera.jobs.request import Request

if TYPE_CHECKING:
    from napari_tessera import Model, Settings
    from napari_tessera.cli.outcome import Outcome
    from napari_tessera.decode import Decoder
    from napari_tessera.images.volume import ArrayLike

__all__ = ["Item", "open_items", "renumbered"]


@dataclass(frozen=True, slots=True)
class Item:
    """One image file that is run.

    Parameters
    ----------
    image
        The file.
    result
        Collects what the run gives for its frames.
    volumes
        Numbers of its frames among the volumes of the run.
    outcome
        Filled in while the run goes on.
    """

    image: ImageFile
    result: ResultFile
    volumes: range
    outcome: Outcome


def open_items(
    outcomes: Sequence[Outcome],
    model: Model,
    settings: Settings,
    decoder: Decoder | None,
    *,
    axes: str | None = None,
    voxel_size_um: tuple[float, ...] | None = None,
    channels: tuple[int, ...] | None = None,
) -> list[Item]:
    """Open the images; one that cannot be used is said and marked, so that the others still run.

    Parameters
    ----------
    outcomes
        One per image, in order.
    model, settings, decoder
        What they are to be run with; no decoder keeps the probabilities.
    axes, voxel_size_um
        What their axes mean and how large their voxels are, where the files do not say.
    channels
        Which of their channels the model is to see; None: all.

    Raises
    ------
    InputError
        If the only image cannot be used.
    SettingsError
        If the settings do not suit the model, whatever the image.
    """
    items: list[Item] = []
    for outcome in outcomes:
        try:
            image = ImageFile(outcome.image, model.spec, axes, voxel_size_um, channels=channels, files=outcome.files)
            image.check_resampling(settings)
        except SettingsError:
            raise
        # Whatever one file's header makes of its reader, the others still run.
        except Exception as error:
            if len(outcomes) == 1:
                raise
            outcome.fail(outcome.image.name, error)
            continue
        result = _result_file(image, decoder)
        outcome.counted = result.counted
        items.append(Item(image, result, range(len(image.loads)), outcome))
    return renumbered(items)


def renumbered(items: Sequence[Item]) -> list[Item]:
    """Return *items* with the numbers that their frames have when these are run, and no others."""
    stops = itertools.accumulate(len(item.volumes) for item in items)
    return [
        replace(item, volumes=range(stop - len(item.volumes), stop)) for item, stop in zip(items, stops, strict=True)
    ]


def request_of(
    items: Sequence[Item], model: Model, settings: Settings, decoder: str | None, mask: ArrayLike | None
) -> Request:
    """Return the request for all frames of *items*; a *mask* is of the only one."""
    volumes = [volume for item in items for volume in item.image.volumes(mask)]
    return Request(volumes, model, settings, decoder, results_held=max(len(item.volumes) for item in items))


def part_of(request: Request, items: Sequence[Item]) -> Request:
    """Return the part of *request* that is for *items*, by the numbers that their frames have in it."""
    return request.of([number for item in items for number in item.volumes], max(len(item.volumes) for item in items))


def _result_file(image: ImageFile, decoder: Decoder | None) -> ResultFile:
    axes, counted = image.spatial_axes, "objects"
    if decoder is None:
        axes, counted = f"C{axes}", "channels"
    elif makes_classes(decoder.name):
        counted = "classes"
    return ResultFile(axes, image.stack, image.file_voxel_size_um, counted=counted)
