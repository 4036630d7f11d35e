"""One mutated file from a valid one: its structure changed, or its bytes."""

import hashlib
import zlib
from collections.abc import Callable
from random import Random

from fuzz_archives import NPZ_CHANGES
from fuzz_seeds import Seed
from fuzz_tensors import OLD_TORCH_CHANGES, TORCH_CHANGES, change_safetensors
from fuzz_values import change_json

Change = Callable[[bytes, Random], bytes]

_BYTES_ALONE = 0.3  # share of files whose structure nobody looked at


def mutate(seed: Seed, rng: Random) -> tuple[dict[str, bytes], str]:
    """The files of a seed, one or more of them changed, and which changes they were."""
    files = dict(seed.files)
    said = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = _weights(seed) if rng.random() < 0.6 else rng.choice(sorted(files))
        data, original = files[name], seed.files[name]
        change = rng.choice(_BYTE_CHANGES)
        if data is original and rng.random() > _BYTES_ALONE:
            change = rng.choice(_changes(name, original))
        files[name] = change(data, rng)
        said.append(f"{name}: {change.__name__}")
    if files == seed.files:
        return mutate(seed, rng)
    return _as_if_written_together(seed, files), ", ".join(said)


def _as_if_written_together(seed: Seed, files: dict[str, bytes]) -> dict[str, bytes]:
    """Descriptions beside weights that tell the hash of what the weights have become.

    Another hash, and they would be passed over.
    """
    told = {}
    for name, data in files.items():
        weights = name.removesuffix(".json")
        if weights != name and weights in files:
            was, now = (hashlib.sha256(of[weights]).hexdigest() for of in (seed.files, files))
            told[name] = data.replace(was.encode(), now.encode())
    return files | told


def _weights(seed: Seed) -> str:
    if seed.target != ".":
        return seed.target
    return next(name for name in seed.files if not name.endswith(".json"))


def _changes(name: str, data: bytes) -> tuple[Change, ...]:
    if name.endswith(".json"):
        return (change_json,)
    if name.endswith(".npz"):
        return NPZ_CHANGES
    if name.endswith(".safetensors"):
        return (change_safetensors,)
    return TORCH_CHANGES if data.startswith(b"PK") else OLD_TORCH_CHANGES


def _place(data: bytes, rng: Random) -> int:
    """A place in the bytes; half of the time near an end, where the structure is."""
    near = rng.random()
    if near < 0.25:
        return min(rng.randrange(400), len(data))
    return max(len(data) - rng.randrange(2000), 0) if near < 0.5 else rng.randrange(len(data) + 1)


def flip_bits(data: bytes, rng: Random) -> bytes:
    """Some bits turned round."""
    changed = bytearray(data or b"x")
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        changed[min(_place(data, rng), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, rng: Random) -> bytes:
    """Some bytes replaced."""
    changed = bytearray(data or b"x")
    for _ in range(rng.choice((1, 1, 4, 16))):
        at = min(_place(data, rng), len(changed) - 1)
        changed[at] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    return bytes(changed)


def cut_off(data: bytes, rng: Random) -> bytes:
    """The beginning alone."""
    return data[: _place(data, rng)]


def insert(data: bytes, rng: Random) -> bytes:
    """More bytes somewhere."""
    at = _place(data, rng)
    size = rng.choice((1, 2, 16, 1000))
    new = rng.choice((rng.randbytes(size), b"\x00" * size, data[at : at + size], b"PK\x05\x06"))
    return data[:at] + new + data[at:]


def delete(data: bytes, rng: Random) -> bytes:
    """Fewer bytes."""
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 16, 1000)) :]


def zero(data: bytes, rng: Random) -> bytes:
    """A range of zeros, or of ones."""
    at, size = _place(data, rng), rng.choice((4, 16, 512, 5000))
    return (
        data[:at] + rng.choice((b"\x00", b"\xff")) * min(size, len(data) - at) + data[at + size :]
    )


def swap(data: bytes, rng: Random) -> bytes:
    """Two chunks exchanged."""
    size = rng.choice((1, 8, 64, 1024))
    first, second = sorted((_place(data, rng), _place(data, rng)))
    second = max(first + size, second)
    return (
        data[:first]
        + data[second : second + size]
        + data[first + size : second]
        + data[first : first + size]
        + data[second + size :]
    )


def pack(data: bytes, rng: Random) -> bytes:
    """Something else altogether: compressed, hexadecimal, empty, or noise after a known start."""
    start = data[: rng.choice((4, 9, 30, 100))]
    return rng.choice((zlib.compress(data), data.hex().encode(), b"", start + rng.randbytes(500)))


_BYTE_CHANGES: tuple[Change, ...] = (
    *(flip_bits, flip_bits, set_bytes, cut_off, insert, delete, zero, swap, pack),
)
