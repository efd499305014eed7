"""Which shape an image has at the voxel size of its model, and what resampling it and its result takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError, SettingsError
from napari_tessera.core.units import format_voxel_size
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.images.views.interpolation import CORNER_TOLERANCE, AxisResampling, ResamplingScheme
from napari_tessera.images.views.limits import measure_limits
from napari_tessera.images.views.normalised import MAPPING_BYTES
from napari_tessera.images.views.resample import (
    WORK_VOXELS,
    ResampledSource,
    estimate_read_bytes,
    iter_resampled_slabs,
    resample_labels,
    resample_linear,
)

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.engine.geometry.grid import Block
    from napari_tessera.engine.source import Source
    from napari_tessera.intensity.normalisation import Normalisation
    from napari_tessera.models.spec.spec import ModelSpec


# So near to the middle of two voxels, rounded positions fall to either side.
MIDDLE_TOLERANCE = 1e-4

Shape = tuple[int, ...]
_ROWS = (list, tuple, np.ndarray)
VoxelSize = tuple[float, ...]

# Sizes that differ by more are taken for a mistake in a unit: no microscope samples one axis so much more coarsely.
MOST_FACTOR = 100


@dataclass(frozen=True, slots=True)
class Resampling:
    """What becomes of an image whose voxel size is not its model's.

    Parameters
    ----------
    image_shape, image_voxel_size_um
        The image's own spatial shape, and its voxel size, micrometres.
    shape, voxel_size_um
        What the network sees. The size is the model's but for what whole numbers of voxels ask for.
    scheme
        How.
    steps
        Voxels of the image from one voxel of the network's to the next along every axis, on a grid where these do not
        follow from the shapes; else None.
    separate_axis, separate_axis_back
        The axis that is resampled by itself, on the way there and on the way back; None: there is none.
    """

    image_shape: Shape
    image_voxel_size_um: VoxelSize
    shape: Shape
    voxel_size_um: VoxelSize
    scheme: ResamplingScheme = field(default_factory=ResamplingScheme)
    separate_axis: int | None = None
    separate_axis_back: int | None = None
    steps: tuple[float, ...] | None = None

    @property
    def keeps_output(self) -> bool:
        """Whether the network's output is resampled to the image grid before it is activated and labels are decided."""
        return self.scheme.output_order is not None

    def wrap(self, source: Source) -> Source:
        """Return *source*, the image, as the network sees it."""
        limits = measure_limits(source, self.separate_axis) if self._may_overshoot else None
        return ResampledSource(
            source, self.shape, self.scheme, separate=self.separate_axis, steps=self.steps, limits=limits
        )

    @property
    def _axes(self) -> tuple[AxisResampling, ...]:
        return self.scheme.axes(self.image_shape, self.shape, self.separate_axis, self.steps)

    @property
    def _inverse_axes(self) -> tuple[AxisResampling, ...]:
        return self.scheme.inverse_axes(self.shape, self.image_shape, self.separate_axis_back, self.steps)

    @property
    def _may_overshoot(self) -> bool:
        return self.scheme.clip and any(axis.order == 3 and not axis.is_identity for axis in self._axes)

    def output_to_image_grid(
        self, output: npt.NDArray[Any], finish: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """Return what *finish* makes of the network's *output*, (C, *shape), on the image's own grid.

        *finish* is given parts in the image's voxels, float32 (C, *part), and gives (C', *part), voxelwise: only such
        parts are held, never all of it.
        """
        found: npt.NDArray[Any] | None = None
        for region, part in iter_resampled_slabs(output, self._inverse_axes):
            finished = finish(part)
            if found is None:
                found = np.empty((finished.shape[0], *self.image_shape), finished.dtype)
            found[(slice(None), *region)] = finished
        assert found is not None
        return found

    @staticmethod
    def estimate_finishing_bytes(channels: int) -> int:
        """Return what `output_to_image_grid` takes beside its argument and its result, at most.

        Two arrays of floats are interpolated from a third, and activating takes two more.
        """
        return 5 * 4 * max(WORK_VOXELS, channels)

    def to_image_grid(self, result: npt.NDArray[Any], *, is_labels: bool) -> npt.NDArray[Any]:
        """Return labels, (*shape), or probabilities, (C, *shape), on the image's own grid, in their own type.

        A voxel gets the label of the voxel that its middle lies in; probabilities are interpolated linearly.
        """
        steps = None if self.steps is None else tuple(1 / step for step in self.steps)
        return (resample_labels if is_labels else resample_linear)(result, self.image_shape, steps)

    def estimate_reading_bytes(self, grid: WindowGrid, block: Block, *, channels: int, itemsize: int) -> int:
        """Return what the host holds while *block* is read: resampled planes, and the part they come from."""
        sides = [part.stop - part.start for part in grid.reach(block)]
        axis = grid.sweep_axis
        sides[axis] = min(grid.window[axis], sides[axis])
        # Normalised values lie beside those of the image.
        read = itemsize + (4 if self.scheme.normalise_first else 0)
        at_once = estimate_read_bytes(self._axes, tuple(sides), channels, read)
        sides[axis] = min(2 * grid.window[axis], grid.shape[axis])
        at_once += MAPPING_BYTES if self.scheme.normalise_first else 0
        held: int = channels * self.itemsize(itemsize) * prod(sides)
        return at_once + held

    def itemsize(self, image_itemsize: int) -> int:
        """Return the bytes of a resampled value; those of 32 bits are taken to be floats."""
        return 4 if image_itemsize <= 4 or self.scheme.normalise_first else 8

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists of numbers by name; how, where it is not the usual way."""
        sizes = {
            "image_voxel_size_um": list(self.image_voxel_size_um),
            "shape": list(self.shape),
            "voxel_size_um": list(self.voxel_size_um),
        }
        return sizes if self.scheme == ResamplingScheme() else sizes | {"scheme": asdict(self.scheme)}


def expected_voxel_size(settings: Settings, spec: ModelSpec) -> VoxelSize | None:
    """Return the voxel size that the model expects, micrometres: the settings' word, else its own; None: unknown."""
    return settings.resolution or spec.voxel_size_um


def resamples(settings: Settings, spec: ModelSpec) -> bool:
    """Whether images of another voxel size are resampled: the user's word, else the model's."""
    return spec.resampling.usual if settings.resample is None else settings.resample


def deviation(own: VoxelSize, wanted: VoxelSize) -> float:
    """Return by which factor two voxel sizes differ along the axis where they differ most."""
    return max(max(a / b, b / a) for a, b in zip(own, wanted, strict=True))


def differ_too_much(own: VoxelSize, wanted: VoxelSize) -> bool:
    """Whether two voxel sizes differ by more than can be meant; False where they cannot be compared."""
    if len(own) != len(wanted) or min(own) <= 0:
        return False
    return deviation(own, wanted) > MOST_FACTOR


def check_resolution(settings: Settings, spec: ModelSpec) -> None:
    """Raise `SettingsError` if ``resolution`` has another number of axes than the model."""
    if settings.resolution is not None and len(settings.resolution) != spec.spatial_dims:
        raise SettingsError(
            f"resolution is {settings.resolution}, but a {spec.spatial_dims}D model needs {spec.spatial_dims} lengths"
        )


def sizes_of_volumes(
    voxel_size_um: VoxelSize | Sequence[VoxelSize | None] | None, volumes: int
) -> tuple[VoxelSize | None, ...]:
    """Return the voxel size of every volume, where one may be given for all.

    Raises
    ------
    InputError
        If there are not as many as volumes, or one is no length.
    """
    if voxel_size_um is None:
        return (None,) * volumes
    items: list[Any] = list(voxel_size_um) if isinstance(voxel_size_um, _ROWS) else []
    if not any(item is None or isinstance(item, _ROWS) for item in items):
        return (_checked(items or voxel_size_um),) * volumes
    if len(items) != volumes:
        raise InputError(
            f"there are {len(items)} voxel sizes for {volumes} volume(s): give one for each, or one for all"
        )
    return tuple(None if item is None else _checked(item) for item in items)


def _checked(size_um: Any) -> VoxelSize:
    try:
        sizes = tuple(float(size) for size in size_um)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) not in (2, 3) or not all(np.isfinite(sizes)) or min(sizes) <= 0:
        raise InputError(
            f"the voxel size of the image is {sizes or size_um!r}, but it needs one length above 0 per axis, "
            f"(z, y, x) or (y, x), in micrometres"
        )
    return sizes


