"""One run, fixed when it starts: what is planned is what is run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt

from napari_tessera.engine.events import DecodingStarted, Event, EventHandler, MemoryRecovered
from napari_tessera.session.results import ImageResult, ResultStack

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.decode import Decoder
    from napari_tessera.engine.settings import Settings
    from napari_tessera.models.model import Model
    from napari_tessera.pipeline import VolumeResult
    from napari_tessera.session.sources import VolumeInput

__all__ = ["Outputs", "Task"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a run gives; at least one of them."""

    labels: bool = True
    probabilities: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Volumes, model and settings of one plan or run. Its methods belong on a thread: they load torch.

    Parameters
    ----------
    volumes
        What to run on; volumes of one image follow one another.
    model, settings, outputs
        What to run and how, and what to keep.
    """

    volumes: tuple[VolumeInput, ...]
    model: Model
    settings: Settings
    outputs: Outputs

    @property
    def trace_key(self) -> tuple[object, ...]:
        """What the network's traced memory depends on, besides the network."""
        return self.settings.window_size, self.settings.precision, self.settings.device

    def resolve(self) -> Plan:
        """Return the plan of this task.

        Raises
        ------
        SettingsError, InputError, ModelError
            If volumes, settings and model do not fit together.
        """
        if not self.outputs.probabilities:
            return self._plan(None)
        kept = self._plan(_probabilities())
        if not self.outputs.labels:
            return kept
        plan = self._plan(None)
        return replace(
            plan,
            host_bytes=plan.host_bytes + kept.output_bytes,
            output_bytes=plan.output_bytes + kept.output_bytes,
        )

    def _plan(self, decoder: str | None) -> Plan:
        from napari_tessera import api

        return api.plan(
            [volume.shape for volume in self.volumes],
            self.model,
            self.settings,
            decoder=decoder,
            dtype=max((volume.dtype for volume in self.volumes), key=lambda dtype: dtype.itemsize),
            voxel_size_um=self.volumes[0].voxel_size_um,
        )

    def promises(self) -> tuple[ImageResult, ...]:
        """Return for every image an empty result of the shape that `execute` will fill."""
        firsts = {id(volume.image): volume for volume in reversed(self.volumes)}
        return tuple(
            ResultStack(volume, self._frames_of(volume), self.model.spec).promise(
                labels=self.outputs.labels, probabilities=self.outputs.probabilities
            )
            for volume in reversed(firsts.values())
        )

    def execute(
        self,
        plan: Plan | None,
        *,
        on_plan: Callable[[Plan], object],
        on_event: EventHandler,
        on_result: Callable[[ImageResult], object],
        cancel: threading.Event,
    ) -> None:
        """Run, and hand on the result of every image as soon as it is there.

        Parameters
        ----------
        plan
            From `resolve`; resolved now if None.
        on_plan, on_event, on_result
            Called on this thread: once, often, and once per frame.
        cancel
            Stops the run within one forward pass; what was finished is handed on, marked incomplete.

        Raises
        ------
        TesseraError
            CancelledError, or whatever went wrong; results finished before it have been handed on.
        """
        from napari_tessera.api import provenance

        plan = plan or self.resolve()
        on_plan(plan)
        recoveries: list[MemoryRecovered] = []

        def observe(event: Event) -> None:
            if isinstance(event, MemoryRecovered):
                recoveries.append(event)
            on_event(event)

        origin = provenance(plan, self.model)
        stack: ResultStack | None = None
        try:
            for volume, result, labels in self._iter_results(plan, observe, cancel):
                if stack is None or stack.image is not volume.image:
                    stack = ResultStack(volume, self._frames_of(volume), self.model.spec)
                stack.add(result, labels, keep_probabilities=self.outputs.probabilities)
                if stack.is_full and not stack.has_content:
                    continue
                on_result(stack.result(origin, recoveries, final=stack.is_full))
        except Exception:
            if stack is not None and not stack.is_full and stack.has_content:
                on_result(stack.result(origin, recoveries, final=True))
            raise

    def _frames_of(self, volume: VolumeInput) -> int:
        return sum(other.image is volume.image for other in self.volumes)

    def _iter_results(
        self, plan: Plan, on_event: EventHandler, cancel: threading.Event
    ) -> Iterator[tuple[VolumeInput, VolumeResult, npt.NDArray[Any] | None]]:
        """Yield every volume with its result and its labels, where labels are wanted."""
        from napari_tessera.api import choose_decoder
        from napari_tessera.pipeline import iter_results

        decoder = choose_decoder(self.model, self.settings) if self.outputs.labels else None
        swept_to_labels = None if self.outputs.probabilities else decoder
        loads = [volume.load for volume in self.volumes]
        generator = iter_results(loads, self.model, plan, swept_to_labels, on_event=on_event, cancel=cancel)
        with closing(cast("Generator[VolumeResult]", generator)) as results:
            # The generator first: its last step, after the last volume, closes the run.
            for result, volume in zip(results, self.volumes, strict=True):
                if decoder is None or swept_to_labels is not None:
                    yield volume, result, None if decoder is None else result.array
                    continue
                on_event(DecodingStarted(result.volume, decoder.name))
                yield volume, result, _decode(result, decoder, self.model)


def _decode(result: VolumeResult, decoder: Decoder, model: Model) -> npt.NDArray[Any]:
    """Return the labels of kept probabilities; planes that a cancelled sweep did not reach stay background."""
    from napari_tessera.decode.reduce import restore_probabilities

    def decode(probabilities: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return decoder.decode(decoder.reduce(restore_probabilities(probabilities), model.spec.output).numpy())

    return result.finished.decode(result.array, decode)


def _probabilities() -> str:
    from napari_tessera.api import PROBABILITIES

    return PROBABILITIES
