"""What travels with weights of our own: written into a ``.safetensors``, read from any file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vit_lightning.checkpoints.repository import FORMAT_KEY
from vit_lightning.errors import InputError
from vit_lightning.files import atomic_write
from vit_lightning.models.config import ViTConfig

DESCRIPTION_KEY = "vit_lightning"
"""Where a Lightning checkpoint, or a file beside weights, describes their model."""

HASH_KEY = "sha256"
"""Beside a description in a file of its own: the hash of the weights that it describes."""

STATE_PREFIX = "model."
"""What stands before our names in a Lightning checkpoint of this package."""

AVERAGED_PREFIX = "averaged."
"""The same of the averaged weights, where a training keeps them; they are the model then."""

NATIVE_LAYOUT = "native"
"""Our own names; other layouts are those of the library that a file is written for."""

_LAYOUT_KEY = "vit_lightning.layout"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Description:
    """What travels with the weights.

    Args:
        config: the model.
        classes: name of each output of the head, or None.
        preprocessing: how pictures become the model's input, JSON-plain, or None.
        origin: the run and the data set it was trained on, JSON-plain, or None.
        multi_label: whether a picture has any number of classes, each a yes or no by the sigmoid
            of its output, instead of one by the softmax over all.
    """

    config: ViTConfig
    classes: tuple[str, ...] | None = None
    preprocessing: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    multi_label: bool = False


def save_safetensors(
    path: str | Path,
    state: Mapping[str, Tensor],
    config: ViTConfig,
    classes: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    layout: str = NATIVE_LAYOUT,
    *,
    multi_label: bool = False,
) -> None:
    """Write weights and all that is needed to use them, whole or not at all.

    Args:
        path: the file to write.
        state: key → tensor.
        config: the model.
        classes: name of each output of the head.
        preprocessing: how pictures become the model's input; plain JSON types.
        origin: the run and the data set it was trained on; plain JSON types.
        layout: whose names ``state`` has.
        multi_label: whether a picture has any number of classes.

    Raises:
        InputError: the file cannot be written, as when the disk is full.
    """
    description = describe_as(config, classes, preprocessing, origin, multi_label=multi_label)
    metadata = {
        "format": "pt",  # what Hugging Face's readers look for
        FORMAT_KEY: str(_FORMAT_VERSION),
        _LAYOUT_KEY: layout,
    } | {key: json.dumps(value) for key, value in description.items()}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with atomic_write(Path(path)) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata)
            temporary.chmod(mode)  # safetensors makes a file that its owner alone can read
        except SafetensorError as error:
            raise InputError(f"{path} cannot be written: {error}") from error


def describe_as(
    config: ViTConfig,
    classes: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | None,
    origin: Mapping[str, Any] | None,
    *,
    multi_label: bool = False,
) -> dict[str, Any]:
    """The plain values that :func:`describe` reads."""
    return {
        "config": config.to_dict(),
        "classes": None if classes is None else list(classes),
        "preprocessing": None if preprocessing is None else dict(preprocessing),
        "origin": None if origin is None else dict(origin),
        "multi_label": multi_label,
    }


def describe_safetensors(path: str | Path, metadata: Mapping[str, str]) -> Description | None:
    """The description in the metadata of a ``.safetensors``; None if another program wrote it.

    Raises:
        InputError: the description is damaged, or of another version.
    """
    if FORMAT_KEY not in metadata:
        return None
    if metadata[FORMAT_KEY] != str(_FORMAT_VERSION):
        raise InputError(
            f"{path} is in version {metadata[FORMAT_KEY]} of the format, this package reads "
            f"{_FORMAT_VERSION}; install the version that wrote it"
        )
    fields = ("config", "classes", "preprocessing", "origin", "multi_label")
    try:
        values = {key: json.loads(metadata.get(key, "null")) for key in fields}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the description in its header is damaged ({error})") from error
    return describe(path, values)


def has_our_names(metadata: Mapping[str, str]) -> bool:
    """Whether the tensors of a ``.safetensors`` that describes itself have our names."""
    return metadata.get(_LAYOUT_KEY, NATIVE_LAYOUT) == NATIVE_LAYOUT


def are_names(values: object) -> TypeGuard[Sequence[str]]:
    """Whether these can be the names of classes: a list of text that can be written to a file."""
    if not isinstance(values, list | tuple) or not all(isinstance(name, str) for name in values):
        return False
    try:
        "".join(values).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON lets through
        return False
    return True


def describe(path: str | Path, values: Mapping[str, Any]) -> Description:
    """A description from the plain values of a file, which may hold anything.

    Raises:
        InputError: they do not describe a model.
    """
    classes, preprocessing = values.get("classes"), values.get("preprocessing")
    origin, multi_label = values.get("origin"), values.get("multi_label")
    try:
        config = ViTConfig.from_dict(values["config"])
    except InputError as error:
        raise InputError(f"{path}: the model it describes cannot be: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: its description of the model is damaged ({error})") from error
    if classes is not None:
        if not are_names(classes):
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
    if origin is not None and not isinstance(origin.get("data", {}), dict):
        raise InputError(f"{path}: the data of its origin is not a table of fingerprints")
    if multi_label is not None and not isinstance(multi_label, bool):
        raise InputError(f"{path}: its multi_label is neither true nor false")
    try:
        json.dumps([preprocessing, origin], allow_nan=False)  # as it is when written again
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its preprocessing or origin is no plain JSON") from error
    return Description(config, classes, preprocessing, origin, bool(multi_label))
