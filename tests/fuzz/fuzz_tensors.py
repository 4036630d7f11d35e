"""Changes of ``.safetensors`` files and of what ``torch.save`` wrote."""

import io
import json
import pickle
import pickletools
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from fuzz_archives import ZIP_CHANGES, unzip, zipped
from fuzz_seeds import torch_bytes
from fuzz_values import JUNK, change_arrays, change_value, pickled_junk
from safetensors import torch as safetensors
from torch import Tensor

from hostile_pickles import BOMBS, GADGETS

MARKER = "it ran"
"""What a file that is executed leaves behind, in the folder of the process."""

_SAFE_DTYPES = (
    "F16",
    "BF16",
    "F64",
    "I8",
    "BOOL",
    "F8_E4M3",
    "F8_E8M0",
    "F4",
    "C64",
    "U16",
    "x",
    "",
)


def change_safetensors(data: bytes, rng: Random) -> bytes:
    """Another header before the same bytes, or other tensors."""
    length = int.from_bytes(data[:8], "little")
    text, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.3:
        metadata = json.loads(text).get("__metadata__")
        tensors = change_arrays(safetensors.load(data), rng)
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        return safetensors.save(tensors, metadata)
    if rng.random() < 0.15:
        said = rng.choice(
            (0, 1, length - 1, length + 1, length + 8, 2**31, 2**40, 2**63, 2**64 - 1)
        )
        return said.to_bytes(8, "little") + text + body
    text = rng.choice(_HEADER_CHANGES)(text, rng)
    return len(text).to_bytes(8, "little") + text + body


def _other_entry(text: bytes, rng: Random) -> bytes:
    header = json.loads(text)
    entry = header[rng.choice([key for key in header if key != "__metadata__"])]
    change = rng.randrange(4)
    if change == 0:
        entry["dtype"] = rng.choice(_SAFE_DTYPES)
    elif change == 1:
        sizes = (0, 1, -1, 16, 2**32, 2**64 - 1, 10**30, 1.5, "3")
        entry["shape"] = [rng.choice(sizes) for _ in range(rng.choice((0, 1, 2, 4, 100)))]
    elif change == 2:
        entry["data_offsets"] = [
            offset + rng.choice((0, 1, -1, 4, 2**40, -offset, 2**63))
            for offset in entry["data_offsets"]
        ]
    else:
        key = rng.choice(("dtype", "shape", "data_offsets", "x"))
        entry[key] = rng.choice(JUNK[:10] + JUNK[12:])
    return json.dumps(header).encode()


def _other_metadata(text: bytes, rng: Random) -> bytes:
    """Our description in the header, changed within or as a whole."""
    header = json.loads(text)
    metadata = header["__metadata__"]
    key = rng.choice(list(metadata))
    try:
        metadata[key] = json.dumps(change_value(json.loads(metadata[key]), rng))
    except ValueError:  # no JSON, such as "pt"
        metadata[key] = rng.choice(("1e9", "9" * 5000, "[" * 100_000, "", "NaN", "{", "\x00"))
    return json.dumps(header).encode()


def _doubled_entry(text: bytes, rng: Random) -> bytes:
    entries = list(json.loads(text).items())
    entries.insert(rng.randrange(len(entries)), rng.choice(entries))
    return b"{" + b",".join(json.dumps({k: v}).encode()[1:-1] for k, v in entries) + b"}"


def _deep(text: bytes, rng: Random) -> bytes:
    return text[:-1] + b',"x":' + rng.choice((b"[", b'{"a":')) * rng.choice((100, 100_000)) + b"}"


def _moved_entries(text: bytes, rng: Random) -> bytes:
    header = json.loads(text)
    keys = [key for key in header if key != "__metadata__"]
    return json.dumps(
        header | dict(zip(keys, [header[k] for k in keys[::-1]], strict=True))
    ).encode()


def _any_value(text: bytes, rng: Random) -> bytes:
    return json.dumps(change_value(json.loads(text), rng)).encode()


_HEADER_CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(_other_entry, _other_entry, _other_entry, _other_metadata, _other_metadata, _other_metadata),
    *(_doubled_entry, _deep, _moved_entries, _any_value),
)


def change_contents(data: bytes, rng: Random, *, legacy: bool = False) -> bytes:
    """Other tensors, other things among them, or another description, saved as torch does."""
    contents = torch.load(io.BytesIO(data), weights_only=False)
    holder = "state_dict" if "state_dict" in contents else None
    state = contents[holder] if holder else contents
    change = rng.random()
    if change < 0.4:
        state = change_arrays(dict(state), rng)
    elif change < 0.7:
        key = rng.choice([*state, "x", ("x", 1), 7, torch.ones(1), "clone", None])
        junk = rng.choice((*pickled_junk(), *JUNK))
        state = dict(state) | {key: junk}
    else:
        contents = change_value(_without_tensors(contents), rng, JUNK + pickled_junk())
    if change < 0.7:
        contents = contents | {holder: state} if holder else state
    elif isinstance(contents, dict):
        contents |= {holder: state} if holder else state
    try:
        return torch_bytes(contents, legacy=legacy)
    except (RuntimeError, NotImplementedError, AttributeError):  # meta tensors, and the like
        return torch_bytes(state, legacy=legacy)


