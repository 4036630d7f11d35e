"""JSON files: read strictly, written whole."""

import difflib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from vit_lightning.errors import InputError
from vit_lightning.files import write_text

_MOST_BYTES = 1 << 24  # the names of twenty thousand classes are one sixteenth of it


def read_json(path: Path, what: str = "experiment") -> dict[str, Any]:
    """A JSON object from a file; a key that stands twice is an error.

    Args:
        path: the file.
        what: what it is, for messages.

    Raises:
        InputError: the file is missing, is not UTF-8 JSON, or holds no object.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"longer than {_MOST_BYTES >> 20} MiB, which no {what} is")
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
        values = json.loads(text, object_pairs_hook=_no_duplicates)
    except FileNotFoundError:
        beside = sorted(path.parent.glob("*.json")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, [file.name for file in beside], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise InputError(f"{path}: there is no such {what} file{hint}") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    # Not UTF-8, a number of thousands of digits, or brackets thousands deep.
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a JSON text file ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: the {what} must be a JSON object, in braces {{ }}")
    return values


def write_json(path: Path, values: Any) -> None:
    """Write plain values as indented JSON, whole or not at all."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f'the key "{twice}" stands twice in one object; remove one of them')
    return values
