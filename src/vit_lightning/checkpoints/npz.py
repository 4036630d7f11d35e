"""Google's ``.npz`` files, read lazily and written one array at a time.

A ``.npz`` is a zip of ``.npy`` members. Shapes and types stand in the members' headers, so a file
is understood before an array of it is in memory; nothing in it is ever unpickled.
"""

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vit_lightning.checkpoints.formats import require_format
from vit_lightning.errors import InputError
from vit_lightning.files import atomic_write

Shape = tuple[int, ...]

# Where training states keep their parameters, outermost first.
_PREFIXES = ("opt/target/", "target/", "params/")
# What may stand beside prefixed parameters: a training state, which holds no weights.
_TRAINING_STATE = frozenset({"opt", "opt_state", "optimizer", "extra", "state", "step"})
# Linen counts the sub-modules of a block by class, the released files through all of them.
_LINEN_NAMES = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}
_LINEN = re.compile(rf"(Transformer/encoderblock(?:_\d+)?/)({'|'.join(_LINEN_NAMES)})(/.*)")
_CHUNK = 1 << 22  # bytes read at once
_DAMAGED = "the file is damaged; copy or download it again"


@dataclass(frozen=True)
class _Member:
    info: zipfile.ZipInfo
    shape: Shape
    dtype: np.dtype[np.generic]
    fortran_order: bool
    data_offset: int


