"""Weights that come with the package, by the name ``vit-lightning/<name>``."""

import difflib
from pathlib import Path

from vit_lightning.errors import InputError

PREFIX = "vit-lightning/"
"""What stands before the name of weights that come with the package."""

_FOLDER = Path(__file__).parents[1] / "shipped"


def shipped_names() -> tuple[str, ...]:
    """All of them, as they are given."""
    return tuple(sorted(f"{PREFIX}{path.stem}" for path in _FOLDER.glob("*.safetensors")))


def shipped_path(name: str) -> Path:
    """Where weights are that come with the package.

    Args:
        name: as it is given, with its prefix.

    Raises:
        InputError: none of this name does.
    """
    names = shipped_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{name}: no weights of this name come with the package, but {', '.join(names)}"
            f"{hint} (a Hub id of this name would be hf-hub:{name})"
        )
    return _FOLDER / f"{name.removeprefix(PREFIX)}.safetensors"
