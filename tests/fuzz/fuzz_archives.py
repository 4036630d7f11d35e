"""Changes of zip archives, of the arrays in a ``.npz``, and of their headers."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable
from random import Random

import numpy as np
import torch
from fuzz_seeds import npz_bytes
from fuzz_values import change_arrays

Members = list[tuple[str, bytes]]

_NUMBERS = (0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x10000000)
# Signature of a record of a zip archive → offset and struct code of its fields.
_FIELDS = {
    b"PK\x01\x02": [
        *((4, "<H"), (6, "<H"), (8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I")),
        *((28, "<H"), (30, "<H"), (32, "<H"), (34, "<H"), (38, "<I"), (42, "<I")),
    ],
    b"PK\x03\x04": [
        (4, "<H"),
        (6, "<H"),
        (8, "<H"),
        (14, "<I"),
        (18, "<I"),
        (22, "<I"),
        (26, "<H"),
        (28, "<H"),
    ],
    b"PK\x05\x06": [
        (4, "<H"),
        (6, "<H"),
        (8, "<H"),
        (10, "<H"),
        (12, "<I"),
        (16, "<I"),
        (20, "<H"),
    ],
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def unzip(data: bytes) -> Members:
    """Names and contents, in order."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def zipped(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive, names that stand twice and all."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in members:
                archive.writestr(name or "empty", data)
    return out.getvalue()


