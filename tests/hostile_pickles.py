"""Pickles that would do harm: by running a command, or by growing without bounds.

The harmless command makes a file called "it ran" in the folder of the process.
"""

import pickle
import struct
import subprocess
from collections.abc import Callable
from typing import Any

COMMAND = "touch 'it ran'"


class _Calls:
    """Pickled, it is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little")


_CODE = "open('it ran', 'w').close()"
_SHORT_SYSTEM = b"\x8c\x02os\x8c\x06system"
_MAP = b"cbuiltins\nmap\ncos\nsystem\n]" + _text(COMMAND) + b"a\x86\x81"
_WITH_SETSTATE = b"ccollections\nOrderedDict\n)R}" + _text("__setstate__") + b"cos\nsystem\nsb"

GADGETS: dict[str, bytes] = {
    "REDUCE": pickle.dumps(_Calls(subprocess.getoutput, COMMAND), 2),
    "REDUCE of eval": pickle.dumps(_Calls(eval, _CODE), 2),
    "REDUCE of exec": pickle.dumps(_Calls(exec, _CODE), 2),
    "INST": b'(S"' + COMMAND.encode() + b'"\nios\nsystem\n.',
    "OBJ": b'(cos\nsystem\nS"' + COMMAND.encode() + b'"\no.',
    "NEWOBJ": b"\x80\x02cbuiltins\nbytes\n" + _MAP + b"\x85\x81.",
    "stacked GLOBAL": b"\x80\x04" + _SHORT_SYSTEM + b"\x93" + _text(COMMAND) + b"\x85R.",
    "BUILD": b"\x80\x02" + _WITH_SETSTATE + _text(COMMAND) + b"b.",
}
"""How a pickle can run a command; read by :func:`pickle.loads`, each does."""


def _laughs() -> bytes:
    """Thirty lists, each of which holds the one before it ten times, by reference."""
    data = b"]" + _text("ha") + b"aq\x00"
    for number in range(30):
        data += b"](" + b"h" + (bytes([number]) + b"h") * 9 + bytes([number]) + b"e"
        data += b"q" + bytes([number + 1])
    return data


def _tuples() -> bytes:
    """Forty tuples, each of which holds the one before it three times, by reference."""
    return b"K\x01" + b"".join(b"q\x00h\x00h\x00\x87" for _ in range(40))


BOMBS: dict[str, bytes] = {
    "lists in lists": b"\x80\x02" + _laughs() + b".",
    "lists in the description": b"\x80\x02}"
    + _text("vit_lightning")
    + b"}"
    + _text("config")
    + b"}"
    + _text("depth")
    + _tuples()
    + b"sss.",
    "tuples as a key": b"\x80\x02}" + _tuples() + b"Ns.",
    "tuples in a set": b"\x80\x02cbuiltins\nset\n](" + _tuples() + b"e\x85R.",
    "bytearray": b"\x80\x02cbuiltins\nbytearray\n" + _number(1 << 30) + b"\x85R.",
    "tensor": b"\x80\x02ctorch\nTensor\n" + _number(10**12) + b"\x85R.",
    "storage": b"\x80\x02ctorch.storage\nUntypedStorage\n" + _number(10**12) + b"\x85R.",
    "a list of itself": b"\x80\x02]q\x00h\x00a.",
    "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "deep": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
}
"""Small pickles that take much memory or time."""
