"""A manifest's table as it stands in the file: path, labels and split of every picture."""

import csv
import difflib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vit_lightning.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_DELIMITER_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}
_REQUIRED = ("path", "label")
_USED = (*_REQUIRED, "split")
EXPECTED_COLUMNS = "the columns path and label, and optionally split"
_EXAMPLES = 4  # shown of each kind of problem
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def quoted(text: str, most: int = 100) -> str:
    """Text of a file in an error: it may be of any length, and hold anything."""
    return repr(text) if len(text) <= most else repr(text[:most])[:-1] + "…'"


class Findings:
    """Problems of single rows: all are counted, the first of each kind are shown."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Count one row of a kind, which completes a sentence that begins with ``rows``."""
        self._counts[kind] += 1
        if self._counts[kind] <= _EXAMPLES:
            self._examples.setdefault(kind, []).append(example)

    def __len__(self) -> int:
        return self._counts.total()

    def sentences(self) -> list[str]:
        """One for each kind."""
        return [
            f"{count} rows {kind}: {', '.join(self._examples[kind])}{', …' * (count > _EXAMPLES)}"
            for kind, count in self._counts.items()
        ]


@dataclass(eq=False)
class Table:
    """The rows of a manifest.

    Args:
        several: whether a row may have several labels, or none.
        unit: what ``places`` count, for people: ``line`` or ``row``.
        unused: names of the columns that mean nothing here.
        paths: as written.
        labels: names, without spaces around them.
        splits: as written; None without such a column.
        places: of each row in the file, from 1.
        findings: what is wrong with single rows.
    """

    several: bool
    unit: str
    unused: tuple[str, ...]
    paths: list[str] = field(default_factory=list)
    labels: list[tuple[str, ...]] = field(default_factory=list)
    splits: list[str] | None = None
    places: Sequence[int] = ()
    findings: Findings = field(default_factory=Findings)


def read_text(path: Path, separator: str | None) -> Table:
    """Read a ``.csv`` or ``.tsv`` manifest.

    Args:
        path: the file, in UTF-8.
        separator: between the labels of a row; None if every row has exactly one.

    Raises:
        InputError: it is no table, or has not the columns that are needed.
    """
    delimiter = DELIMITERS[path.suffix.lower()]
    if separator is not None and delimiter in separator:
        raise InputError(
            f"data.label_separator {separator!r} holds what separates the columns of {path}; "
            "choose another, such as |"
        )
    rows = decoded_rows(path)
    _, header = next(rows, (0, []))
    columns = columns_of(path, header, delimiter)
    table = Table(separator is not None, "line", unused_of(header))
    where_path, where_label, where_split = (columns.get(name) for name in _USED)
    assert where_path is not None  # columns_of has seen to it
    assert where_label is not None
    places: list[int] = []
    splits: list[str] = []
    known: dict[str, tuple[str, ...]] = {}  # a label is stored once, not once for each row
    ragged = f"with more or fewer columns than the header's {len(header)}"
    for place, row in rows:
        if len(row) != len(header):
            table.findings.add(ragged, f"line {place} has {len(row)}")
            continue
        label = row[where_label]
        if label not in known:
            known[label] = _labels(label, separator)
        table.paths.append(row[where_path])
        table.labels.append(known[label])
        places.append(place)
        if where_split is not None:
            splits.append(row[where_split])
    table.places = places
    table.splits = splits if where_split is not None else None
    return table


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith(_UTF16):
        raise InputError(f"{path} is written in UTF-16; save it as UTF-8")
    if (nul := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise InputError(f"{path}, line {line}: a NUL character, which no table holds")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not written in UTF-8 (byte {data[error.start]:#04x}); save it "
            "as UTF-8"
        ) from None


def decoded_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every row of a ``.csv`` or ``.tsv`` that is not empty, with the line that it begins in.

    Raises:
        InputError: the file is not in UTF-8, or its quotes are wrong.
    """
    delimiter = DELIMITERS[path.suffix.lower()]
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    first = 1
    try:
        for row in reader:
            if row:
                yield first, row
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {first}: {error}; a cell with quotes, delimiters or line breaks in it "
            'stands in double quotes, and a quote in it is written twice ("")'
        ) from None


def _labels(cell: str, separator: str | None) -> tuple[str, ...]:
    if separator is None:
        return (cell.strip(),)
    return tuple(part.strip() for part in cell.split(separator)) if cell.strip() else ()


def columns_of(path: Path, header: Sequence[str], delimiter: str = "") -> dict[str, int]:
    """Where the columns stand that are used.

    Args:
        path: of the manifest, for errors.
        header: all names.
        delimiter: that they were split by; empty if they were not.

    Raises:
        InputError: a column is missing, or there twice.
    """
    names = [name.strip() for name in header]
    if not any(names):
        raise InputError(f"{path} is empty; expected {EXPECTED_COLUMNS}")
    missing = [name for name in _REQUIRED if name not in names]
    if missing and delimiter:
        _refuse_other_delimiter(path, header, delimiter)
    twice = [name for name in _USED if names.count(name) > 1]
    problems = [f"there is no column {name!r}{_nearest(name, names)}" for name in missing]
    problems += [f"there are {names.count(name)} columns {name!r}" for name in twice]
    if problems:
        found = ", ".join(quoted(name) for name in names[:10]) + ", …" * (len(names) > 10)
        raise InputError(
            f"{path}: {'; '.join(problems)}; found {found}; expected {EXPECTED_COLUMNS}"
        )
    return {name: names.index(name) for name in _USED if name in names}


def unused_of(header: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns that mean nothing here."""
    return tuple(name for name in map(str.strip, header) if name not in _USED)


def _nearest(name: str, names: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(name, folded, n=1)
    return f" (is it {quoted(folded[near[0]])}?)" if near else ""


def _refuse_other_delimiter(path: Path, header: Sequence[str], delimiter: str) -> None:
    for other, name in _DELIMITER_NAMES.items():
        cells = delimiter.join(header).split(other)
        if other != delimiter and set(_REQUIRED) <= {cell.strip('" ') for cell in cells}:
            raise InputError(
                f"{path} is separated by {name}, but a {path.suffix} file by "
                f"{_DELIMITER_NAMES[delimiter]}: save it so, or rename it if that is what it is "
                "(.csv for commas, .tsv for tabs)"
            )
