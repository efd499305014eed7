"""The command's root: its options and its subcommands."""

from typing import Annotated

import typer

from napari_tessera.cli.calibrate_command import calibrate
from napari_tessera.cli.demo_command import demo
from napari_tessera.cli.doctor_command import doctor
from napari_tessera.cli.model_commands import inspect, models, pack, trust
from napari_tessera.cli.options import SettingsCommand, WritingCommand
from napari_tessera.cli.plan_command import plan
from napari_tessera.cli.run_command import run
from napari_tessera.cli.settings_command import settings

app = typer.Typer(pretty_exceptions_enable=False, context_settings={"help_option_names": ["--help", "-h"]})


def _show_version(wanted: bool) -> None:
    if wanted:
        from napari_tessera.core.version import __version__

        typer.echo(f"tessera {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from. Also with TESSERA_DEBUG=1.")
    ] = False,
) -> None:
    """Segment large volumes, window by window, with the cost of every setting shown before the run."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command(cls=SettingsCommand)(plan)
app.command(cls=WritingCommand)(run)
app.command(cls=SettingsCommand)(calibrate)
app.command()(demo)
app.command()(doctor)
app.command()(models)
app.command()(inspect)
app.command()(pack)
app.command()(trust)
app.command()(settings)
