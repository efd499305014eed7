"""What a caller from Python gives as a model and as settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from napari_tessera.core.errors import ModelError, SettingsError
from napari_tessera.core.settings.settings import Settings
from napari_tessera.models.load import load_model
from napari_tessera.models.model import Model

GivenModel: TypeAlias = Model | str | Path
GivenSettings: TypeAlias = Settings | Mapping[str, Any] | None


def as_model(model: GivenModel) -> Model:
    """Return *model*, opened where it is a name or a path."""
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        return load_model(os.fspath(model))
    raise ModelError(
        f"the model is a {type(model).__name__}: give a Model, such as Model.from_network(network, ...) makes of a "
        f"network, or a name or path that load_model opens"
    )


def as_settings(settings: GivenSettings, model: Model) -> Settings:
    """Return *settings*, of a dictionary those that it names, of None what *model* suggests."""
    if settings is None:
        return model.suggested_settings()
    if isinstance(settings, Settings):
        return settings
    if isinstance(settings, Mapping):
        return Settings.from_mapping(settings)
    raise SettingsError(
        f"the settings are a {type(settings).__name__}: give Settings, a dictionary of their names and values, or "
        f"Settings.from_yaml(path)"
    )
