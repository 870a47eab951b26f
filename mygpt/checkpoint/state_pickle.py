"""What a pickle of torch.save's stands for, without running it. Source: the comments of `pickletools`.

A pickle is a program. Its steps are followed here as far as torch.save needs them for a state dict, and all others
are refused: nothing can run code, call what has a name in Python, or take more memory than the pickle has bytes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_TENSOR = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER, _DICT = "torch._utils _rebuild_parameter", "collections OrderedDict"
MOST_BYTES = 4 * 2**20  # of a pickle, without its storages; a tensor takes some 200


class NoStateDictError(Exception):
    """The pickle holds something else than tensors by their names."""


@dataclass(frozen=True)
class _Global:
    """Something that a pickle names, as `module name`. It is not looked up."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers of one type, which lie elsewhere in the file."""

    kind: str
    key: str


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage, as torch's: numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Numbers from its first to its last; 0 where it has none."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))


def read_state(stream: Any) -> Any:
    """What the pickle at the stream's place stands for, of what torch.save writes of state dicts.

    Tensors are `PickledTensor`s. What torch keeps beside them (`_metadata`, hooks) is left out.

    Raises:
        NoStateDictError: the pickle does something else.
        Exception: any, where it is corrupt.
    """
    machine, start = _Machine(), stream.tell()
    for opcode, argument, position in pickletools.genops(stream):
        if position - start > MOST_BYTES:
            raise NoStateDictError(f"a pickle of more than {MOST_BYTES} bytes")
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.follow(opcode.name, argument)
    raise ValueError("no end")


_MARK = object()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_ARGUMENTS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
    | {"BINSTRING", "SHORT_BINSTRING"}  # Python 2's
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The pickle's stack and memory."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _ARGUMENTS:
            stack.append(argument)
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments))
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._to_mark()
            _update(stack[-1], zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._to_mark()
            stack[-1].extend(items)
        elif name == "BUILD":  # an attribute of a dict: `_metadata`
            stack.pop()
        elif name != "PROTO":
            raise NoStateDictError(name)

    def _to_mark(self) -> list[Any]:
        """What was put since the last mark."""
        mark = len(self.stack) - 1
        while self.stack[mark] is not _MARK:
            mark -= 1
        items = self.stack[mark + 1 :]
        del self.stack[mark:]
        return items


def _update(target: Any, items: Iterator[tuple[Any, Any]]) -> None:
    for key, value in items:
        if not isinstance(key, str):
            raise NoStateDictError("a key that is no text")
        target[key] = value


def _storage(identity: Any) -> Storage:
    word, kind, key = identity[:3]
    is_view = len(identity) > 5 and identity[5] is not None  # of torch 0.3
    if word != "storage" or is_view or not isinstance(kind, _Global) or not isinstance(key, str):
        raise NoStateDictError("a tensor without numbers")
    return Storage(kind.name.removeprefix("torch "), key)


def _call(function: Any, arguments: Any) -> Any:
    """What a function makes of arguments, of those that torch.save calls for a dict or a tensor."""
    if not isinstance(function, _Global):
        raise NoStateDictError("a call")
    if function.name == _DICT:
        made: dict[str, Any] = {}
        _update(made, iter(*arguments) if arguments else iter(()))
        return made
    if function.name == _PARAMETER:
        return arguments[0]
    if function.name not in _TENSOR or not isinstance(arguments[0], Storage):
        raise NoStateDictError(function.name.replace(" ", "."))
    return PickledTensor(*arguments[:4])
