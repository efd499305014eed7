"""Write "What a file may name" in docs/models.md from the reviewed table: python tests/models/allowed_page.py."""

from __future__ import annotations

import textwrap
from pathlib import Path

from napari_tessera.models.safety.allowed import TABLE, Names

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "## What a file may name\n", "\n## Packing\n"
WIDTH = 120
INTRODUCTION = """
A file chooses networks, layers and steps by name. It can choose these and no others: each name is looked up in one
reviewed table, `napari_tessera/models/safety/allowed.py`: a name that is not there is refused, or told of and left out.
Nothing is imported on a file's word. TorchScript, exported programs and ONNX graphs name operators of the libraries
that run them, and no library of further ones is ever loaded.
"""


def render() -> str:
    """Return the section, from its heading to the next one."""
    return "\n".join([BEGIN, _filled(INTRODUCTION), "", *(_item(row) for row in TABLE), ""])


def section_of(page: str) -> str:
    """Return what *page* has in the section's place."""
    start = page.index(BEGIN)
    return page[start : page.index(END, start)]


def _item(row: Names) -> str:
    together: dict[str, list[str]] = {}
    for name, becomes in row.names.items():
        together.setdefault("" if becomes in (name, "itself") else becomes, []).append(f"`{name}`")
    said = "; ".join(", ".join(names) + (f" → {becomes}" if becomes else "") for becomes, names in together.items())
    return _filled(f"- **{row.kind}** ({', '.join(row.formats)}): {said}. Why it is safe: {row.reviewed}.", "  ")


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before = text[: text.index(BEGIN if BEGIN in text else END)].rstrip("\n") + "\n\n"
    PAGE.write_text(before + render() + text[text.index(END) :], encoding="utf-8")
