"""``tessera calibrate``: measure a network here, so that later estimates start from what it really takes."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from napari_tessera.cli import options, setup
from napari_tessera.cli.console import OUT, show_json
from napari_tessera.core.units import format_bytes

if TYPE_CHECKING:
    from napari_tessera.memory.calibration.pass_time import PassTime
    from napari_tessera.memory.estimate import Measurement


def calibrate(
    context: typer.Context,
    model: options.ModelName = None,
    trust: options.Trust = False,
    network_output: options.NetworkOutput = "",
    settings: options.SettingsFile = None,
    as_json: options.Json = False,
) -> None:
    """Measure the memory and the time of a network's forward passes here, and keep both for later plans.

    A few passes over made-up windows; no image is needed. Runs on an NVIDIA card are measured, too, each time.
    Settings that a pass does not depend on are accepted and change nothing.
    """
    wanted = setup.merge_settings(settings, options.given_settings(context))
    network = setup.open_model(model, trust=trust, network_output=network_output)
    from napari_tessera.api import PROBABILITIES, plan
    from napari_tessera.jobs.tuning import calibrate

    measured = calibrate(network, wanted)
    shape = wanted.window_size or network.spec.window.default
    pass_time = plan(shape, network, wanted, decoder=PROBABILITIES).time.pass_time
    assert pass_time is not None, "it has just been measured"
    if as_json:
        memory = {} if measured is None else asdict(measured)
        show_json(memory | {"seconds": pass_time.to_dict()})
    else:
        OUT.print(_render(measured, pass_time, wanted.sw_batch_size))


def _render(measured: "Measurement | None", pass_time: "PassTime", sw_batch_size: int) -> Table:
    table = Table.grid(padding=(0, 2))
    if measured is None:
        table.add_row("memory", "nothing here counts what this network takes: the estimate stays as it is")
    else:
        off = measured.estimated_bytes / measured.measured_bytes - 1
        table.add_row("estimated until now", f"{format_bytes(measured.estimated_bytes)} ({off:+.1%})")
        table.add_row("measured", f"{format_bytes(measured.measured_bytes)}, weights and one pass")
    for windows, seconds in pass_time.points:
        table.add_row("one pass", f"{seconds:.3g} s for sw_batch_size {windows}, {seconds / windows:.3g} s a window")
    return table
