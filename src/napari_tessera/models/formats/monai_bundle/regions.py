"""Which channel becomes which label: one function that MONAI's bundles write as code, read as text and never run.

The function is `lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))`, of any depth and with other
names and numbers; anything else is not read.
"""

from __future__ import annotations

import ast
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

LONGEST, MOST_RULES, LARGEST = 2000, 64, 2**16 - 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One comparison: where *channel* compares so with *limit*, and no rule before holds, there is *label*."""

    channel: int
    compares: type[ast.cmpop]
    limit: float
    label: int

    @property
    def above(self) -> float | None:
        """What values are above where it holds; None: it is no such comparison."""
        if self.compares is ast.GtE:
            return reaches(self.limit)
        return self.limit if self.compares is ast.Gt else None

    @property
    def tells_apart(self) -> bool:
        """Whether it holds for 1 and not for 0."""
        if self.compares is ast.Gt:
            return 0 <= self.limit < 1
        return 0 < self.limit <= 1 if self.compares is ast.GtE else self.limit == 1


def reaches(limit: float) -> float:
    """Return the largest number of float32 below *limit*: the values above it are those that reach the limit."""
    return float(np.nextafter(np.float32(limit), np.float32(-np.inf)))


def read_regions(function: Any) -> tuple[Rule, ...] | None:
    """Return the rules of *function*, a text that begins with ``$``, the one that counts most first.

    None: it is another function.
    """
    if not isinstance(function, str) or not function.startswith("$") or len(function) > LONGEST:
        return None
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        match ast.parse(function[1:].strip(), mode="eval").body:
            case ast.Lambda(args=ast.arguments(args=[ast.arg(arg=name)]), body=body):
                return _rules(body, name)
    return None


def _rules(node: ast.expr, name: str) -> tuple[Rule, ...] | None:
    found: list[Rule] = []
    while len(found) < MOST_RULES:
        match node:
            case ast.Constant(value=0) if found:
                channels = {rule.channel for rule in found}
                return tuple(found) if len(channels) == len(found) else None
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="torch"), attr="where"),
                args=[condition, ast.Constant(value=int() as label), node],
                keywords=[],
            ) if 0 < label <= LARGEST and label is not True:
                rule = _rule(condition, name, label)
                if rule is None:
                    return None
                found.append(rule)
            case _:
                return None
    return None


def _rule(node: ast.expr, name: str, label: int) -> Rule | None:
    match node:
        case ast.Compare(
            left=ast.Subscript(value=ast.Name(id=of), slice=index),
            ops=[ast.Gt() | ast.GtE() | ast.Eq() as compares],
            comparators=[ast.Constant(value=int() | float() as limit)],
        ) if of == name:
            channel = _channel(index)
            return None if channel is None else Rule(channel, type(compares), float(limit), label)
    return None


def _channel(index: ast.expr) -> int | None:
    match index:
        case ast.Constant(value=int() as channel) | ast.List(elts=[ast.Constant(value=int() as channel)]):
            return None if isinstance(channel, bool) else channel
        case ast.Slice(lower=ast.Constant(value=int() as channel), upper=ast.Constant(value=int() as end), step=None):
            return channel if end == channel + 1 else None
    return None
