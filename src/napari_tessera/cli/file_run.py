"""A planned run over image files: each result is written as soon as its last frame is there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_tessera import api
from napari_tessera.cli.console import say
from napari_tessera.cli.exit import describe
from napari_tessera.cli.images import Item, open_items, open_mask, part_of, renumbered, request_of
from napari_tessera.cli.interrupt import cancel_on_stop, heard
from napari_tessera.cli.progress import RunProgress, show_progress
from napari_tessera.cli.setup import Choice
from napari_tessera.cli.targets import free_name, stem_of
from napari_tessera.core.errors import CancelledError, OutOfMemoryError
from napari_tessera.core.units import format_bytes
from napari_tessera.decode.classes import label_classes
from napari_tessera.jobs.pipeline import provenance

if TYPE_CHECKING:
    from napari_tessera import Model, Plan, Settings
    from napari_tessera.cli.outcome import Outcome
    from napari_tessera.decode import Decoder
    from napari_tessera.images.writers.output import TiffOptions
    from napari_tessera.jobs.job import Request
    from napari_tessera.jobs.result_stack import VolumeResult

__all__ = ["FileRun"]


@dataclass(frozen=True, slots=True)
class FileRun:
    """What is run on *items*, in the order of the plan; no *decoder* keeps the probabilities.

    *mask* is the name of the file that says where windows are computed; empty: everywhere.
    """

    items: Sequence[Item]
    request: Request
    planned: Plan
    decoder: Decoder | None
    mask: str = ""
    tiff: TiffOptions | None = None

    @classmethod
    def prepare(
        cls,
        outcomes: Sequence[Outcome],
        model: Model,
        settings: Settings,
        *,
        decoder: str | None = None,
        axes: str | None = None,
        voxel_size_um: tuple[float, ...] | None = None,
        channels: tuple[int, ...] | None = None,
        mask: Path | None = None,
        tiff: TiffOptions | None = None,
        choice: Choice | None = None,
    ) -> FileRun | None:
        """Open the images, find the windows to compute and plan the run; None if not one image could be opened.

        What goes wrong with an image is kept in its outcome, now and during the run. *decoder* is a name,
        ``"probabilities"`` for none, or None for the model's own.

        Raises
        ------
        SettingsError, InputError, ModelError
            If settings and model do not fit together, or the only image or its mask does not suit them.
        """
        chosen = None if decoder == api.PROBABILITIES else api.choose_decoder(model, settings, decoder)
        items = open_items(outcomes, model, settings, chosen, axes=axes, voxel_size_um=voxel_size_um, channels=channels)
        if not items:
            return None
        where = None if mask is None else open_mask(mask, items[0].image)
        request = request_of(items, model, settings, decoder, where).with_crops(on_error=_met_again)
        wanted = choice or Choice()
        planned = wanted.plan_request(request, _met_again)
        if len(items) > 1 and not _fits(planned):
            # The largest decides: without those that do not fit even alone, the others do.
            items = [
                item
                for item in items
                if _checked_alone(item, wanted.plan_request(part_of(request, [item]), _met_again))
            ]
            if not items:
                return None
            request, items = part_of(request, items), renumbered(items)
            planned = wanted.plan_request(request, _met_again)
        return cls(items, request, planned, chosen, "" if mask is None else mask.name, tiff)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell about how the images were understood."""
        return tuple(note for item in self.items for note in item.image.notes)

    def run(self, *, overwrite: bool = False, quiet: bool = False) -> None:
        """Run everything and write each result; what goes wrong with an image is kept in its outcome.

        Raises
        ------
        CancelledError
            Soon after Ctrl-C, SIGTERM or SIGHUP, whatever was at work; says what was written.
        """
        frames = [(item, frame) for item in self.items for frame in range(len(item.volumes))]
        names = [name for item in self.items for name in item.image.names]
        with cancel_on_stop() as cancel, show_progress(self.planned, names, quiet=quiet) as progress:
            # Labels of a part of a volume would take time that whoever cancels does not want to wait.
            results = self.request.run(
                self.planned, on_event=progress, cancel=cancel, keep_partial=False, keep_going=True
            )
            try:
                with closing(heard(results, cancel)) as results:
                    for result in results:
                        item, frame = frames[result.volume]
                        self._take(result, item, frame, progress)
                        if frame + 1 == len(item.volumes) and not item.result.is_empty:
                            self._write(item, progress, overwrite)
                            item.result.forget()
            except CancelledError as error:
                raise CancelledError(self._stopped(progress)) from error

    def _take(self, result: VolumeResult, item: Item, frame: int, progress: RunProgress) -> None:
        if progress.volumes:
            taken = progress.volumes[result.volume]
            item.outcome.seconds += taken.seconds
            item.outcome.passes_s += taken.passes_s
            item.outcome.decoding_s += taken.decoding_s
            item.outcome.forward_passes += taken.done
        if result.error is not None:
            item.outcome.failed_frames.append(frame)
            item.outcome.fail(item.image.names[frame], result.error)
        else:
            item.result.add(frame, result)

    def _write(self, item: Item, progress: RunProgress, overwrite: bool) -> None:
        item.outcome.count = item.count
        try:
            item.write(item.outcome.target, self._facts(item, progress), self.tiff, overwrite=overwrite)
        except Exception as error:  # a full disk or a fault of a writer must not cost the other images, nor this one
            item.outcome.fail(item.image.path.name, error)
            kept = self._keep(item, progress, "kept")
            say(f"the result is in '{kept}'" if kept else "nowhere else could it be written", kind="Warning")
            return
        item.outcome.written = True

    def _keep(self, item: Item, progress: RunProgress, word: str, **more: Any) -> Path | None:
        """Write what there is of a result under a free name beside its own, or where else there is room."""
        target, item.outcome.count = item.outcome.target, item.count
        for folder in (target.parent, Path.cwd(), Path(tempfile.gettempdir())):
            try:
                path = free_name(folder, stem_of(target), word)
                item.write(path, self._facts(item, progress) | more, self.tiff, overwrite=False)
            except Exception as error:  # the next folder's disk may have room
                say(describe(error), kind="Warning")
            else:
                item.outcome.kept = path
                return path
        return None

    def _facts(self, item: Item, progress: RunProgress) -> dict[str, Any]:
        """Return what the result's file says of its origin: what a reader needs to make it again."""
        own = slice(item.volumes.start, item.volumes.stop)
        facts = provenance(self.planned.of_volumes(own), self.request.model)
        facts |= {"source": item.image.path.name, "result": "labels" if self.decoder else "probabilities"}
        if item.image.channels is not None:
            facts["channels"] = item.image.channels
        facts |= {"voxel_size_um": item.image.file_voxel_size_um or "unknown", "image_notes": item.image.notes}
        classes = label_classes(self.request.model.spec, self.decoder) if self.decoder else ()
        if classes:
            facts["classes"] = [each.to_dict() for each in classes]
        if self.mask:
            facts["mask"] = self.mask
        if item.outcome.failed_frames:
            facts["failed_frames"] = item.outcome.failed_frames
        recovered = [event for event in progress.recovered if event.volume in item.volumes]
        if recovered:
            facts["sw_batch_size_when_memory_ran_out"] = recovered[-1].sw_batch_size
            facts["went_on_when_memory_ran_out_with"] = [event.remedy for event in recovered]
        if progress.noticed:
            facts["noticed"] = list(progress.noticed)
        return facts

    def _stopped(self, progress: RunProgress) -> str:
        """Keep the finished frames of an unfinished time series, and return what there is now and what not."""
        rescued = [self._rescue(item, progress) for item in self.items if not item.result.is_empty]
        ended = [item.outcome for item in self.items if item.outcome.written]
        done = [str(outcome.target) for outcome in ended]
        missing = [str(item.outcome.target) for item in self.items if not item.outcome.written]
        return (
            f"{progress.passes} of {progress.total} forward passes were done"
            f"; written: {', '.join(done + rescued) or 'nothing'}; not written: {', '.join(missing) or 'nothing'}"
        )

    def _rescue(self, item: Item, progress: RunProgress) -> str:
        n_added = item.result.n_added
        kept = self._keep(item, progress, "partial", complete=False, finished_frames=n_added)
        return f"{kept or 'nowhere'} ({n_added} of {len(item.volumes)} frames)"


def _fits(planned: Plan) -> bool:
    return planned.host.run_bytes <= planned.device.host_free_bytes


def _checked_alone(item: Item, planned: Plan) -> bool:
    """Whether the host's memory suffices for one image, by its plan; said if not."""
    if _fits(planned):
        return True
    needed, free = map(format_bytes, (planned.host.run_bytes, planned.device.host_free_bytes))
    sentence = f"the run needs {needed} of the host's memory beside the image, and {free} are free: crop the image"
    item.outcome.fail(item.image.path.name, OutOfMemoryError(sentence))
    return False


def _met_again(number: int, error: Exception) -> None:
    """Go on: the run meets the same error where it costs this image alone."""