class NpzFile(Mapping[str, NDArray[np.float32]]):
    """The weights in a ``.npz``: key → float32 array, read anew at each access.

    Keys are those of released files: prefixes of training states are gone and the sub-modules of
    a block are numbered the old way. The file stays open as long as the object lives. Made by
    :func:`open_npz`.

    Attributes:
        path: the file.
        shapes: key → shape, from the headers.
        dtypes: key → type in the file, such as ``float32`` or ``bfloat16``.
        training_state: names of arrays beside the parameters (optimizer, step), not weights.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{path}: {error}; {_DAMAGED}") from error
        members = {}
        for info in self._archive.infolist():
            if not info.filename.endswith(".npy"):
                raise InputError(f"{path} holds {info.filename!r}, which is not an array")
            name = info.filename.removesuffix(".npy")
            if name in members:
                raise InputError(f"{path} holds {name!r} twice; {_DAMAGED}")
            members[name] = self._read_header(info)
        names, self.training_state = _parameter_names(path, members)
        self._members = {key: members[name] for key, name in names.items()}
        self.shapes: dict[str, Shape] = {k: m.shape for k, m in self._members.items()}
        self.dtypes = {k: _dtype_name(m.dtype) for k, m in self._members.items()}

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        """The array ``key`` as float32.

        Raises:
            InputError: the array is no floating-point one, or its bytes are damaged.
        """
        member = self._members[key]
        if self.dtypes[key] != "bfloat16" and member.dtype.kind != "f":
            raise InputError(
                f"{self.path}: {key} is of type {self.dtypes[key]}; weights are floating-point"
            )
        flat = self._read_data(key, member)
        if self.dtypes[key] == "bfloat16":  # the upper half of a float32
            flat = (flat.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        if member.fortran_order:
            array = flat.reshape(member.shape[::-1]).T
        else:
            array = flat.reshape(member.shape)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            return np.ascontiguousarray(array, dtype=np.float32).reshape(member.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def _read_header(self, info: zipfile.ZipInfo) -> _Member:
        where = f"{self.path}: {info.filename.removesuffix('.npy')}"
        try:
            with self._archive.open(info) as file:
                version = npy.read_magic(file)
                read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
                if version not in read:
                    raise InputError(f"{where}: .npy version {version} is unknown")
                shape, fortran_order, dtype = read[version](file)
                offset = file.tell()
        except InputError:
            raise
        # A header is a Python literal; what a broken one makes numpy raise has no bounds.
        except Exception as error:
            raise InputError(f"{where}: the header cannot be read ({error}); {_DAMAGED}") from error
        if dtype.hasobject:
            raise InputError(
                f"{where} is an array of Python objects. Reading it would unpickle it, which can "
                f"run any code, so it was not opened; ask for a file of plain numbers"
            )
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if min(shape, default=0) < 0 or offset + size != info.file_size:
            raise InputError(
                f"{where}: the header announces shape {shape} of {dtype}, {size} bytes, but "
                f"{info.file_size - offset} bytes follow; {_DAMAGED}"
            )
        return _Member(info, shape, dtype, fortran_order, offset)

    def _read_data(self, key: str, member: _Member) -> NDArray[np.generic]:
        """The numbers of an array in a row, read in chunks so that no second copy is held."""
        try:
            flat = np.empty(int(np.prod(member.shape)), member.dtype)
            raw = flat.view(np.uint8)
            with self._archive.open(member.info) as file:
                file.read(member.data_offset)
                position = 0
                while position < raw.size:
                    chunk = file.read(min(_CHUNK, raw.size - position))
                    if not chunk:
                        raise EOFError(f"{raw.size - position} bytes are missing")
                    raw[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
                    position += len(chunk)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise InputError(f"{self.path}: {key}: {error}; {_DAMAGED}") from error
        except MemoryError as error:
            raise InputError(
                f"{self.path}: {key}: no memory for an array of shape {member.shape}"
            ) from error
        return flat


def open_npz(path: str | Path) -> NpzFile:
    """Open weights in Google's layout; the headers are read, the arrays are not.

    Raises:
        InputError: no file, another kind of file, a damaged one, pickled objects, or an
            MLP-Mixer.
    """
    require_format(path, "npz")
    file = NpzFile(Path(path))
    if any(key.startswith("MixerBlock_") for key in file):
        raise InputError(
            f"{path} holds an MLP-Mixer, not a Vision Transformer; this package has no Mixer. "
            f"Take a ViT or R+ViT file"
        )
    return file


def write_npz(path: str | Path, arrays: Iterable[tuple[str, NDArray[np.generic]]]) -> None:
    """Write (key, array) pairs as float32, uncompressed, whole or not at all.

    Each array is written as it comes, so an iterator that makes them one by one never has two
    of them in memory. The same arrays give the same bytes.
    """
    with (
        atomic_write(Path(path)) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for key, array in arrays:
            # A ZipInfo of its own carries no time of day.
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                npy.write_array(
                    member,
                    np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape),
                    version=(1, 0),
                    allow_pickle=False,
                )


def _parameter_names(path: Path, names: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Canonical key → name in the file, and the names that are no parameters."""
    inside = {name: name for name in names}
    beside: list[str] = []
    for prefix in _PREFIXES:
        if any(key.startswith(prefix) for key in inside):
            beside += [name for key, name in inside.items() if not key.startswith(prefix)]
            inside = {
                key.removeprefix(prefix): name
                for key, name in inside.items()
                if key.startswith(prefix)
            }
    strays = [name for name in beside if name.split("/")[0] not in _TRAINING_STATE]
    if strays:
        raise InputError(
            f"{path} holds parameters under a prefix and, beside them, {', '.join(strays[:5])}, "
            f"which belong to neither the parameters nor a training state"
        )
    keys: dict[str, str] = {}
    for key, name in inside.items():
        canonical = _LINEN.sub(lambda m: m[1] + _LINEN_NAMES[m[2]] + m[3], key)
        if canonical in keys:
            raise InputError(f"{path} holds {canonical} twice, as {keys[canonical]} and {name}")
        keys[canonical] = name
    return keys, tuple(beside)


def _dtype_name(dtype: np.dtype[np.generic]) -> str:
    # NumPy has no bfloat16: it stores JAX's as two bytes of no type.
    return "bfloat16" if dtype.kind == "V" and dtype.itemsize == 2 else dtype.name
