"""What classes are called: names for people in the place of folders' or labels' codes."""

import difflib
from collections import Counter
from pathlib import Path

from vit_lightning.data.tables import DELIMITERS, decoded_rows, quoted
from vit_lightning.errors import InputError

_SHOWN = 5  # of each kind of problem


def read_class_names(path: Path) -> dict[str, str]:
    """A table of classes as their source calls them, and of what to call them instead.

    Args:
        path: a ``.tsv`` or ``.csv`` in UTF-8 of two columns without a header, such as ImageNet's
            ``n01443537<tab>goldfish``.

    Raises:
        InputError: it is no such table; the message names the line.
    """
    if path.suffix.lower() not in DELIMITERS:
        raise InputError(f"data.class_names: {path} is no .tsv or .csv table")
    try:
        rows = list(decoded_rows(path))
    except OSError as error:
        raise InputError(f"data.class_names: {path} cannot be read: {error.strerror}") from None
    names: dict[str, str] = {}
    for line, row in rows:
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            raise InputError(
                f"data.class_names: {path}, line {line}: expected two columns, a class and what to "
                f"call it, got {quoted(str(cells))}; a name with commas stands in double quotes "
                f"in a .csv"
            )
        code, name = cells
        if code in names:
            raise InputError(
                f"data.class_names: {path}, line {line}: {quoted(code)} is there twice"
            )
        names[code] = name
    return names


def named(classes: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """Classes by the names that a table gives them, in the same order.

    Args:
        classes: as their source calls them; one that has its name already keeps it.
        path: of the table; it may name other classes too.

    Raises:
        InputError: a class that is not in the table, or two of one name.
    """
    names = read_class_names(path)
    names |= {name: name for name in names.values() if name not in names}
    missing = [code for code in classes if code not in names]
    if missing:
        near = difflib.get_close_matches(missing[0], names, n=1)
        hint = f"; the nearest to the first is {quoted(near[0])}" if near else ""
        raise InputError(f"data.class_names: {path} does not name {_some(missing)}{hint}")
    result = tuple(names[code] for code in classes)
    twice = [name for name, count in Counter(result).items() if count > 1]
    if twice:
        raise InputError(
            f"data.class_names: {path} has several classes of the name {_some(twice)}; a name "
            f"tells one class from all others"
        )
    return result


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(quoted, names[:_SHOWN])) + more
