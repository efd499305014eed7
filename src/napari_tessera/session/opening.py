"""What takes seconds and belongs on a thread: importing torch, opening a model, looking at the devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.models.model import Model


@dataclass(frozen=True, slots=True)
class Choices:
    """What there is to choose from on this machine.

    Parameters
    ----------
    settings
        The defaults.
    models
        Names of the bundled models, then of those in the user's folder.
    model_patterns
        Names of the files that can be opened, such as ``*.onnx``.
    model_formats
        What people call the formats that can be opened.
    devices
        Values of that setting.
    """

    settings: Settings
    models: tuple[str, ...]
    model_patterns: tuple[str, ...]
    model_formats: tuple[str, ...]
    devices: tuple[str, ...]


def open_libraries() -> Choices:
    """Import everything that a run needs, and return what there is to choose from."""
    from napari_tessera import api  # noqa: F401 - the first plan must not wait for it
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.models.folder import user_models
    from napari_tessera.models.formats.registry import FORMATS, MODEL_PATTERNS
    from napari_tessera.models.load import bundled_models

    return Choices(
        settings=Settings(),
        models=tuple(dict.fromkeys((*bundled_models(), *user_models()))),
        model_patterns=MODEL_PATTERNS,
        model_formats=tuple(dict.fromkeys(entry.open().name for entry in FORMATS)),
        devices=_devices(),
    )


def _devices() -> tuple[str, ...]:
    import torch

    cards = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    together = (",".join(cards),) if len(cards) > 1 else ()
    apple = ("mps",) if torch.backends.mps.is_available() else ()
    return ("auto", *cards, *together, *apple, "cpu")


def open_model(name: str | Path, *, trusted: Mapping[str, str] | None = None) -> Model:
    """Open a model.

    Parameters
    ----------
    name
        Of a bundled model or one in the user's folder, or the path of a file or folder.
    trusted
        Content that the user has just allowed to run, which is remembered, too: SHA-256 to file name.

    Raises
    ------
    UntrustedModelError, ModelError
        See `load_model`. Also where the content is no longer what the user was asked about.
    """
    from napari_tessera.core.errors import ModelError
    from napari_tessera.models.load import load_model
    from napari_tessera.models.safety.trusted_files import TrustStore

    notes: tuple[str, ...] = ()
    if trusted:
        try:
            TrustStore().remember(trusted)
        except ModelError as error:
            notes = (f"It is trusted until it is opened again: {error}.",)
    model = load_model(name, trust=(trusted or {}).keys())
    return replace(model, notes=(*model.notes, *notes))


def suitable_decoders(model: Model) -> tuple[str, ...]:
    """Return the names of the decoders that can use the model's output, the suggested one first."""
    from napari_tessera.core.errors import SettingsError
    from napari_tessera.decode import decoder_names, get_decoder

    suggested = model.spec.suggested_decoder
    suitable = []
    for name in decoder_names():
        try:
            parameters = dict(suggested.parameters) if name == suggested.name else {}
            get_decoder(name, **parameters).check(model.spec.output, model.spec.out_channels)
        except SettingsError:
            continue
        suitable.append(name)
    return tuple(sorted(suitable, key=lambda name: name != suggested.name))
