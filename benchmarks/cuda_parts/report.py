"""The report of `cuda.py`: Markdown to read, and the same as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["one_line", "paths", "sort_lines", "write"]

Parts = list[dict[str, Any]]
UNKNOWN = "unknown device"


def sort_lines(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a part wrote by its kind; rows by their table."""
    kinds: dict[str, Any] = {"facts": [], "figures": [], "tables": {}, "verdicts": [], "missing": []}
    for line in lines:
        kind, content = line["kind"], {key: value for key, value in line.items() if key != "kind"}
        if kind == "row":
            kinds["tables"].setdefault(content["table"], []).append(content["cells"])
        elif kind == "missing":
            kinds["missing"].append(content)
        elif kind != "end":
            kinds[f"{kind}s"].append(content)
    return kinds


def one_line(part: dict[str, Any]) -> str:
    """Return what became of a part, for the screen."""
    failed = [verdict["what"] for verdict in part["verdicts"] if not verdict["passed"]]
    beside = [part["reason"], *(f"NOT KEPT: {what}" for what in failed)]
    return f"{part['name']}: {part['state']}, {part['seconds']:.0f} s" + "".join(f"; {text}" for text in beside if text)


def paths(out: Path, parts: Parts) -> tuple[Path, Path]:
    """Return where the report is, as Markdown and as JSON."""
    slug = re.sub(r"[^a-z0-9]+", "-", _device(parts).lower()).strip("-")
    return out / f"cuda-{slug}.md", out / f"cuda-{slug}.json"


def write(out: Path, parts: Parts) -> None:
    """Write both."""
    text, data = paths(out, parts)
    text.write_text("\n".join([*_markdown(parts), ""]), encoding="utf-8")
    content = {"device": _device(parts), "toy": _is_toy(parts), "parts": parts}
    data.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _fact(parts: Parts, name: str, default: str) -> str:
    found = (fact["text"] for part in parts for fact in part["facts"] if fact["name"] == name)
    return next(found, default)


def _device(parts: Parts) -> str:
    return _fact(parts, "device", UNKNOWN)


def _is_toy(parts: Parts) -> bool:
    return _fact(parts, "size", "") == "toy"


def _markdown(parts: Parts) -> Iterator[str]:
    yield f"# CUDA proof on {_device(parts)}"
    yield ""
    if _is_toy(parts):
        yield "No CUDA device: toy size on the CPU. This tests the script; no figure here says anything of a card."
        yield ""
    yield from _table([_summary(part) for part in parts])
    for part in parts:
        yield from ("", f"## {part['name']}: {part['state']}", "", part["question"])
        yield from _part(part)


def _summary(part: dict[str, Any]) -> dict[str, Any]:
    kept = sum(verdict["passed"] for verdict in part["verdicts"])
    limits = f"{kept} of {len(part['verdicts'])}" if part["verdicts"] else None
    cells = {"part": part["name"], "state": part["state"], "time, s": part["seconds"], "at most, s": part["limit_s"]}
    return cells | {"limits kept": limits, "why": part["reason"]}


def _part(part: dict[str, Any]) -> Iterator[str]:
    lines = [
        *([f"- {part['state']}: {part['reason']}"] if part["reason"] else []),
        *(f"- {fact['name']}: {fact['text']}" for fact in part["facts"]),
        *(f"- {figure['name']}: {_text(figure['value'])} {figure['unit']}" for figure in part["figures"]),
        *(f"- {'PASS' if each['passed'] else 'FAIL'}: {each['what']}: {each['line']}" for each in part["verdicts"]),
        *(f"- left out: {each['what']}: {each['why']}" for each in part["missing"]),
    ]
    if lines:
        yield from ("", *lines)
    for title, rows in part["tables"].items():
        yield from ("", f"### {title}", "", *_table(rows))


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of all columns that a row has, in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(_text(row.get(name)) for name in columns)} |"


def _text(value: Any) -> str:
    """Return a cell: a dash for what was not measured, four digits of what is no whole number."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
