"""Our own files: ``.safetensors`` with a description in its header, and Lightning's ``.ckpt``."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vit_lightning.checkpoints.formats import require_format
from vit_lightning.errors import InputError
from vit_lightning.files import atomic_write
from vit_lightning.models.config import ViTConfig

Shape = tuple[int, ...]

LIGHTNING_KEY = "vit_lightning"
"""Where a Lightning checkpoint of this package describes its model."""

_STATE_PREFIX = "model."
_FORMAT_KEY = "vit_lightning.format"
_FORMAT_VERSION = 1
_REMAP_AFTER = 1 << 26  # bytes
_GET_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Description:
    """What travels with the weights.

    Args:
        config: the model.
        classes: name of each output of the head, or None.
        preprocessing: how pictures become the model's input, JSON-plain, or None.
        origin: the run and the data set it was trained on, JSON-plain, or None.
    """

    config: ViTConfig
    classes: tuple[str, ...] | None = None
    preprocessing: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None


class TensorFile:
    """Tensors of a file, mapped into memory and copied out on access.

    A copy, because a mapping changes, or crashes the process, when the file is written over. The
    pages of a mapping count as used memory until it is closed, so it is opened anew every 64 MiB.

    Args:
        reopen: maps the file; returns a function from key to tensor.
        shapes: key → shape.
    """

    def __init__(self, reopen: Callable[[], Callable[[str], Tensor]], shapes: dict[str, Shape]):
        self.shapes = shapes
        self._reopen = reopen
        self._get: Callable[[str], Tensor] | None = None
        self._touched = 0

    def __getitem__(self, key: str) -> Tensor:
        if self._get is None or self._touched > _REMAP_AFTER:
            self._get, self._touched = None, 0
            self._get = self._reopen()
        tensor = self._get(key).clone()
        self._touched += tensor.nbytes
        return tensor


def save_safetensors(
    path: str | Path,
    state: Mapping[str, Tensor],
    config: ViTConfig,
    classes: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and all that is needed to use them, whole or not at all.

    Args:
        path: the file to write.
        state: key → tensor.
        config: the model.
        classes: name of each output of the head.
        preprocessing: how pictures become the model's input; plain JSON types.
        origin: the run and the data set it was trained on; plain JSON types.

    Raises:
        InputError: the file cannot be written, as when the disk is full.
    """
    metadata = {
        "format": "pt",  # what Hugging Face's readers look for
        _FORMAT_KEY: str(_FORMAT_VERSION),
        "config": json.dumps(config.to_dict()),
        "classes": json.dumps(None if classes is None else list(classes)),
        "preprocessing": json.dumps(None if preprocessing is None else dict(preprocessing)),
        "origin": json.dumps(None if origin is None else dict(origin)),
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with atomic_write(Path(path)) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise InputError(f"{path} cannot be written: {error}") from error


def open_safetensors(path: str | Path) -> tuple[Description, TensorFile]:
    """The description in a ``.safetensors`` of this package, and its tensors on access.

    Raises:
        InputError: no file, another kind of file, a damaged one, or one of another program.
    """
    require_format(path, "safetensors")

    def reopen() -> Callable[[str], Tensor]:
        return safe_open(path, framework="pt").get_tensor

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is cut short or damaged ({error}); {_GET_AGAIN}") from error
    if _FORMAT_KEY not in metadata:
        raise InputError(
            f"{path} was not written by this package (its header has no {_FORMAT_KEY!r}); "
            f"other programs' .safetensors are not read"
        )
    if metadata[_FORMAT_KEY] != str(_FORMAT_VERSION):
        raise InputError(
            f"{path} is in version {metadata[_FORMAT_KEY]} of the format, this package reads "
            f"{_FORMAT_VERSION}; install the version that wrote it"
        )
    fields = ("config", "classes", "preprocessing", "origin")
    try:
        values = {key: json.loads(metadata.get(key, "null")) for key in fields}
    except ValueError as error:
        raise InputError(f"{path}: the description in its header is damaged ({error})") from error
    return _describe(path, values), TensorFile(reopen, shapes)


def open_lightning(path: str | Path) -> tuple[Description, TensorFile]:
    """The description in a Lightning ``.ckpt`` of this package, and its tensors on access.

    Nothing in the file is executed: it is read with ``weights_only=True``.

    Raises:
        InputError: no file, another kind of file, a damaged one, one that would have to run
            code, or one of another program.
    """
    require_format(path, "torch")
    contents = _load(path)
    if not isinstance(contents, dict) or LIGHTNING_KEY not in contents:
        raise InputError(
            f"{path} is no checkpoint of this package (it has no {LIGHTNING_KEY!r} entry). "
            f"Other programs' checkpoints are not read; Google's .npz is"
        )
    values, state = contents[LIGHTNING_KEY], contents.get("state_dict")
    if not isinstance(values, dict) or not isinstance(state, dict):
        raise InputError(f"{path}: the description or the weights are missing; {_GET_AGAIN}")
    shapes = {
        key.removeprefix(_STATE_PREFIX): tuple(tensor.shape)
        for key, tensor in state.items()
        if key.startswith(_STATE_PREFIX) and isinstance(tensor, Tensor)
    }

    def reopen() -> Callable[[str], Tensor]:
        weights = _load(path)["state_dict"]
        return lambda key: weights[_STATE_PREFIX + key]

    return _describe(path, values), TensorFile(reopen, shapes)


def _load(path: str | Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    # What a damaged or hostile pickle makes the reader raise has no bounds.
    except Exception as error:
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path} asks for {asked[1]} to be called while it is read, as a pickle can; it "
                f"was not opened and nothing was executed. Only tensors and plain data are read"
            ) from error
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is cut short or damaged ({reason}); {_GET_AGAIN}") from error


def _describe(path: str | Path, values: Mapping[str, Any]) -> Description:
    """A description from a file, which may hold anything."""
    classes, preprocessing = values.get("classes"), values.get("preprocessing")
    origin = values.get("origin")
    try:
        config = ViTConfig.from_dict(values["config"])
    except InputError as error:
        raise InputError(f"{path}: the model it describes cannot be: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: its description of the model is damaged ({error})") from error
    if classes is not None:
        if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
            raise InputError(f"{path}: its class names are not a list of names")
        if len(classes) != config.num_classes:
            raise InputError(
                f"{path} names {len(classes)} classes, its model has {config.num_classes}"
            )
        classes = tuple(classes)
    if preprocessing is not None and not isinstance(preprocessing, dict):
        raise InputError(f"{path}: its preprocessing is not a table of settings")
    if origin is not None and not isinstance(origin, dict):
        raise InputError(f"{path}: its origin is not a table of words")
    return Description(config, classes, preprocessing, origin)
