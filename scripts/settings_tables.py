"""Write the tables of settings in README.md and docs/settings.md from the declaration of settings.

Run it after a change to a setting or to a decoder's parameter: ``python scripts/settings_tables.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_tessera.core.settings.knobs import GROUPS, knobs
from napari_tessera.core.settings.settings import Settings
from napari_tessera.decode import decoder_knobs, decoder_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_tessera.core.settings.knobs import Declared, Knob

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": ("settings",), "docs/settings.md": ("settings-in-full", "decoders")}


def short_table(model: type[Declared]) -> str:
    """Return one line for each setting of *model*."""
    rows = ((f"`{one.name}`", _default(one), one.description) for one in knobs(model))
    return _table(("setting", "default", "what it does"), rows)


def full_table(model: type[Declared]) -> str:
    """Return the settings of *model*, one table for each group."""
    parts = []
    for group, title in GROUPS.items():
        rows = (
            (f"`{one.name}`", f"`{one.option}`", _default(one), _value(one), one.description)
            for one in knobs(model)
            if one.group == group
        )
        parts.append(f"### {title}\n\n{_table(('setting', 'option', 'default', 'value', 'what it does'), rows)}")
    return "\n".join(parts)


def decoder_tables() -> str:
    """Return the parameters of every decoder that has any."""
    parts = []
    for name in decoder_names():
        rows = [(f"`{one.name}`", _default(one), _value(one), one.description) for one in decoder_knobs(name)]
        if rows:
            parts.append(f"### {name}\n\n{_table(('parameter', 'default', 'value', 'what it does'), rows)}")
    return "\n".join(parts)


def render(name: str, model: type[Declared] = Settings) -> str:
    """Return the table called *name* in the marks of a page."""
    return (
        {"settings": short_table, "settings-in-full": full_table}[name](model)
        if name != "decoders"
        else (decoder_tables())
    )


def written(page: str, text: str, model: type[Declared] = Settings) -> str:
    """Return *text* of the *page* with the tables of *model* between its marks."""
    for name in PAGES[page]:
        begin, end = f"<!-- {name}: written by scripts/settings_tables.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        _, following = rest.split(end)
        text = f"{before}{begin}\n\n{render(name, model)}\n{end}{following}"
    return text


def _default(one: Knob) -> str:
    return one.default_text if one.default in (None, (), "") else f"`{one.default_text}`"


def _value(one: Knob) -> str:
    return f"{one.wanted}, in {one.unit}" if one.unit in ("voxels", "micrometres") else one.wanted


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (heads, ["---"] * len(heads), *rows)
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(written(page, path.read_text(encoding="utf-8")), encoding="utf-8")
