"""``tessera plan``: what a run would cost, before it starts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_tessera.cli import options, setup
from napari_tessera.cli.channel_files import join_channel_files
from napari_tessera.cli.console import LOOKING, OUT, say, show_json
from napari_tessera.cli.outcome import Outcome, end_with_errors, results_among, without_mask
from napari_tessera.cli.render import render_plan
from napari_tessera.core.errors import InputError

if TYPE_CHECKING:
    from napari_tessera import Model, Plan, Settings
    from napari_tessera.cli.images import Item

ALL_SEEN = "zeros around an image are cut off when it is run: without the image, what is counted is the most"
ALL_COUNTED = "without the image no window is known to be empty: all are counted"


def plan(
    context: typer.Context,
    # Whether each can be read is found out where it costs that one alone.
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", readable=False, help="Image files, TIFF or .npy.")
    ] = None,
    shape: Annotated[
        list[options.Sides] | None,
        typer.Option(
            "--shape",
            metavar="Z,Y,X",
            parser=options.parse_sides,
            help="Shape of a volume, voxels, instead of a file. May be given several times.",
        ),
    ] = None,
    model: options.ModelName = None,
    trust: options.Trust = False,
    network_output: options.NetworkOutput = "",
    settings: options.SettingsFile = None,
    axes: options.Axes = None,
    voxel_size: options.VoxelSize = None,
    channels: options.Channels = None,
    budget: options.Budget = None,
    choose_window: options.ChooseWindow = False,
    as_json: options.Json = False,
    mask: options.Mask = None,
    probabilities: options.Probabilities = False,
) -> None:
    """Show what a run would need: windows, forward passes, memory, sizes and what to change.

    With --budget, sw_batch_size is chosen for the shortest time within that much memory of the device. With
    --choose-window, the window, too; without a budget, within what is free.
    """
    if bool(images) == bool(shape):
        raise typer.BadParameter("name image files or give --shape, one of the two", param_hint="IMAGE")
    images = without_mask(images or [], mask)
    if shape:
        setup.check_mask_option(mask, [])
    given = options.given_settings(context)
    decoder = given.get("decoder")
    wanted = setup.merge_settings(settings, given)
    network = setup.open_model(model, trust=trust, network_output=network_output)
    wanted = setup.with_suggestions(wanted, network, file=settings, given=given)
    from napari_tessera import api

    decoder = api.PROBABILITIES if probabilities else decoder
    choice = setup.Choice(budget, choose_window)
    outcomes: list[Outcome] = []
    planned: Plan | None
    if shape:
        if wanted.skip_below is not None:
            say(ALL_COUNTED, kind="Note")
        if network.spec.crop != "none":
            say(ALL_SEEN, kind="Note")
        shapes = [tuple(sides) for sides in shape]
        names = _names_of_shapes(shapes, network)
        planned = choice.plan(shapes, network, wanted, decoder=decoder, voxel_size_um=voxel_size)
    else:
        facts = {"axes": axes, "voxel_size_um": voxel_size, "channels": channels}
        names, planned, outcomes = _plan_files(images, facts, mask, network, wanted, decoder, choice)
    if planned is not None and as_json:
        show_json(planned.to_dict() | {"assumed": list(network.spec.assumed)})
    elif planned is not None:
        OUT.print(render_plan(planned, names))
    end_with_errors(outcomes)


def _names_of_shapes(shapes: list[tuple[int, ...]], model: "Model") -> list[str]:
    """Return what to call each volume of the plan, and say which shapes are stacks that a 2D model runs by planes."""
    from napari_tessera.jobs.plane_stack import planes_note
    from napari_tessera.planning.plane_stacks import count_planes

    names: list[str] = []
    for number, shape in enumerate(shapes, 1):
        name, planes = f"volume {number}", count_planes(shape, model.spec)
        if planes is not None:
            say(planes_note(name, planes, model.spec), kind="Note")
        names += [name] if planes is None else [f"{name}, plane {plane}" for plane in range(planes)]
    return names


def _plan_files(
    paths: list[Path],
    facts: dict[str, Any],
    mask: Path | None,
    model: "Model",
    settings: "Settings",
    decoder: str | None,
    choice: setup.Choice,
) -> tuple[list[str], "Plan | None", list[Outcome]]:
    """Return what to call each volume, the plan of all images that can be read, and what became of each."""
    from napari_tessera import api
    from napari_tessera.cli.images import open_items, open_mask, part_of, renumbered, request_of

    named = join_channel_files(paths, lambda: model.spec.in_channels)
    own = results_among(named)
    outcomes = [Outcome(image, image, files=files) for image, files in named if image not in own]
    setup.check_mask_option(mask, outcomes)
    chosen = None if decoder == api.PROBABILITIES else api.choose_decoder(model, settings, decoder)
    items = open_items(outcomes, model, settings, chosen, **facts)
    for note in (note for item in items for note in item.image.notes):
        say(note, kind="Note")
    where = None if mask is None else open_mask(mask, items[0].image)
    if settings.skip_below is not None or model.spec.crop != "none":
        say(LOOKING)
    alone = len(outcomes) == 1
    request = request_of(items, model, settings, decoder, where) if items else None
    planned: Plan | None = None
    while request is not None and planned is None and items:

        def note(number: int, error: Exception, items: "list[Item]" = items) -> None:
            """Take an image that cannot be read out of the plan, and say so."""
            item = next(item for item in items if number in item.volumes)
            if not isinstance(error, InputError):
                raise error
            if alone:
                raise InputError(f"{item.image.path.name}: {error}") from error
            if not item.outcome.errors:
                item.outcome.fail(item.outcome.image.name, error)

        request = request.with_crops(on_error=note)
        planned = choice.plan_request(request, note)
        sound = [item for item in items if not item.outcome.errors]
        if len(sound) < len(items):  # what could not be read when it was looked at is no part of the plan
            request, items, planned = part_of(request, sound) if sound else None, renumbered(sound), None
    return [name for item in items for name in item.image.names], planned, outcomes
