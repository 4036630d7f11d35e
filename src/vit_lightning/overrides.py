"""Settings from the command line, put into the values of an experiment file."""

import json
from collections.abc import Sequence
from typing import Any

from vit_lightning.errors import InputError

# Of each pair exactly one may stand in a file; an override of one replaces the file's other.
_EXCLUSIVE = (
    ("trainer.max_steps", "trainer.max_epochs"),
    ("trainer.val_every_steps", "trainer.val_every_epochs"),
)

# An override of the first starts the second anew: a run's own file states all that its bundle was.
_STARTS_ANEW = (("data.augmentation.bundle", "data.augmentation"),)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> tuple[str, ...]:
    """Change ``values`` by ``part.name=value`` texts.

    Args:
        values: what the JSON file holds; changed in place.
        overrides: such as ``optim.lr=0.01``; values are JSON, or a string where they are not.

    Returns:
        The dotted names that were given.

    Raises:
        InputError: a text is no override.
    """
    given = dict(_parse(text) for text in overrides)
    for first, second in _EXCLUSIVE:
        for override, other in ((first, second), (second, first)):
            if given.get(override) is not None and other not in given:
                _drop(values, other)
    for override, part in _STARTS_ANEW:
        if override in given:
            put(values, part, {})
    for dotted, value in given.items():
        put(values, dotted, value)
    return tuple(given)


def put(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``part.name`` in nested dictionaries; what is missing on the way is made."""
    *parents, name = dotted.split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    values[name] = value


def _drop(values: dict[str, Any], dotted: str) -> None:
    part, _, name = dotted.partition(".")
    if isinstance(values.get(part), dict):
        values[part].pop(name, None)


def _parse(text: str) -> tuple[str, Any]:
    dotted, separator, value = text.partition("=")
    if not separator or not all(dotted.split(".")):
        raise InputError(
            f"command line: {text!r} is no override; write part.name=value, such as optim.lr=0.01"
        )
    try:
        return dotted, json.loads(value)
    except (ValueError, RecursionError):
        return dotted, value