def resampling_of(
    shape: Shape, voxel_size_um: VoxelSize | None, spec: ModelSpec, settings: Settings
) -> Resampling | None:
    """Return how an image is resampled, None where it is taken as it is.

    Raises
    ------
    SettingsError, InputError
        If the user wants it to be resampled, and a voxel size is unknown or differs by too much, or nobody has said
        so, and MONAI's rounding would decide on intensities.
    """
    check_resolution(settings, spec)
    wanted = expected_voxel_size(settings, spec)
    if not resamples(settings, spec):
        return None
    unclear = wanted is None or voxel_size_um is None or differ_too_much(voxel_size_um, wanted)
    if unclear and settings.resample is None:
        return None  # nobody has asked for it; the plan says so
    if wanted is None:
        raise SettingsError(
            f"resample is on, but the model '{spec.name}' does not say its voxel size: set resolution, or switch "
            f"resample off"
        )
    if voxel_size_um is None:
        raise InputError(
            f"resample is on, but the voxel size of the image is unknown: give it in micrometres, or switch resample "
            f"off (the model expects {format_voxel_size(wanted)})"
        )
    _check_sizes(shape, _checked(voxel_size_um), wanted)
    scheme, own = spec.resampling, tuple(voxel_size_um)
    exactly = settings.resample is not None  # who asks for it means it
    fitted = [scheme.fit(*of_axis, exactly=exactly) for of_axis in zip(shape, own, wanted, strict=True)]
    new, steps = tuple(side for side, _ in fitted), tuple(step for _, step in fitted if step is not None)
    if new == tuple(shape) and all(abs(step - 1) <= CORNER_TOLERANCE for step in steps):
        return None
    if not exactly:
        _refuse_what_rounding_decides(spec, own, wanted, tuple(zip(new, steps, strict=False)))
    there, back = scheme.separate_axis(own, wanted), scheme.separate_axis(wanted, own)
    if steps:
        reached = tuple(size * step for size, step in zip(own, steps, strict=True))
        return Resampling(tuple(shape), own, new, reached, scheme, there, back, steps)
    reached = tuple(a * side / other for side, a, other in zip(shape, own, new, strict=True))
    return Resampling(tuple(shape), own, new, reached, scheme, there, back)


