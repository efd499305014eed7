"""``tessera doctor``: what works on this machine, what does not, and how to mend it."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from napari_tessera.cli import options
from napari_tessera.cli.console import OUT, show_json

if TYPE_CHECKING:
    from napari_tessera.session.doctor import Finding

# A sign and a word: neither colour alone nor a sign alone says whether something works.
WORDS = {"ok": ("✓ works", "green"), "warn": ("! limited", "yellow"), "fail": ("✗ broken", "red")}


def doctor(as_json: options.Json = False) -> None:
    """Say what works on this machine, what does not, and how to mend it. Exit code 1 if something is broken."""
    from napari_tessera.session.doctor import examine

    findings = examine()
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        OUT.print(render_findings(findings))
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def render_findings(findings: "list[Finding]") -> Table:
    """Return the findings as a table, each remedy under what it mends."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("", "what", "found"):
        table.add_column(title, no_wrap=title != "found")
    for finding in findings:
        words, colour = WORDS[finding.status]
        remedy = Text(f"\n→ {finding.remedy}", style="bold") if finding.remedy else Text()
        table.add_row(Text(words, style=colour), Text(finding.name), Text.assemble(finding.detail, remedy))
    return table
