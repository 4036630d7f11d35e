"""What reading a pickle would do: told from its opcodes, before anything is read.

torch's restricted reader runs no code of a file either. But among what it calls are functions
that take memory without end, and a few hundred bytes of values that hold one another by reference
are more than any machine has once they are hashed or written out.
"""

import io
import math
import pickletools
from dataclasses import dataclass
from typing import Any

import torch

from vit_lightning.errors import InputError

MOST_BYTES = 1 << 26
"""No pickle of a state dict and what stands beside it is longer; tensors' bytes are not in it."""

_PROTOCOL = 2
_MOST_STEPS = 2_000_000
_MOST_UNFOLDED = 10_000_000  # values and characters, every reference written out

# What makes tensors and plain data. The kinds of tensors that are refused are among them, so that
# they can be refused by their names.
_OLD_STORAGES = {
    f"{kind.__module__}.{kind.__name__}"
    for kind in torch._storage_classes
    if kind.__module__ != "torch.storage"  # those are of any size, at once
}
_CALLABLE = frozenset(
    {
        *_OLD_STORAGES,
        *(f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "parameter")),
        *(f"torch._utils._rebuild_{kind}tensor" for kind in ("q", "sparse_", "nested_")),
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch.serialization._get_layout",
        "torch.Size",
        "torch.device",
        "collections.OrderedDict",
        "collections.Counter",
        "argparse.Namespace",
        "builtins.set",
        "builtins.complex",
        "_codecs.encode",  # how Python 3 writes bytes for Python 2
    }
)
_FILLS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"})
_STORES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_FETCHES = frozenset({"GET", "BINGET", "LONG_BINGET"})


def check_pickles(data: bytes, count: int) -> None:
    """Refuse pickles that call more than the makers of tensors and plain data, or that grow.

    Args:
        data: begins with the pickles, one after the other.
        count: how many there are.

    Raises:
        InputError: naming what would be called, or how far it would grow.
        ValueError, LookupError, struct.error: they are damaged.
    """
    file = io.BytesIO(data)
    for _ in range(count):
        if _most_unfolded(_values(file)) > _MOST_UNFOLDED:
            raise InputError(
                f"holds values that hold one another by reference: written out, they are more "
                f"than {_MOST_UNFOLDED:,}. Such a file was not made by saving a model"
            )


@dataclass(eq=False, slots=True)
class _Value:
    """What stands for a value that would be read: those it holds, and its own size."""

    parts: list["_Value"]
    size: int = 1


def _values(file: io.BytesIO) -> list[_Value]:
    """Every value of the next pickle, as far as its shape goes."""
    made: list[_Value] = []
    stack: list[_Value | None] = []  # None for a mark
    memo: dict[int, _Value | None] = {}
    argument: Any
    for steps, (op, argument, _) in enumerate(pickletools.genops(file)):
        if steps > _MOST_STEPS:
            raise InputError(f"has a pickle of more than {_MOST_STEPS:,} steps")
        if op.name in _STORES:
            memo[argument] = stack[-1]
        elif op.name in _FETCHES:
            stack.append(memo[argument])
        elif op.name == "MARK":
            stack.append(None)
        else:
            _check_step(op, argument)
            parts = _popped(stack, op)
            if op.name in _FILLS:
                parts[0].parts += parts[1:]
                stack.append(parts[0])
            elif op.stack_after:
                text = isinstance(argument, str | bytes)
                made.append(_Value(parts, len(argument) if text else 1))
                stack.append(made[-1])
    return made


def _check_step(op: pickletools.OpcodeInfo, argument: Any) -> None:
    if op.proto > _PROTOCOL:
        raise InputError(
            f"is pickled by protocol {op.proto}, which can run code by other steps; it was not "
            f"opened and nothing was executed. torch.save writes protocol {_PROTOCOL}"
        )
    if op.name not in ("GLOBAL", "INST"):
        return
    name = argument.replace(" ", ".").replace("__builtin__.", "builtins.")
    if name not in _CALLABLE and not isinstance(_of_torch(name), torch.dtype | torch.qscheme):
        raise InputError(
            f"asks for {name.removeprefix('builtins.')} to be called while it is read, as a "
            f"pickle can; it was not opened and nothing was executed. Only tensors and plain data "
            f"are read"
        )


def _of_torch(name: str) -> object:
    return vars(torch).get(name.removeprefix("torch."))  # getattr may import


def _popped(stack: list[_Value | None], op: pickletools.OpcodeInfo) -> list[_Value]:
    """What a step takes from the stack, in the order in which it was put there."""
    taken: list[_Value] = []
    count = len(op.stack_before)
    if pickletools.markobject in op.stack_before:
        while (value := stack.pop()) is not None:
            taken.append(value)
        count -= 2  # the mark, and all that stood above it
    for _ in range(count):
        if (value := stack.pop()) is None:
            raise ValueError("a step takes a mark")
        taken.append(value)
    return taken[::-1]


def _most_unfolded(values: list[_Value]) -> float:
    """How many values and characters the largest is when every reference is written out."""
    sizes: dict[int, float] = {}
    begun: set[int] = set()
    todo = list(values)
    while todo:
        value = todo[-1]
        waiting = [part for part in value.parts if id(part) not in sizes]
        if not waiting:
            todo.pop()
            total = value.size + sum(sizes[id(part)] for part in value.parts)
            sizes[id(value)] = min(total, _MOST_UNFOLDED + 1)
        elif id(value) in begun:  # what it waits for waits for it
            return math.inf
        else:
            begun.add(id(value))
            todo += waiting
    return max(sizes.values(), default=0)