def _without_tensors(contents: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in contents.items() if k != "state_dict" and not isinstance(v, Tensor)}


def change_pickle(data: bytes, rng: Random) -> bytes:
    """The pickle in a zip archive of torch, changed."""
    members = unzip(data)
    changed = [
        (name, change_opcodes(content, rng) if name.endswith("data.pkl") else content)
        for name, content in members
    ]
    return zipped(changed)


def change_old_pickle(data: bytes, rng: Random) -> bytes:
    """One of the five pickles at the beginning of an old file, most often the fourth."""
    file = io.BytesIO(data)
    starts = [0]
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        starts.append(file.tell())
    which = rng.choice((3, 3, 3, 3, 2, 4))
    start, end = starts[which], starts[which + 1]
    return data[:start] + change_opcodes(data[start:end], rng) + data[end:]


_GLOBALS = (
    *(
        b"os\nsystem",
        b"builtins\neval",
        b"builtins\nbytearray",
        b"torch\nTensor",
        b"torch\nFloatTensor",
    ),
    *(b"torch.storage\nUntypedStorage", b"torch.storage\nTypedStorage", b"torch\nDoubleStorage"),
    *(
        b"torch._utils\n_rebuild_" + name
        for name in (b"tensor", b"tensor_v3", b"parameter", b"qtensor")
    ),
    *(b"torch._utils\n_rebuild_meta_tensor_no_storage", b"torch._utils\n_rebuild_wrapper_subclass"),
    *(b"torch._utils\n_rebuild_sparse_tensor", b"torch._tensor\n_rebuild_from_type_v2"),
    *(b"torch._utils\n_rebuild_device_tensor_from_numpy", b"torch._utils\n_rebuild_nested_tensor"),
    *(b"collections\nCounter", b"collections\nOrderedDict", b"argparse\nNamespace", b"torch\nSize"),
    *(b"_codecs\nencode", b"torch\ndevice", b"builtins\nset", b"torch.nn\nLinear", b"x\ny", b"\n"),
    *(
        b"torch\nfloat32",
        b"torch.nn.parameter\nParameter",
        b"torch.cuda\nFloatTensor",
        b"__main__\nx",
    ),
)
_SNIPPETS = (
    *(
        b"0",
        b"(",
        b"1",
        b"2",
        b"t",
        b"}",
        b"]",
        b")",
        b"N",
        b"R",
        b"b",
        b"u",
        b"s",
        b"e",
        b"\x81",
        b"Q",
    ),
    *(
        b"K\x00",
        b"J\xff\xff\xff\xff",
        b"J\xff\xff\xff\x7f",
        b"h\x00",
        b"h\x01",
        b"j\xff\xff\xff\x7f",
    ),
    *(b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"X\x01\x00\x00\x00x", b"G" + struct.pack(">d", 1e300)),
    *(b"\x85", b"\x86", b"\x87", b"\x88", b"r\xff\xff\xff\x7f", b"X\xff\xff\xff\xff", b"\x80\x04"),
)


def change_opcodes(data: bytes, rng: Random) -> bytes:
    """A pickle with other opcodes, arguments, names to call, or bombs and gadgets in it."""
    operations = [(op, arg, at) for op, arg, at in pickletools.genops(data)]
    bounds = [at for _, _, at in operations] + [len(data)]
    index = rng.randrange(1, len(operations))
    start, end = bounds[index], bounds[index + 1]
    change = rng.randrange(8)
    if change == 0:
        return rng.choice([*GADGETS.values(), *BOMBS.values()])
    if change == 1:
        inner = rng.choice([*GADGETS.values(), *BOMBS.values()]).removeprefix(b"\x80\x02")[:-1]
        return data[:start] + inner + rng.choice((b"0", b"")) + data[start:]
    if change == 2:
        code = rng.choice(pickletools.opcodes).code.encode("latin-1")
        return data[:start] + code + data[start + 1 :]
    if change == 3:
        return data[:start] + data[end:] if rng.random() < 0.5 else data[:end] + data[start:]
    if change == 4:
        return data[:start] + rng.choice(_SNIPPETS) + data[start:]
    names = {5: ("GLOBAL",), 6: ("BININT", "BININT1", "BININT2"), 7: ("BINUNICODE",)}[change]
    found = [i for i, (op, _, _) in enumerate(operations) if op.name in names]
    if not found:
        return data[:start] + data[end:]
    chosen = rng.choice(found)
    return data[: bounds[chosen]] + _other_argument(change, rng) + data[bounds[chosen + 1] :]


def _other_argument(change: int, rng: Random) -> bytes:
    if change == 5:
        return b"c" + rng.choice(_GLOBALS) + b"\n"
    if change == 6:
        number = rng.choice((0, 1, 3, 16, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, -1, -16, 10**30))
        return pickle.dumps(number, 2)[2:-1]
    text = rng.choice(("", "x", "cpu", "cuda", "meta", "storage", "0", "../0", "🐝", "x" * 9999))
    return pickle.dumps(text, 2)[2:].partition(b"q\x00")[0]


def _old_contents(data: bytes, rng: Random) -> bytes:
    return change_contents(data, rng, legacy=True)


TORCH_CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(change_contents, change_contents, change_pickle, change_pickle, *ZIP_CHANGES),
)
OLD_TORCH_CHANGES = (_old_contents, change_old_pickle)
