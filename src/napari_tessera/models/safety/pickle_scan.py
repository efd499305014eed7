"""A pickle followed step by step without being read: nothing is made but counts of what reading it would take.

A few hundred bytes can stand for endless work, as a pickle may name one of its parts many times over: hashing a tuple
of a tuple twice, sixty deep, takes 2^60 steps inside one call of C, which nothing interrupts.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from napari_tessera.core.errors import ModelError

# Steps of the pickle, some fifty for a tensor; looking through more would take a minute of a stranger's choosing.
MAX_STEPS = 2_000_000
# Values that one tuple stands for, those counted again that it holds again. Shapes and records have a handful.
MAX_IN_TUPLE = 100_000
# Values that calls and tuples used again take, all together: some twenty for a tensor.
MAX_TAKEN = 10_000_000
# Integers of more bits than the computer's. A random generator has a few; many whose hashes are alike fill a dictionary
# in quadratic time.
MAX_LONG_INTEGERS, LONG_BITS = 1000, 64


@dataclass(eq=False, slots=True)
class _Grows:
    """A list, dictionary or set, or what a call returned; it may be given more values after it was put somewhere."""

    size: int = 1


@dataclass(eq=False, slots=True)
class _Holds:
    """A tuple that holds such. They have no hash, but a call that is given the tuple goes through them."""

    size: int
    grown: list[_Grows]


# Of everything else the steps that hashing it takes: 1, or for a tuple 1 more than its parts.
_Part = int | _Grows | _Holds


def iter_steps(file: IO[bytes], label: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and the argument of each step of the pickle at *file*'s place."""
    machine = Machine(label)
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if step == MAX_STEPS:
            raise ModelError(f"the weights {label} take more than {MAX_STEPS} steps to read, which no network's do")
        machine.take(opcode, argument)
        yield opcode.name, argument


class Machine:
    """The stack and the memo of a pickle, with counts in the place of values."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.stack: list[_Part] = []
        self.below: list[list[_Part]] = []
        self.memo: dict[int, _Part] = {}
        self.taken = 0
        self.long_integers = 0

    def take(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Follow one step."""
        if (special := _SPECIAL.get(opcode.name)) is not None:
            special(self, argument)
            return
        if isinstance(argument, int) and argument.bit_length() > LONG_BITS:
            self._count_long_integer()
        pops, pushed = _EFFECTS[opcode.name]
        if pops is None:
            self._pop_mark()
        elif pops:
            self._pop(pops)
        for name in pushed:
            self.stack.append(_Grows() if name in _GROWING else 1)

    def _pop(self, count: int) -> list[_Part]:
        if count > len(self.stack):
            raise IndexError("it takes more from its stack than there is")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _pop_mark(self) -> list[_Part]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _drop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._pop_mark()

    def _again(self, _: Any) -> None:
        self._push_again(self.stack[-1])

    def _put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, place: int) -> None:
        self._push_again(self.memo[place])

    def _push_again(self, part: _Part) -> None:
        if (size := _hash_steps(part)) > 1:
            self._count_taken(size)
        self.stack.append(part)

    def _join(self, items: list[_Part]) -> None:
        size = 1 + sum(map(_hash_steps, items))
        if size > MAX_IN_TUPLE:
            raise ModelError(
                f"the weights {self.label} hold a tuple that stands for more than {MAX_IN_TUPLE} values, as its parts "
                f"may repeat one another, which no network's do"
            )
        grown = [item for item in items if isinstance(item, _Grows)]
        self.stack.append(_Holds(size, grown) if grown else size)

    def _fill(self, items: list[_Part]) -> None:
        target = self.stack[-1]
        if isinstance(target, _Grows):
            target.size += sum(map(_hash_steps, items))

    def _call(self, _: Any) -> None:
        _function, arguments = self._pop(2)
        size = _all_steps(arguments)
        self._count_taken(size)
        self.stack.append(_Grows(size))

    def _build(self, _: Any) -> None:
        (state,) = self._pop(1)
        size = _all_steps(state)
        self._count_taken(size)
        target = self.stack[-1]
        if isinstance(target, _Grows):
            target.size += size

    def _count_taken(self, size: int) -> None:
        self.taken += size
        if self.taken > MAX_TAKEN:
            raise ModelError(
                f"the weights {self.label} use what they hold again and again, for more than {MAX_TAKEN} values in "
                f"all, which no network's do"
            )

    def _count_long_integer(self) -> None:
        self.long_integers += 1
        if self.long_integers > MAX_LONG_INTEGERS:
            raise ModelError(
                f"the weights {self.label} hold more than {MAX_LONG_INTEGERS} integers of more than {LONG_BITS} bits, "
                f"which no network's do"
            )


def _hash_steps(part: _Part) -> int:
    """Return the steps that hashing *part* takes."""
    if isinstance(part, int):
        return part
    return part.size if isinstance(part, _Holds) else 1


def _all_steps(part: _Part) -> int:
    """Return the values that a call goes through at most that is given *part*."""
    if isinstance(part, int):
        return part
    return part.size + sum(one.size for one in part.grown) if isinstance(part, _Holds) else part.size


def _effect(opcode: pickletools.OpcodeInfo) -> tuple[int | None, tuple[str, ...]]:
    """Return how many parts *opcode* takes, None for all above the mark, and what it puts in their place."""
    before = [kind.name for kind in opcode.stack_before]
    return None if "mark" in before else len(before), tuple(kind.name for kind in opcode.stack_after)


_GROWING = ("list", "dict", "set", "any")
_EFFECTS = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes}
_SPECIAL: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "POP": Machine._drop,
    "DUP": Machine._again,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine._put),
    "MEMOIZE": Machine._memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine._get),
    "TUPLE": lambda machine, _: machine._join(machine._pop_mark()),
    "TUPLE1": lambda machine, _: machine._join(machine._pop(1)),
    "TUPLE2": lambda machine, _: machine._join(machine._pop(2)),
    "TUPLE3": lambda machine, _: machine._join(machine._pop(3)),
    "APPEND": lambda machine, _: machine._fill(machine._pop(1)),
    "SETITEM": lambda machine, _: machine._fill(machine._pop(2)),
    **dict.fromkeys(("APPENDS", "SETITEMS", "ADDITEMS"), lambda machine, _: machine._fill(machine._pop_mark())),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Machine._call),
    "BUILD": Machine._build,
}
