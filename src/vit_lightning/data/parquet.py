"""A manifest in Parquet, which pyarrow reads, an optional package."""

from pathlib import Path
from typing import Any

from vit_lightning.data.tables import Table, columns_of, unused_of
from vit_lightning.errors import InputError


def read_parquet(path: Path) -> Table:
    """Read a ``.parquet`` manifest; rows have several labels if that column is one of lists.

    Whole numbers are labels too: their digits are the name.

    Raises:
        InputError: pyarrow is missing, the file is no Parquet, or has not the columns and types
            that are needed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f'{path}: Parquet files need pyarrow: pip install "vit-lightning[parquet]"'
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            header = list(file.schema_arrow.names)
            stored = {name: header[place] for name, place in columns_of(path, header).items()}
            content = file.read(columns=list(stored.values()))
        columns = {name: content.column(stored[name]) for name in stored}
        _refuse_types(path, columns)
        return _table(columns, unused_of(header))
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is no Parquet file that can be read: {error}") from None


def _refuse_types(path: Path, columns: dict[str, Any]) -> None:
    label = columns["label"].type
    kinds = {name: column.type for name, column in columns.items()}
    kinds["label"] = label.value_type if _is_list(label) else label
    wrong = [
        f"{name} is a column of {columns[name].type}"
        for name, kind in kinds.items()
        if not _is_text(kind) and not (name == "label" and _is_integer(kind))
    ]
    if wrong:
        raise InputError(
            f"{path}: {', '.join(wrong)}; expected strings, and for several labels of a picture "
            "a list of strings"
        )


def _table(columns: dict[str, Any], unused: tuple[str, ...]) -> Table:
    import pyarrow

    cells = {name: columns[name].cast(pyarrow.string()) for name in columns if name != "label"}
    texts = {name: [text or "" for text in column.to_pylist()] for name, column in cells.items()}
    several = _is_list(columns["label"].type)
    kind = pyarrow.list_(pyarrow.string()) if several else pyarrow.string()
    labels = columns["label"].cast(kind).to_pylist()
    rows = (tuple(names or ()) for names in labels) if several else ((name,) for name in labels)
    known: dict[tuple[str | None, ...], tuple[str, ...]] = {}  # stored once, not for each row
    table = Table(several, "row", unused, texts["path"], [], texts.get("split"))
    for row in rows:
        if row not in known:
            known[row] = tuple((name or "").strip() for name in row)
        table.labels.append(known[row])
    table.places = range(1, len(table.paths) + 1)
    return table


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_integer(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind))
