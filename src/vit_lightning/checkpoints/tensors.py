"""Files of torch and safetensors: shapes at once, tensors on access, nothing executed."""

import argparse
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vit_lightning.checkpoints.formats import GET_AGAIN, require_format
from vit_lightning.checkpoints.pickles import MOST_BYTES, check_pickles
from vit_lightning.errors import InputError

Shape = tuple[int, ...]

# Where programs put a model's tensors in what they save, beside optimizer and arguments.
_HOLDERS = ("state_dict", "model", "model_state_dict", "module")
_OLD_PICKLES = 5  # before the tensors in files of torch before 1.6: what it is, and their names
# What zipfile and pickletools raise at it; RuntimeError at what is encrypted or packed otherwise.
_DAMAGE = (
    *(zipfile.BadZipFile, EOFError, OSError, RuntimeError),
    *(ValueError, LookupError, struct.error),
)
_REMAP_AFTER = 1 << 25  # bytes
_SLACK = 1 << 20  # bytes that tensors may share beyond the file's size


class TensorFile:
    """Tensors of a file, mapped into memory and copied out on access.

    A copy, because a mapping changes, or crashes the process, when the file is written over. The
    pages of a mapping count as used memory until it is closed, so it is opened anew every 32 MiB.

    Args:
        reopen: maps the file; returns a function from key to tensor.
        shapes: key → shape.
        mapped: whether it is a mapping; what cannot be mapped is in memory, whole, once.
    """

    def __init__(
        self,
        reopen: Callable[[], Callable[[str], Tensor]],
        shapes: dict[str, Shape],
        *,
        mapped: bool = True,
    ):
        self.shapes = shapes
        self._mapped = mapped
        self._reopen = reopen
        self._get: Callable[[str], Tensor] | None = None
        self._touched = 0

    def __getitem__(self, key: str) -> Tensor:
        if self._get is None or (self._mapped and self._touched > _REMAP_AFTER):
            self._get, self._touched = None, 0
            self._get = self._reopen()
        tensor = self._get(key).clone()
        self._touched += tensor.nbytes
        return tensor


def open_safetensors(path: str | Path) -> tuple[dict[str, str], TensorFile]:
    """The metadata in a ``.safetensors``, and its tensors on access.

    Raises:
        InputError: no file, another kind of file, or a damaged one.
    """
    require_format(path, "safetensors")

    def reopen() -> Callable[[str], Tensor]:
        file = safe_open(path, framework="pt")

        def get(key: str) -> Tensor:
            try:
                tensor: Tensor = file.get_tensor(key)  # type: ignore[no-untyped-call]
            except SafetensorError as error:  # a type that torch has not
                raise InputError(f"{path}: {key} cannot be read: {error}") from error
            return tensor

        return get

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is cut short or damaged ({error}); {GET_AGAIN}") from error
    return metadata, TensorFile(reopen, shapes)


@dataclass(frozen=True)
class TorchFile:
    """What ``torch.save`` or Lightning wrote.

    Args:
        tensors: the model's, on access.
        beside: what stands beside them, of any plain type.
    """

    tensors: TensorFile
    beside: Mapping[str, Any]


def open_torch(path: str | Path) -> TorchFile:
    """The tensors of a ``.pth``, ``.bin`` or ``.ckpt``, read with ``weights_only=True``.

    A state dict may stand alone or under one of the names that training programs give it.

    Raises:
        InputError: no file, another kind of file, a damaged one, one that would have to run
            code, or one without tensors.
    """
    require_format(path, "torch")
    _check_pickles(path)
    loaded = _load(path)
    if not isinstance(loaded, dict):
        raise InputError(
            f"{path} holds a {type(loaded).__name__}, expected a state dict: names and tensors"
        )
    contents = _named(loaded)
    holder = next((name for name in _HOLDERS if isinstance(contents.get(name), dict)), None)
    state = contents if holder is None else _named(contents[holder])
    named = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not named:
        names = [str(key) for key in dict.keys(loaded) if isinstance(key, str | int)]
        found = ", ".join(names[:6]) or "nothing"
        raise InputError(f"{path} holds no tensors of a model (it has {found})")
    _check_tensors(path, named)
    shapes = {key: tuple(tensor.shape) for key, tensor in named.items()}
    beside = {
        key: value
        for key, value in contents.items()
        if key != holder and not isinstance(value, Tensor)
    }

    def reopen() -> Callable[[str], Tensor]:
        again = _load(path)
        tensors = again if holder is None else again[holder]
        return lambda key: tensors[key]

    mapped = zipfile.is_zipfile(path)
    return TorchFile(TensorFile(reopen, shapes, mapped=mapped), beside)


def _named(values: dict[Any, Any]) -> dict[str, Any]:
    """What has a name, by the type's own method: a pickle can put another into an OrderedDict."""
    return {key: value for key, value in dict.items(values) if isinstance(key, str)}


def _check_pickles(path: str | Path) -> None:
    try:
        if zipfile.is_zipfile(path):
            check_pickles(_pickle_in_zip(path), 1)
        else:
            with Path(path).open("rb") as file:
                check_pickles(file.read(MOST_BYTES), _OLD_PICKLES)
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except _DAMAGE as error:
        raise InputError(f"{path} is cut short or damaged ({error}); {GET_AGAIN}") from error


def _pickle_in_zip(path: str | Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        # torch finds it by a name in which capitals do not count.
        pickles = [i for i in archive.infolist() if i.filename.lower().endswith("data.pkl")]
        if len(pickles) != 1:
            raise InputError(f"holds {len(pickles)} files data.pkl; torch.save writes one")
        with archive.open(pickles[0]) as file:
            return file.read(MOST_BYTES)


def _load(path: str | Path) -> Any:
    try:
        mapped = zipfile.is_zipfile(path)  # torch before 1.6 wrote what cannot be mapped
        # Training programs save their arguments beside the weights: a bag of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    # What a damaged or hostile pickle makes the reader raise has no bounds.
    except Exception as error:
        # torch's own words for it stand behind its advice to take the risk.
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise InputError(f"{path} is cut short or damaged ({reason}); {GET_AGAIN}") from error


def _check_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no plain arrays, or claim more memory than the file has bytes."""
    for key, tensor in tensors.items():
        odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested
        if odd or tensor.device.type != "cpu":
            raise InputError(
                f"{path}: {key} is a sparse, quantised, nested or empty (meta) tensor; weights are "
                f"plain arrays"
            )
    claimed = sum(tensor.nbytes for tensor in tensors.values())
    size = Path(path).stat().st_size
    if claimed > 2 * size + _SLACK:
        raise InputError(
            f"{path} has {size} bytes, but its tensors claim {claimed}: they repeat what is "
            f"stored once. Such a file was not made by saving a model"
        )