def lay_windows(
    shape: Shape, voxel_size_um: VoxelSize | None, spec: ModelSpec, settings: Settings
) -> tuple[Resampling | None, WindowGrid]:
    """Return how an image, or a box of one, is resampled, and the windows that lie over it then.

    Raises the errors of `resampling_of`, and `SettingsError` if the window does not suit the model.
    """
    window = settings.window_size or spec.window.default
    spec.window.check(window)
    resampling = resampling_of(shape, voxel_size_um, spec, settings)
    seen = shape if resampling is None else resampling.shape
    grid = WindowGrid.regular(seen, window, settings.overlap, spec.tiling, spec.halo, spec.padding)
    return resampling, grid


def _refuse_what_rounding_decides(
    spec: ModelSpec, own: VoxelSize, wanted: VoxelSize, axes: Sequence[tuple[int, float]]
) -> None:
    """Refuse images of which MONAI's rounding decides the intensities: *axes* have voxels, and steps between them."""
    if any(_spares_what_is_blended(spec, one.steps) for one in spec.normalisations):
        which = "its intensities are taken where the resampled image is not 0 (nonzero)"
    elif spec.resampling.order == 0 and any(_has_middles(voxels, step) for voxels, step in axes):
        which = "voxels of the model lie in the very middle of two of the image, of which the nearest is taken"
    else:
        return
    raise InputError(
        f"the image has other voxels ({format_voxel_size(own)}) than the model ({format_voxel_size(wanted)}), and "
        f"{which}, which MONAI's rounding decides there: give it an image of its voxel size, or choose resample: true "
        f"(values may then differ from MONAI's) or false"
    )


def _has_middles(voxels: int, step: float) -> bool:
    return any(abs(place % 1 - 0.5) < MIDDLE_TOLERANCE for place in (number * step for number in range(voxels)))


def _spares_what_is_blended(spec: ModelSpec, steps: Sequence[Normalisation]) -> bool:
    """Whether *steps* leave out voxels that are 0 after MONAI has interpolated between voxels.

    Where a voxel that is 0 lies beside one that is not, its positions, which are off by 1e-15 voxels, make it 1e-13.
    """
    scheme = spec.resampling
    if scheme.grid != "corner" or scheme.order == 0 or scheme.normalise_first:
        return False
    for step in steps:
        numbers = dict(step.parameters)
        if step.has("nonzero"):
            return True
        if step.mode == "threshold" and numbers["at"] > 0 and numbers["fill"] == 0 and numbers.get("above", 1) == 1:
            return False
    return False


def _check_sizes(shape: Shape, own: VoxelSize, wanted: VoxelSize) -> None:
    if not len(own) == len(wanted) == len(shape):
        raise InputError(
            f"resample is on, but the voxel size of the image is {own} and that of the model {wanted}: both need one "
            f"length per axis of {tuple(shape)}"
        )
    if differ_too_much(own, wanted):
        raise InputError(
            f"the voxels of the image are {format_voxel_size(own)}, those of the model {format_voxel_size(wanted)}: "
            f"they differ by more than a factor of {MOST_FACTOR}, so check the unit, or switch resample off"
        )
