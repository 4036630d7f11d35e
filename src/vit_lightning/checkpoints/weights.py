"""One way into every weights file: which model it holds, and its tensors under our names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vit_lightning.checkpoints.formats import file_format
from vit_lightning.checkpoints.infer import infer_config
from vit_lightning.checkpoints.keymap import GOOGLE, NATIVE, Arrays, Row, Shape, read_state
from vit_lightning.checkpoints.native import Description, open_lightning, open_safetensors
from vit_lightning.checkpoints.npz import open_npz
from vit_lightning.errors import InputError
from vit_lightning.models.config import Pool, Size, ViTConfig


@dataclass(frozen=True)
class WeightsFile:
    """A weights file of any kind, understood but not yet read.

    Args:
        path: the file.
        description: its model, class names and preprocessing.
        arrays: its arrays, read on access.
        rows: its dialect.
        training_state: names of what it holds beside weights.
    """

    path: Path
    description: Description
    arrays: Arrays
    rows: tuple[Row, ...]
    training_state: tuple[str, ...] = ()

    @property
    def config(self) -> ViTConfig:
        """The model in the file."""
        return self.description.config

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Name of each output of the head, if the file has them."""
        return self.description.classes

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How pictures become the model's input, if the file says so."""
        return self.description.preprocessing

    def read(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        """All weights under our names, float32, read one after the other.

        Args:
            shapes: key → shape of the state dict of a model of :attr:`config`.

        Raises:
            InputError: arrays that are missing, left over, of another shape, or damaged.
        """
        try:
            return read_state(self.rows, self.arrays, shapes, self.config.num_heads)
        except InputError as error:
            raise InputError(_at(self.path, error)) from error


def open_weights(
    path: str | Path, image_size: int | Size | None = None, pool: Pool | None = None
) -> WeightsFile:
    """Open a ``.npz`` of Google's layout, or a ``.safetensors`` or ``.ckpt`` of this package.

    Args:
        path: the file; its contents decide, not its suffix.
        image_size: what a ``.npz`` cannot tell; see :func:`~.infer.infer_config`.
        pool: likewise; our own files say so themselves, and it replaces what they say.

    Raises:
        InputError: there is no such file, or it cannot be used; the message says why.
    """
    path = Path(path)
    kind = file_format(path)
    if kind == "npz":
        file = open_npz(path)
        try:
            config = infer_config(file.shapes, image_size, pool)
        except InputError as error:
            raise InputError(_at(path, error)) from error
        return WeightsFile(path, Description(config), file, GOOGLE, file.training_state)
    opener = open_safetensors if kind == "safetensors" else open_lightning
    description, tensors = opener(path)
    _check_plausible(path, description.config, len(tensors.shapes))
    if pool is not None:
        config = description.config
        changed = config.replace(pool=pool, class_token=config.class_token)
        description = replace(description, config=changed)
    return WeightsFile(path, description, tensors, NATIVE)


def _check_plausible(path: Path, config: ViTConfig, num_tensors: int) -> None:
    """Refuse a description that would take forever to build and cannot be true."""
    layers = config.depth + sum(config.resnet.stage_depths if config.resnet else ())
    if layers > num_tensors:
        raise InputError(f"{path} describes {layers} layers, but holds {num_tensors} tensors")


def _at(path: Path, error: InputError) -> str:
    """The message with the file's name before it, once."""
    return str(error) if str(path) in str(error) else f"{path}: {error}"
