"""What a command leaves to Tessera to choose: windows per pass within a budget, and the window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_tessera import Model, Plan, Settings
    from napari_tessera.jobs.request import OnError, Request

    Find = Callable[[Settings], Sequence[npt.NDArray[Any] | None] | None]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen for the shortest time; nothing by default.

    Parameters
    ----------
    budget_bytes
        What the run may take of the device: ``sw_batch_size`` is chosen. None: what is free, if the window is.
    window
        Whether the window is chosen, and ``sw_batch_size`` with it.
    """

    budget_bytes: int | None = None
    window: bool = False

    def plan_request(self, request: Request, on_error: OnError) -> Plan:
        """Return the plan of *request*, of its settings or of what is chosen in their place.

        Parameters
        ----------
        request
            What is asked for; its images have been looked at for what the model crops.
        on_error
            Called with what goes wrong with a volume when its windows are found.
        """

        def find(settings: Settings) -> Sequence[Any] | None:
            return request.find_windows(settings, on_error=on_error)

        shapes = [volume.shape for volume in request.volumes]
        return self.plan(shapes, request.model, request.settings, find=find, **request.facts())

    def plan(
        self,
        shapes: Sequence[Sequence[int]],
        model: Model,
        settings: Settings,
        *,
        find: Find = lambda settings: None,
        **facts: Any,
    ) -> Plan:
        """Return the plan, of *settings* or of what is chosen in their place.

        Parameters
        ----------
        shapes, model, settings
            As for `napari_tessera.plan`.
        find
            Finds for settings which windows of every volume are computed.
        **facts
            Other arguments of `napari_tessera.plan`.

        Raises
        ------
        SettingsError, InputError, ModelError
            As `napari_tessera.plan` and `napari_tessera.autotune`.
        """
        from napari_tessera import api
        from napari_tessera.jobs import tuning

        if self.budget_bytes is None and not self.window:
            return api.plan(shapes, model, settings, window_masks=find(settings), **facts)
        return tuning.autotune(
            shapes, model, settings, self.budget_bytes, choose_window=self.window, window_masks=find, **facts
        )
