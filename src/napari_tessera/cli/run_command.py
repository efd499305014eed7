"""``tessera run``: images in, label or probability files out."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from napari_tessera.cli import options, setup
from napari_tessera.cli.channel_files import join_channel_files
from napari_tessera.cli.console import LOOKING, say, show_json, write_line
from napari_tessera.cli.interrupt import heard_call
from napari_tessera.cli.outcome import Outcome, choose_outcomes, end_with_errors, results_among, without_mask
from napari_tessera.cli.render import announce
from napari_tessera.core.errors import CancelledError, OutputError
from napari_tessera.core.writing import write_text


def run(
    context: typer.Context,
    # Whether each can be read is found out where it costs that one alone.
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", readable=False, help="Image files, TIFF or .npy.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="The result's file; for several images a folder, where each gets <image>_labels.tif.",
        ),
    ],
    model: options.ModelName = None,
    trust: options.Trust = False,
    network_output: options.NetworkOutput = "",
    settings: options.SettingsFile = None,
    axes: options.Axes = None,
    voxel_size: options.VoxelSize = None,
    channels: options.Channels = None,
    budget: options.Budget = None,
    choose_window: options.ChooseWindow = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out images whose result exists; what made it is not compared."),
    ] = False,
    save_plan: Annotated[
        Path | None, typer.Option("--save-plan", metavar="JSON", help="Write the plan of the run to a file too.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what goes wrong.")] = False,
    as_json: options.Json = False,
    mask: options.Mask = None,
    probabilities: options.Probabilities = False,
) -> None:
    """Run a network over images and write labels, or its probabilities.

    A file with a time axis is run frame by frame and written as one file. Ctrl-C keeps what is finished. Nothing half
    done appears under a result's name. --budget and --choose-window choose as for 'tessera plan'.
    """
    if overwrite and skip_existing:
        raise typer.BadParameter("say one of the two: --overwrite or --skip-existing", param_hint="--skip-existing")
    opened = cache(lambda: heard_call(lambda: setup.open_model(model, trust=trust, network_output=network_output)))
    files = without_mask(images, mask)
    named = join_channel_files(files, lambda: opened().spec.in_channels)
    given, tiff = options.given_settings(context), options.given_tiff_options(context)
    decoder = given.get("decoder")
    wanted = setup.merge_settings(settings, given)
    kind = "probabilities" if probabilities else "labels"
    if save_plan is not None:
        from napari_tessera.images.writers.output import check_writable

        check_writable(save_plan, overwrite, (".json",))
    own = results_among(named)
    setup.check_mask_option(mask, [image for image, _ in named if image not in own])
    many = len(named) + len(images) - len(files) > 1  # with the mask, which "*.tif" takes along
    outcomes = choose_outcomes(
        named, output, own=own, kind=kind, overwrite=overwrite, skip_existing=skip_existing, many=many
    )
    waiting = [outcome for outcome in outcomes if not outcome.skipped]
    if not waiting:
        _report(outcomes, as_json=as_json, quiet=quiet)
        return
    network = opened()
    wanted = setup.with_suggestions(wanted, network, file=settings, given=given)
    from napari_tessera.api import PROBABILITIES
    from napari_tessera.cli.file_run import FileRun

    if (wanted.skip_below is not None or network.spec.crop != "none") and not quiet:
        say(LOOKING)
    chosen = PROBABILITIES if probabilities else decoder
    job = heard_call(
        lambda: FileRun.prepare(
            waiting,
            network,
            wanted,
            decoder=chosen,
            axes=axes,
            voxel_size_um=voxel_size,
            channels=channels,
            mask=mask,
            tiff=tiff,
            choice=setup.Choice(budget, choose_window),
        )
    )
    if job is not None:
        if save_plan is not None:
            write_json(save_plan, job.planned.to_dict() | {"assumed": list(network.spec.assumed)})
        if not quiet:
            announce(job.planned, waiting[0].target.parent, job.notes)
        try:
            job.run(overwrite=overwrite, quiet=quiet)
        except CancelledError:
            _list(outcomes, as_json=as_json, quiet=quiet)
            raise
    _report(outcomes, as_json=as_json, quiet=quiet)


def _report(outcomes: Sequence[Outcome], *, as_json: bool, quiet: bool) -> None:
    """Say what there is now, and end as `end_with_errors` does."""
    _list(outcomes, as_json=as_json, quiet=quiet)
    end_with_errors(outcomes)


def _list(outcomes: Sequence[Outcome], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        show_json({"images": [outcome.to_dict() for outcome in outcomes]})
    elif not quiet:
        for outcome in (outcome for outcome in outcomes if outcome.written or outcome.kept):
            write_line(str(outcome))


def write_json(path: Path, content: object) -> None:
    """Write *content* to *path*; `OutputError` if it cannot be written."""
    try:
        write_text(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
