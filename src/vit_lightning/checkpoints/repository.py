"""The files of a model in a repository of the Hugging Face Hub, there or in a folder."""

import json
from collections.abc import Container, Mapping
from pathlib import Path

from vit_lightning.errors import InputError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there
COMPANIONS = ("config.json", "preprocessor_config.json")
INDICES = tuple(f"{name}.index.json" for name in WEIGHTS)
WEIGHTS_SUFFIXES = (".npz", ".safetensors", ".ckpt", ".pth", ".pt", ".bin")
"""How names of weights files end."""

FORMAT_KEY = "vit_lightning.format"  # in the header of every .safetensors of this package
_LONGEST_HEADER = 1 << 24


def weights_of(files: Container[str], where: str) -> str:
    """The name of the weights among ``files``.

    Args:
        files: names.
        where: the repository or folder, for the message.

    Raises:
        InputError: there are none, or they are spread over several files.
    """
    for name in WEIGHTS:
        if name in files:
            return name
    if any(name in files for name in INDICES):
        raise InputError(
            f"the weights in {where} are spread over several files, which no Vision Transformer "
            f"known here needs; save them as one {WEIGHTS[0]}"
        )
    raise InputError(f"{where} has no {' or '.join(WEIGHTS)}")


def is_ours(weights: Path) -> bool:
    """Whether a file is a ``.safetensors`` of this package, which says itself what model it is.

    Its header alone is read: eight bytes of length, and JSON.
    """
    try:
        with weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _LONGEST_HEADER else None
    except (OSError, ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and FORMAT_KEY in metadata


def companions_in(folder: Path) -> Mapping[str, Path]:
    """The configuration files in ``folder``, by their names."""
    return {name: folder / name for name in COMPANIONS if (folder / name).is_file()}