def change_records(data: bytes, rng: Random) -> bytes:
    """An archive whose directory, or a member's header, does not say the truth."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        signature = rng.choice(list(_FIELDS))
        at = data.find(signature, rng.randrange(len(data)))
        at = data.find(signature) if at < 0 else at
        offset, code = rng.choice(_FIELDS[signature])
        if at < 0 or at + offset + struct.calcsize(code) > len(data):
            continue
        old = struct.unpack_from(code, data, at + offset)[0]
        new = rng.choice((*_NUMBERS, old + 1, old - 1, old * 2, old ^ (1 << rng.randrange(16))))
        struct.pack_into(code, changed, at + offset, new & (0xFFFF if code == "<H" else 0xFFFFFFFF))
    return bytes(changed)


def change_members(data: bytes, rng: Random) -> bytes:
    """An archive with members renamed, doubled, removed, exchanged, added or packed otherwise."""
    members = unzip(data)
    at = rng.randrange(len(members))
    name, content = members[at]
    other = rng.randrange(len(members))
    change = rng.randrange(9)
    if change == 0:
        members[at] = (rng.choice(_MEMBER_NAMES) + rng.choice(("", ".npy")), content)
    elif change == 1:
        members.insert(other, (name, content if rng.random() < 0.5 else members[other][1]))
    elif change == 2:
        del members[at]
    elif change == 3:
        members[at], members[other] = (name, members[other][1]), (members[other][0], content)
    elif change == 4:
        members.insert(other, (rng.choice(_MEMBER_NAMES), rng.choice((b"", b"x", content, data))))
    elif change == 5:
        members[at] = (
            name,
            rng.choice((b"", b"\x00" * 100, content * 2, content[: len(content) // 2])),
        )
    elif change == 6:
        members[at] = (name, b"\x00" * rng.choice((10**5, 3 * 10**7)))
    elif change == 7:
        return data + data if rng.random() < 0.5 else zipped([("x.npy", data)])
    return zipped(members, rng.choice(_METHODS if change in (6, 8) else _METHODS[:1]))


_MEMBER_NAMES = (
    *("x", "cls", "a/../../b", "/etc/passwd", "x" * 3000, "bee🐝", "data.pkl", "archive/data.pkl"),
    *("byteorder", ".format_version", "archive/.storage_alignment", "__MACOSX/x", "head/kernel"),
    *("opt/target/cls", "params/x", "MixerBlock_0/x", "Transformer/encoderblock/x", "a\\b", "x\n"),
)


def change_npz(data: bytes, rng: Random) -> bytes:
    """A ``.npz`` of other arrays, or with another header before one of them."""
    members = unzip(data)
    if rng.random() < 0.5:
        return _other_arrays(members, rng)
    at = rng.randrange(len(members))
    name, content = members[at]
    members[at] = (name, _other_header(content, rng))
    return zipped(members)


def _other_arrays(members: Members, rng: Random) -> bytes:
    arrays = {name.removesuffix(".npy"): _array(content) for name, content in members}
    tensors = {key: torch.from_numpy(a) for key, a in arrays.items() if a.dtype.kind in "fi"}
    rest = {key: array for key, array in arrays.items() if key not in tensors}
    changed = rest | {key: tensor.numpy() for key, tensor in change_arrays(tensors, rng).items()}
    if rng.random() < 0.3:
        key = rng.choice(list(changed) or ["x"])
        changed[key] = rng.choice(_ARRAYS)
    return npz_bytes({key.replace("\\", "/") or "empty": array for key, array in changed.items()})


def _array(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content))


class _Runs:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("open('it ran', 'w').close()",)


_ARRAYS = (
    np.array([_Runs()], object),
    np.array([], object),
    np.zeros(3, "U5"),
    np.zeros((3, 0), "V2"),
    np.zeros(3, "V2"),
    np.zeros(3, "V7"),
    np.zeros(3, "M8[s]"),
    np.zeros(3, np.longdouble),
    np.zeros(3, [("a", "f4"), ("b", "O")]),
    np.zeros(3, np.complex64),
    np.asfortranarray(np.zeros((4, 4))),
    np.zeros((2, 3), ">f4"),
)
_DTYPES = (
    *(
        "<f4",
        ">f4",
        "<f8",
        "<f2",
        "|O",
        "<i4",
        "|V2",
        "|V0",
        "<U0",
        "|S0",
        "<M8[D]",
        "<f16",
        "f4,f4",
    ),
    *("<c8", "", "x", "<f1000000000", "|V1000000000", "(2,3)<f4"),
)
_SHAPES = (
    *("()", "(0,)", "(1,)", "(-1,)", "(16, 16)", "(0, 99999999999999999999)", "(0,-1)", "(2,) * 9"),
    *(
        "(1,) * 40",
        "(4611686018427387904, 4)",
        "(1e3,)",
        "(True,)",
        "'x'",
        "None",
        "[3]",
        "(3, None)",
    ),
    *("(1099511627776,)", "(" + "1," * 100 + ")", "(" + "1," * 4000 + ")"),
)
_HEADERS = (
    "(" * 5000,
    "-" * 9000 + "1",
    "[" * 90 + "]" * 90,
    "9" * 9000,
    "{}",
    "__import__('os').system('touch it\\ ran')",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}",
    "{'descr': '<f4', 'fortran_order': 'no', 'shape': (3L,)}",
    "\x00" * 100,
    " " * 20_000,
)


def _other_header(content: bytes, rng: Random) -> bytes:
    """An array's bytes after a header that says something else of them."""
    length = struct.unpack_from("<H", content, 8)[0]
    text, body = content[10 : 10 + length].decode("latin-1"), content[10 + length :]
    fields = np.lib.format.read_array_header_1_0(io.BytesIO(content[8:]))
    shape, order, dtype = (
        str(fields[0]),
        str(fields[1]),
        repr(np.lib.format.dtype_to_descr(fields[2])),
    )
    change = rng.randrange(6)
    if change == 0:
        shape = rng.choice(_SHAPES)
    elif change == 1:
        dtype = repr(rng.choice(_DTYPES))
    elif change == 2:
        order = rng.choice(("True", "1", "None", "'F'"))
    elif change == 3:
        shape, body = rng.choice(_SHAPES[:8]), b""
    if change < 4:
        text = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}\n"
    elif change == 4:
        text = rng.choice(_HEADERS)
    version = rng.choice((b"\x01\x00",) * 6 + (b"\x02\x00", b"\x03\x00", b"\x09\x00", b"\x00\x00"))
    code = "<H" if version == b"\x01\x00" else "<I"
    said = len(text) if change != 5 else rng.choice((0, 1, 65535, len(text) * 2))
    said = 2**31 if code == "<I" and rng.random() < 0.3 else said
    return b"\x93NUMPY" + version + struct.pack(code, said) + text.encode("latin-1") + body


ZIP_CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (change_records, change_members)
NPZ_CHANGES = (*ZIP_CHANGES, change_npz, change_npz)
