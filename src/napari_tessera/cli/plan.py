"""``tessera plan``: what a run would cost, before it starts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_tessera.cli import options, setup
from napari_tessera.cli.channel_files import join_channel_files
from napari_tessera.cli.choice import Choice
from napari_tessera.cli.console import LOOKING, OUT, say, show_json
from napari_tessera.cli.outcome import results_among, without_mask
from napari_tessera.cli.render import render_plan

if TYPE_CHECKING:
    from napari_tessera import Model, Plan, Settings
    from napari_tessera.cli.images import Windows

__all__ = ["plan"]

ALL_SEEN = "zeros around an image are cut off when it is run: without the image, what is counted is the most"
ALL_COUNTED = "without the image no window is known to be empty: all are counted"


def plan(
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
    resample: options.Resample = None,
    resolution: options.Resolution = None,
    budget: options.Budget = None,
    choose_window: options.ChooseWindow = False,
    as_json: options.Json = False,
    window: options.Window = None,
    overlap: options.Overlap = None,
    sw_batch_size: options.SwBatchSize = None,
    batch_size: options.BatchSize = None,
    tta: options.Tta = None,
    tta_axes: options.TtaAxes = None,
    tta_mode: options.TtaMode = None,
    skip_below: options.SkipBelow = None,
    mask: options.Mask = None,
    blend: options.Blend = None,
    precision: options.Precision = None,
    accumulator: options.Accumulator = None,
    device: options.Device = None,
    decoder: options.Decoder = None,
    decoder_option: options.DecoderOptions = None,
    probabilities: options.Probabilities = False,
    probability_type: options.ProbabilityType = None,
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
    wanted = setup.merge_settings(
        settings,
        decoder_option,
        window_size=window,
        overlap=overlap,
        sw_batch_size=sw_batch_size,
        batch_size=batch_size,
        tta_num=tta,
        tta_axes=tta_axes,
        tta_mode=tta_mode,
        skip_below=skip_below,
        blend=blend,
        precision=precision,
        accumulator=accumulator,
        probabilities=probability_type,
        resample=resample,
        resolution=resolution,
        device=device,
        decoder=decoder,
    )
    network = setup.open_model(model, trust=trust, network_output=network_output)
    wanted = setup.with_suggestions(
        wanted, network, file=settings, overlap=overlap, blend=blend, tta_num=tta, tta_axes=tta_axes
    )
    from napari_tessera import api

    decoder = api.PROBABILITIES if probabilities else decoder
    choice = Choice(budget, choose_window)
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
        names, planned = _plan_files(images, facts, mask, network, wanted, decoder, choice)
    if as_json:
        show_json(planned.to_dict() | {"assumed": list(network.spec.assumed)})
    else:
        OUT.print(render_plan(planned, names))


def _names_of_shapes(shapes: list[tuple[int, ...]], model: "Model") -> list[str]:
    """Return what to call each volume of the plan, and say which shapes are stacks that a 2D model runs by planes."""
    from napari_tessera.planning.planes import count_planes
    from napari_tessera.volumes.planes import planes_note

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
    choice: Choice,
) -> tuple[list[str], "Plan"]:
    from napari_tessera.cli.images import ImageFile, open_mask, plan_images

    named = join_channel_files(paths, lambda: model.spec.in_channels)
    setup.check_mask_option(mask, named)
    own = results_among(named)
    images = [ImageFile(image, model.spec, **facts, files=files) for image, files in named if image not in own]
    for image in images:
        image.check_resampling(settings)
    for note in (note for image in images for note in image.notes):
        say(note, kind="Note")
    where = None if mask is None else open_mask(mask, images[0])
    if settings.skip_below is not None or model.spec.crop != "none":
        say(LOOKING)
    crops = [crop for image in images for crop in image.crops]

    def find(settings: "Settings") -> list["Windows"]:
        return [windows for image in images for windows in image.find_windows(settings, where)]

    names = [name for image in images for name in image.names]
    return names, plan_images(images, model, settings, decoder, find=find, choice=choice, crops=crops)
