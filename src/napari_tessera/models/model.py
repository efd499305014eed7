"""A network together with its description."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from napari_tessera.core.errors import ModelError, as_sentence
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.core.settings.settings import Settings
from napari_tessera.engine.loop.evaluation import evaluating
from napari_tessera.engine.loop.forward import UnusableWeightsError
from napari_tessera.engine.loop.several_outputs import with_output
from napari_tessera.models.spec.sentences import assume, still_assumed
from napari_tessera.models.spec.spec import DECODER_FOR, Activation, ModelSpec, OutputKind, OutputSpec, WindowRule
from napari_tessera.models.spec.suggestions import with_blend_of, with_overlap_of, with_views_of


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network and what Tessera must know about it.

    Parameters
    ----------
    network
        Called with float32 (B, C, *window), gives (B, C', *window).
    spec
        Its description.
    origin
        Where it came from, for people and for provenance: a path, ``"bundled"`` or ``"python"``.
    notes
        What its file says and Tessera does not take over, one sentence each, for people.
    """

    network: torch.nn.Module
    spec: ModelSpec
    origin: str = "python"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Leave out of a stranger's words what a terminal would obey; keep the network's one output."""
        object.__setattr__(self, "notes", tuple(map(as_sentence, self.notes)))
        object.__setattr__(self, "network", with_output(self.network, self.spec.network_output))

    @classmethod
    def from_network(
        cls,
        network: torch.nn.Module,
        *,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 3,
        activation: Activation | None = None,
        output: OutputKind = "semantic",
        window_step: int = 1,
        halo: tuple[int, ...] | None = None,
        name: str | None = None,
        network_output: str = "",
    ) -> Model:
        """Describe a network that is already in memory.

        Parameters
        ----------
        network
            Any module; it is not copied.
        in_channels, out_channels, spatial_dims
            Of the network's input and output.
        activation
            Applied to the stitched output: ``"sigmoid"``, ``"softmax"``, ``"tanh"`` or ``"none"``; None assumes the
            last, and the model's description says so.
        output
            What the channels mean (see `OutputSpec`); affinities need a full `ModelSpec`.
        window_step
            What every window side must be a multiple of.
        halo
            Voxels per axis along each side of a window in which its output is not to be trusted, or that are not in its
            output at all, as of convolutions without padding. The image is mirrored as far beyond its ends.
        name
            For people; the class's name by default.
        network_output
            Which of several tensors that it gives, where names and shapes leave that open: a key, or a number from 0.

        Raises
        ------
        ModelError
            If *network* is no module.
        """
        if not isinstance(network, torch.nn.Module):
            raise ModelError(
                f"the network is a {type(network).__name__}, not a torch.nn.Module: wrap it in one, so that "
                f"Tessera knows its weights"
            )
        spec = ModelSpec(
            name=name or type(network).__name__,
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            window=WindowRule.free(spatial_dims, step=window_step, halo=halo),
            halo=halo,
            activation=activation or "none",
            output=OutputSpec(output),
            network_output=network_output,
            assumed=assume("normalisation", *(["activation"] if activation is None else [])),
        )
        return cls(network, spec)

    def suggested_settings(self) -> Settings:
        """Return the default settings with the overlap, the blending and the views that the model's author suggests.

        The widget and the command line begin with these, and so do calls from Python that are given none.
        """
        settings = with_blend_of(with_overlap_of(Settings(), self.spec), self.spec)
        return with_views_of(settings, self.spec)

    def with_spec(self, **changes: object) -> Model:
        """Return the same network with fields of its description changed, which are then no longer assumed."""
        changes = {"assumed": still_assumed(self.spec.assumed, changes)} | changes
        if "output" in changes and self.spec.decoder == DecoderChoice(DECODER_FOR[self.spec.output.kind]):
            changes = {"decoder": None} | changes  # another kind of output brings its own
        return replace(self, spec=replace(self.spec, **changes))  # type: ignore[arg-type]

    def bytes_on(self, device: torch.device) -> int:
        """Return the bytes of weights and buffers that are on *device* now."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return sum(tensor.nbytes for tensor in tensors if tensor.device == device)

    @contextmanager
    def ready_on(self, device: torch.device) -> Iterator[torch.nn.Module]:
        """Lend the network, in evaluation mode on *device*; afterwards it is as it was and where it was."""
        network = self.network
        home = next((tensor.device for tensor in network.parameters()), device)
        with evaluating(network):
            try:
                yield network if home == device else network.to(device)
            except UnusableWeightsError as error:
                raise ModelError(f"{self.origin}: {error}") from error
            finally:
                if home != device:
                    network.to(home)


def activate(values: torch.Tensor, activations: Sequence[Activation]) -> torch.Tensor:
    """Return *values*, (C, *spatial) logits, activated channel by channel; in place where that is possible.

    Channels side by side that are of a softmax are of one.
    """
    start = 0
    for activation, same in groupby(activations):
        stop = start + len(list(same))
        part = values[start:stop]
        if activation == "sigmoid":
            part.sigmoid_()
        elif activation == "tanh":
            part.tanh_()
        elif activation == "softmax":
            if len(part) == len(values):
                return values.softmax(0)
            values[start:stop] = part.softmax(0)
        start = stop
    return values
