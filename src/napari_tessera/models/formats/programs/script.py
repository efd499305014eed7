"""TorchScript archives, opened. Doing so runs code from the file: only after the user has said that it may."""

from __future__ import annotations

import io
import warnings

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety.reasons import reason_of_torch


def open_script(
    content: bytes, label: str, extra_files: dict[str, str] | None = None, *, device: str = "cpu"
) -> torch.nn.Module:
    """Return the TorchScript network in *content*, in evaluation mode whatever mode it was saved in.

    Its weights lie in memory, or nowhere on the device ``meta``.

    Parameters
    ----------
    content
        The archive, which the user allows to run.
    label
        How errors call it.
    extra_files
        Filled with the content of the files of these names that lie in the archive.
    device
        Where its weights are put.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, and everywhere
            network: torch.nn.Module = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(content), map_location=device, _extra_files=extra_files
            )
    except Exception as error:  # whatever a damaged archive makes of torch's reader, IndexError included
        reason = reason_of_torch(error)
        raise ModelError(
            f"cannot open {label} as TorchScript, the file may be cut short ({reason}): get it again"
        ) from error
    return network.eval()
