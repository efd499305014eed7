"""The settings that make a run fastest within a budget of memory, found from plans alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from math import ceil, prod
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError, SettingsError
from napari_tessera.core.units import format_bytes
from napari_tessera.memory.calibration.pass_time import PassTime
from napari_tessera.memory.device_state import HEADROOM
from napari_tessera.planning.advice import largest_fitting_batch

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.models.spec.spec import WindowRule
    from napari_tessera.planning.plan import Plan


# Of the largest batch that is planned to fit, how much is taken at least while nothing is known of the time: fewer
# windows may need as few passes. More than the 80 % that are promised of what really fits: plans count their error in.
SHARE_OF_LARGEST = 0.9
# Plans whose times differ by less are taken to be as fast: the one that leaves more memory to others is chosen.
SAME_TIME = 0.02

# Sides of windows that are compared, as multiples of the default's.
LARGER = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
SMALLER = (0.75, 0.5, 0.25)
# What a window costs while nothing has been timed: its voxels count, not its seconds.
BY_VOXELS = PassTime(((1, 1.0),))

PlanOf = Callable[["Settings"], "Plan"]


def fit_batch(plan_of: PlanOf, settings: Settings, *, pass_time: PassTime | None = None) -> Plan:
    """Return the plan of the ``sw_batch_size`` that is fastest within the budget of the device.

    *pass_time*: how long passes take; None: as the plan knows it. Where passes of several sizes were not timed, the
    fewest are taken to be fastest. `SettingsError` if not even a pass over one window fits.
    """

    def plan_at(batch: int) -> Plan:
        return plan_of(settings.replace(sw_batch_size=batch))

    def fitting(batches: Sequence[int]) -> list[Plan]:
        # One by one: a batch that leaves a single window for the last pass may need more than a larger one.
        return [plan for plan in map(plan_at, batches) if plan.fits]

    one = plan_at(1)
    most = max(max(volume.block_windows) for volume in one.volumes)
    largest = largest_fitting_batch(lambda batch: plan_at(batch).fits, max(most, 1))
    if largest == 0 and most > 1 and plan_at(2).fits:
        largest = 2  # kernels for single windows may take more than those for two
    if largest == 0:
        check_room(min((one, plan_at(min(max(most, 1), 2))), key=lambda plan: plan.most_bytes), is_least=True)
    pass_time = pass_time or one.time.pass_time
    least = 1 if one.fits else 2
    if pass_time is None or not pass_time.compares_batches:
        least = max(ceil(SHARE_OF_LARGEST * largest), least)
        plans = fitting(_candidates(least, largest))
        return min(plans, key=lambda plan: (plan.forward_passes, plan.settings.sw_batch_size))
    plans = fitting(_candidates(least, largest))
    fastest = min(plan.seconds_at(pass_time) for plan in plans)
    chosen = next(plan for plan in plans if plan.seconds_at(pass_time) <= (1 + SAME_TIME) * fastest)
    return replace(chosen, time=replace(chosen.time, pass_time=pass_time))


def fit_window(plan_of: PlanOf, settings: Settings, rule: WindowRule, *, pass_time: PassTime | None = None) -> Plan:
    """Return the plan of the window and the ``sw_batch_size`` that are fastest within the budget of the device.

    Windows from the model's default up to three times its sides are compared, none larger than the volumes need;
    smaller ones, which show the network less than it was made for, only where the default does not fit. Passes over
    windows that were not timed are taken to cost by voxels.

    *pass_time*: how long passes over the default window take; None: as the plan knows it. `SettingsError` if no window
    fits, `ModelError` if the network refuses its default window.
    """
    base = settings.replace(window_size=rule.default)
    first = plan_of(base.replace(sw_batch_size=1))
    needed = tuple(max(sides) for sides in zip(*(volume.shape for volume in first.volumes), strict=True))
    known = pass_time or first.time.pass_time or BY_VOXELS

    def seconds(plan: Plan) -> float:
        return plan.seconds_at(plan.time.pass_time or known.scaled(_voxels_ratio(plan, rule)))

    def fitted(factors: Sequence[float]) -> Iterator[Plan]:
        for window in _windows(rule, factors, needed):
            at_window = settings.replace(window_size=window)
            # A network may have been made for one window, and a larger one may not fit.
            with suppress(SettingsError, ModelError):
                one = plan_of(at_window.replace(sw_batch_size=1))
                own = None if pass_time is not None else one.time.pass_time
                here = own or (None if known is BY_VOXELS else known.scaled(_voxels_ratio(one, rule)))
                yield fit_batch(plan_of, at_window, pass_time=here)

    found = min(fitted(LARGER), key=seconds, default=None) or next(fitted(SMALLER), None)
    return found or fit_batch(plan_of, base)  # which says what is missing


def _voxels_ratio(plan: Plan, rule: WindowRule) -> float:
    return prod(plan.settings.window_size or ()) / prod(rule.default)


def _windows(rule: WindowRule, factors: Sequence[float], needed: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return allowed windows near *factors* times the default, along no axis larger than volumes of that size need."""

    def side(axis: int, factor: float) -> int:
        default = rule.default[axis]
        most = max(rule.nearest(axis, needed[axis])[-1], default)
        return min(rule.nearest(axis, round(default * factor))[0], most)

    return list(dict.fromkeys(tuple(side(axis, factor) for axis in range(len(needed))) for factor in factors))


def _candidates(least: int, largest: int) -> list[int]:
    """Return batches from *least* to *largest*, ascending; of many, some that are evenly spread in proportion."""
    steps = 32
    ratio = largest / least
    return sorted({round(least * ratio ** (step / steps)) for step in range(steps + 1)})


def check_room(plan: Plan, *, is_least: bool = False) -> None:
    """Raise `SettingsError`, with what would do, unless *plan* fits; *is_least*: no other batch needs less."""
    if plan.fits:
        return
    device, weights, batch = plan.device, plan.memory.weights_bytes, plan.settings.sw_batch_size
    smaller = "choose a smaller window_size" if batch == 1 or is_least else "lower it, or choose a smaller window_size"
    run = f"a run with sw_batch_size {batch} needs"
    if not plan.host_fits:
        free = format_bytes(device.host_free_bytes)
        raise SettingsError(
            f"{run} {format_bytes(plan.host.run_bytes)} of the host's memory beside the image, and {free} are free, "
            f"{HEADROOM:.0%} of which are left alone: crop the image, {smaller}, or close other programs"
        )
    allowed = f"{format_bytes(device.usable_bytes)} may be used on {device.name}"
    if device.usable_bytes < weights:
        raise SettingsError(
            f"{allowed}, but the weights of the network alone take {format_bytes(weights)}: allow at least "
            f"{format_bytes(plan.most_bytes)}, or choose a smaller network"
        )
    raise SettingsError(f"{allowed}, but {run} {format_bytes(plan.most_bytes)}: allow as much, or {smaller}")
