"""From a name or a path to a model: which loader opens it, and whether it may."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_tessera.errors import ModelError, UntrustedModelError, nearest
from napari_tessera.models.trust import TrustStore, fingerprint

if TYPE_CHECKING:
    from napari_tessera.models.model import Model

__all__ = ["BUNDLED", "MODEL_SUFFIXES", "TORCHSCRIPT_SUFFIXES", "bundled_models", "load_model"]

BUNDLED = "bundled"
SAFE_SUFFIXES = (".yaml", ".yml", ".safetensors")
TORCHSCRIPT_SUFFIXES = (".pt", ".ts", ".jit", ".torchscript")
MODEL_SUFFIXES = SAFE_SUFFIXES + TORCHSCRIPT_SUFFIXES

_FOLDER = Path(__file__).with_name("bundled")


def bundled_models() -> dict[str, Path]:
    """Return the models that come with Tessera: name to description file."""
    return {path.stem.replace("_", "-"): path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_model(model: str | Path, *, trust: bool = False, store: TrustStore | None = None) -> Model:
    """Open a model.

    Parameters
    ----------
    model
        ``"bundled"``, the name of a bundled model, or a path: a description (.yaml), safetensors weights with a
        description beside them, or a TorchScript archive (.pt, .ts, .jit, .torchscript).
    trust
        Whether the file may run code, for formats that do. Without it, files in the trust store still may.
    store
        The user's trust store by default.

    Raises
    ------
    UntrustedModelError
        If the format can run code and neither *trust* nor the store allows this file.
    ModelError
        If the model cannot be opened.
    """
    bundled = bundled_models()
    if str(model) == BUNDLED or str(model) in bundled:
        name = next(iter(bundled)) if str(model) == BUNDLED else str(model)
        return _load_safe(bundled[name], origin=BUNDLED)
    try:
        path = Path(model).expanduser()
    except RuntimeError as error:  # a home folder of nobody
        raise ModelError(f"there is no model {model}: {error}") from error
    if path.is_dir():
        path = _only_description(path)
    if not path.exists():
        raise ModelError(f"there is no model {model}{nearest(str(model), [BUNDLED, *bundled])}")
    if path.suffix.lower() in SAFE_SUFFIXES:
        return _load_safe(path)
    if path.suffix.lower() in TORCHSCRIPT_SUFFIXES:
        return _load_trusted(path, trust, store or TrustStore())
    raise ModelError(f"{path} has the ending '{path.suffix}'; Tessera opens {', '.join(MODEL_SUFFIXES)}")


def _only_description(folder: Path) -> Path:
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(found) != 1:
        raise ModelError(f"the folder {folder} holds {len(found)} descriptions (.yaml); name the one to open")
    return found[0]


def _load_safe(path: Path, origin: str | None = None) -> Model:
    from napari_tessera.models import safetensors_file

    return safetensors_file.load(path, origin=origin)


def _load_trusted(path: Path, trust: bool, store: TrustStore) -> Model:
    if not trust and not store.allows(path):
        raise UntrustedModelError(
            f"{path} is a TorchScript archive: opening it runs code from the file, with your rights. If you know where "
            f"it comes from, allow it with trust=True or --trust (SHA-256 {fingerprint(path)[:16]}...)"
        )
    from napari_tessera.models import torchscript

    return torchscript.load(path)
