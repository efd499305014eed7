"""From options and a settings file to `Settings`, from a name to a model, and from both to a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from napari_tessera import Model, Plan, Settings
    from napari_tessera.jobs.job import OnError, Request


def merge_settings(file: Path | None, options: Mapping[str, Any]) -> Settings:
    """Return the settings of *file*, or the defaults, with those that are given as *options*.

    The file may be one of PyTorch Connectomics; what of it is not carried over is said.
    """
    from napari_tessera import Settings
    from napari_tessera.core.settings.views import count_reflections

    settings = _open_settings(file) if file else Settings()
    given = dict(options)
    if "tta_axes" in given:
        given.setdefault("tta_views", None)  # the file's
        given.setdefault("tta_num", count_reflections(given["tta_axes"]))  # axes alone stand for all their reflections
    if given.get("tta_views"):
        given.setdefault("tta_axes", None)  # the file's
        given.setdefault("tta_num", len(given["tta_views"]))
    parameters = dict(settings.decoder_parameters)
    if given.get("decoder", settings.decoder) != settings.decoder and settings.decoder is not None:
        parameters = {}  # the file's are those of another decoder
    parameters |= dict(_parse_parameter(text) for text in given.pop("decoder_parameters", ()))
    return settings.replace(decoder_parameters=tuple(parameters.items()), **given)


def _open_settings(file: Path) -> Settings:
    from napari_tessera import Settings, SettingsError
    from napari_tessera.cli.console import say
    from napari_tessera.core.settings.file import file_error
    from napari_tessera.decode import get_decoder

    settings, notes = Settings.open(file)
    for note in notes:
        say(note, kind="Note")
    try:
        if settings.decoder is not None:
            get_decoder(settings.decoder, **dict(settings.decoder_parameters))
    except SettingsError as error:
        field = "decoder_parameters" if error.by_field else "decoder"
        raise file_error(file, Settings, {field: str(error)}) from error
    return settings


def with_suggestions(settings: Settings, model: Model, *, file: Path | None, given: Mapping[str, Any]) -> Settings:
    """Return *settings* with what the model's author suggests, unless they are *given* or of a *file*."""
    from napari_tessera.models.spec.suggestions import with_blend_of, with_overlap_of, with_views_of

    if file is not None:
        return settings
    if "overlap" not in given:
        settings = with_overlap_of(settings, model.spec)
    if "blend" not in given:
        settings = with_blend_of(settings, model.spec)
    if not given.keys() & {"tta_axes", "tta_views"}:
        settings = with_views_of(settings, model.spec, tta_num=given.get("tta_num"))
    return settings


def check_mask_option(mask: Path | None, images: Sequence[object]) -> None:
    """Raise unless a mask, where one is given, has the one image that it belongs to."""
    if mask is not None and len(images) != 1:
        named = f"{len(images)} are named: run them one by one" if images else "none is named"
        raise typer.BadParameter(f"a mask belongs to one image file, and {named}", param_hint="--mask")


def _parse_parameter(text: str) -> tuple[str, Any]:
    from napari_tessera.core.plain_data import load_yaml

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"'{text}' is not of the form name=value", param_hint="--decoder-option")
    try:
        return name, load_yaml(value)
    except ValueError:
        return name, value


def open_model(name: str | None, *, trust: bool = False, network_output: str = "") -> Model:
    """Return the model called *name*, the bundled one if None; a file that is trusted is remembered."""
    from napari_tessera.cli.console import say, say_assumed
    from napari_tessera.core.errors import ModelError, UntrustedModelError
    from napari_tessera.models.load import BUNDLED, load_model
    from napari_tessera.models.safety.trusted_files import TrustStore

    name = BUNDLED if name is None else name
    try:
        model = load_model(name, network_output=network_output)
    except UntrustedModelError as error:
        if not trust:
            raise
        model = load_model(name, trust=error.files.keys(), network_output=network_output)
        try:
            TrustStore().remember({sha: path.name for sha, path in error.files.items()})
        except ModelError as unwritten:
            say(f"{name} is trusted for this run only: {unwritten}", kind="Warning")
    say_assumed(model.spec.assumed)
    for note in model.notes:
        say(note, kind="Note")
    return model


@dataclass(frozen=True, slots=True)
class Choice:
    """What is left to Tessera to choose for the shortest time: ``sw_batch_size`` within a budget, and the window.

    Without a budget and with the window, within what is free.
    """

    budget_bytes: int | None = None
    window: bool = False

    def plan_request(self, request: Request, on_error: OnError) -> Plan:
        """Return the plan of *request*; *on_error* gets what goes wrong with a volume when its windows are found."""

        def find(settings: Settings) -> Sequence[Any] | None:
            return request.find_windows(settings, on_error=on_error)

        shapes = [volume.shape for volume in request.volumes]
        return self.plan(shapes, request.model, request.settings, find, **request.facts())

    def plan(
        self,
        shapes: Sequence[Sequence[int]],
        model: Model,
        settings: Settings,
        find: Callable[[Settings], Sequence[Any] | None] = lambda settings: None,
        **facts: Any,
    ) -> Plan:
        """Return the plan of *settings*, or of what is chosen in their place; *find* finds the windows to compute."""
        from napari_tessera import api
        from napari_tessera.jobs import tuning

        if self.budget_bytes is None and not self.window:
            return api.plan(shapes, model, settings, window_masks=find(settings), **facts)
        return tuning.autotune(
            shapes, model, settings, self.budget_bytes, choose_window=self.window, window_masks=find, **facts
        )
