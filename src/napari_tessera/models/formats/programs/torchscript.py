"""TorchScript archives. They hold code, so they are opened only when the user trusts the file."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.loop.evaluation import evaluating
from napari_tessera.engine.loop.forward import margins_of, scores
from napari_tessera.engine.loop.several_outputs import (
    Shapes,
    assumed_output,
    choose_output,
    list_outputs,
    output_called,
    score_outputs,
    shapes_of,
)
from napari_tessera.models.formats.base import Description, Risk
from napari_tessera.models.formats.programs.embedded import EXTRA_FILE, find_description, read_extra
from napari_tessera.models.formats.programs.stored_program import open_script, remember_program
from napari_tessera.models.model import Model
from napari_tessera.models.safety.archive import open_archive
from napari_tessera.models.safety.contents import Content, expect
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

if TYPE_CHECKING:
    from napari_tessera.models.spec.model_file import ModelFile

# Sides to try when nothing is said of the network: every common down-sampling divides one of them.
PROBE_SIDES = (32, 64, 96, 128)
# Of a window that is really computed: a common network takes well below a gigabyte and a few seconds for it.
MOST_VOXELS = 64**3
GUESSED = "axes and channels are those of the first layer and of a trial, as nothing describes the network"


@dataclass(frozen=True, slots=True)
class TorchScript:
    """Archives that `torch.jit.save` wrote; *network_output*: the one to use of several, empty if nobody says."""

    name: ClassVar[str] = "TorchScript archive"
    network_output: str = ""

    def choosing(self, network_output: str) -> TorchScript:
        """Return the format of networks of which that output is used."""
        return TorchScript(network_output)

    def risk(self, path: Path) -> Risk | None:
        """Return that it is a program."""
        return Risk("opening it runs code from the file, with your rights", (path,))

    def describe(self, path: Path) -> Description:
        """Return what the description beside *path*, or inside it, says."""
        described = _described(path, _extra_file(path))
        return Description(None if described is None else described.spec)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the archive *path*.

        The description is ``<stem>.yaml`` beside the archive, else ``tessera.yaml`` inside it, else it is inferred from
        the first convolution and the shape that a trial without data, or a small one, gives (channels and dimensions
        only; the rest is assumed, and its description says so).
        """
        return _load(path, trusted.of(path), self.network_output)


FORMAT = TorchScript()


def _extra_file(path: Path, content: bytes | None = None) -> bytes:
    """Return the description inside the archive *path*, whose *content* may be read already; nothing without one."""
    expect(path, Content.SCRIPT, "save it with torch.jit.save")
    with open_archive(path, content) as archive:
        return read_extra(archive, path)


def _load(path: Path, content: bytes, network_output: str) -> Model:
    _extra_file(path, content)
    extra = {EXTRA_FILE: ""}
    network = open_script(content, str(path), extra)
    described = _described(path, extra[EXTRA_FILE])
    architecture = None if described is None else described.architecture
    remember_program(network, "torchscript", lambda: nullcontext(path), path, architecture=architecture)
    if described is not None:
        return Model(network, described.spec, str(path))
    return Model(network, _infer(network, path, content, network_output), str(path))


def _described(path: Path, text: str | bytes) -> ModelFile | None:
    return find_description(path, text, f"{EXTRA_FILE} inside {path}")


def _infer(network: torch.nn.Module, path: Path, content: bytes, network_output: str) -> ModelSpec:
    """Return what the first convolution and the shape of an output tell; of several, of *network_output*, if said."""
    kernel = next((p for p in network.parameters() if p.dim() in (4, 5)), None)
    if kernel is None:
        raise ModelError(f"{path} says nothing of its channels and axes: put a description beside it, {path.stem}.yaml")
    dims, in_channels = kernel.dim() - 2, int(kernel.shape[1])
    failure: Exception | None = None
    # On the meta device shapes are found without computing. What has tensors of its own elsewhere does not run there.
    for device, sides in (("meta", PROBE_SIDES), ("cpu", [s for s in PROBE_SIDES if s**dims <= MOST_VOXELS])):
        try:
            tried = network if device == "cpu" else open_script(content, str(path), device=device)
        except ModelError as error:
            failure = error
            continue
        for side in sides:
            try:
                window = torch.zeros(1, in_channels, *(side,) * dims, dtype=kernel.dtype, device=device)
                outputs = _outputs_of(tried, window, network_output)
                chosen = network_output or choose_output(outputs, out_channels=None, window=(side,) * dims)
                out_channels = outputs[chosen][1]
            except (RuntimeError, TypeError) as error:
                failure = error
                continue
            except ModelError as error:
                raise ModelError(f"{path}: {error}") from error
            assumed = [f"{GUESSED}: {path.stem}.yaml beside it can say them"]
            if len(outputs) > 1 and not network_output:
                assumed.append(assumed_output(chosen, outputs))
            assumed += assume("normalisation", "activation", "output")
            margins = margins_of(outputs[chosen][2:], (side,) * dims)
            halo = margins if margins and any(margins) else None
            if halo is not None:  # of what is coarser than the image, a wider window has wider margins
                wider = window.new_zeros(1, in_channels, *(side + PROBE_SIDES[0],) * dims)
                wide = _outputs_of(tried, wider, network_output).get(chosen, ())
                halo = halo if margins_of(wide[2:], wider.shape[2:]) == halo else None
            spec = ModelSpec(path.stem, dims, in_channels, out_channels, WindowRule.free(dims, halo=halo), halo=halo)
            return replace(spec, assumed=tuple(assumed), network_output=chosen)
    raise ModelError(
        f"{path} does not run on {in_channels}-channel windows of {PROBE_SIDES} voxels: "
        f"put a description beside it, {path.stem}.yaml"
    ) from failure


def _outputs_of(network: torch.nn.Module, windows: torch.Tensor, name: str) -> Shapes:
    """Return the shapes of what the network gives for *windows*, of *name* or all that have the axes of an image."""
    with evaluating(network), torch.inference_mode():
        output = network(windows)
    found = {name: output_called(name, output)} if name else score_outputs(output)
    images = {name: scores(tensor) for name, tensor in found.items() if tensor.dim() == windows.dim()}
    if not images:
        raise TypeError(f"it gives {list_outputs(shapes_of(found))}")
    return shapes_of(images)
