"""How nnU-Net brings images to its spacing and its output back, as the plans name it, in Tessera's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    from napari_tessera.models.formats.nnunet.plans import Configuration

# Voxels this much longer along one axis than along the shortest are resampled plane by plane.
ANISOTROPIC = 3.0
# Of what plans say, as much as a sentence holds.
MOST_LETTERS = 200

# nnU-Net normalises first, decides labels on the image's grid, and resamples every image.
_COMMON = ResamplingScheme(
    antialias=False, edge="repeat", separate_above=ANISOTROPIC, normalise_first=True, output_order=1, usual=True
)
# For each of nnU-Net's functions: how images and output are resampled without arguments, and arguments that change
# nothing, each with the values that Tessera knows.
_SCHEMES: dict[str, ResamplingScheme] = allowed.NNUNET_RESAMPLING.handled(
    {
        "resample_data_or_seg_to_shape": replace(_COMMON, order=3, clip=True, separate_above=None),
        "resample_torch_fornnunet": _COMMON,
        "no_resampling_hack": ResamplingScheme(),
    }
)
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "is_seg": (False,),
    "mode": ("linear",),
    "aniso_axis_mode": ("nearest-exact",),
    "memefficient_seg_resampling": (True, False),
}
# Whatever they are, they change how long it takes and no value.
_OF_NO_CONSEQUENCE = ("num_threads", "device")


@dataclass(frozen=True, slots=True)
class FoundResampling:
    """The scheme, and sentences on what of the plans has no place in it."""

    scheme: ResamplingScheme
    notes: tuple[str, ...] = ()


def read_resampling(configuration: Configuration) -> FoundResampling:
    """Return how images are resampled, and output back, as far as Tessera can do the same."""
    name, back = configuration.resampling_fn_data, configuration.resampling_fn_probabilities
    if name == back == "no_resampling_hack":
        return FoundResampling(
            ResamplingScheme(), ("nnU-Net takes images for this network as they are: leave resample off.",)
        )
    there = _scheme(name, configuration.resampling_fn_data_kwargs)
    output = _scheme(back, configuration.resampling_fn_probabilities_kwargs)
    for function, arguments, found in (
        (name, configuration.resampling_fn_data_kwargs, there),
        (back, configuration.resampling_fn_probabilities_kwargs, output),
    ):
        if found is None:
            return _unknown(function, arguments)
    assert there is not None
    assert output is not None
    if (there.separate_above, there.separate_order) != (output.separate_above, output.separate_order):
        return _unknown(back, configuration.resampling_fn_probabilities_kwargs)
    if output.order == 3:
        return _unknown(back, configuration.resampling_fn_probabilities_kwargs)
    return FoundResampling(replace(there, output_order=output.order))


def _scheme(name: str, arguments: Mapping[str, Any]) -> ResamplingScheme | None:
    """Return what a function does with *arguments*; None where Tessera does not do the same."""
    known = _SCHEMES.get(name)
    if known is None or name == "no_resampling_hack":
        return None
    rest = dict(arguments)
    orders = rest.pop("order", known.order), rest.pop("order_z", 0)
    if not all(order in (0, 1, 3) and type(order) is int for order in orders) or orders[1] == 3:
        return None
    if orders == (3, 1):  # between planes that have been cut to limits of their own
        return None
    above = rest.pop("separate_z_anisotropy_threshold", ANISOTROPIC)
    # Not forced means that the threshold decides; to be left out means so for one of the functions alone.
    forced = rest.pop("force_separate_z", False if known.separate_above is None else None)
    if type(above) not in (int, float) or not above >= 1 or forced not in (None, False):
        return None
    understood = all(
        argument in _OF_NO_CONSEQUENCE or value in _WITHOUT_EFFECT.get(argument, ()) for argument, value in rest.items()
    )
    if not understood:
        return None
    separate = None if forced is False else float(above)
    return replace(known, order=orders[0], separate_order=orders[1], separate_above=separate, clip=orders[0] == 3)


def _unknown(function: str, arguments: Mapping[str, Any]) -> FoundResampling:
    said = ", ".join(f"{name}={value}" for name, value in arguments.items())[:MOST_LETTERS]
    return FoundResampling(
        ResamplingScheme(),
        (
            f"Its resampling by {function[:MOST_LETTERS]}({said}) is none that Tessera does: switch resample on for "
            f"Tessera's own, or bring images to its voxel size first.",
        ),
    )
