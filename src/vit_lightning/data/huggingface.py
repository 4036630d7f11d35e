"""Data sets of the Hugging Face Hub, or saved as they are, by the optional package datasets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_lightning.data.partition import (
    SPLIT_NAMES,
    Divisible,
    class_problems,
    code_labels,
    divide,
    split_problems,
)
from vit_lightning.data.pictures import (
    Labels,
    OpenPicture,
    PictureError,
    WholePicture,
    decode_picture,
    open_picture,
)
from vit_lightning.data.splits import Splits
from vit_lightning.data.tables import quoted
from vit_lightning.errors import InputError

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.+-]+)?")
_LABEL_NAMES = ("label", "labels")
_TEXT = ("string", "large_string")


@dataclass(frozen=True, eq=False)
class HubPictures:
    """Pictures of one split; they stay in the files that ``datasets`` maps into memory.

    Args:
        column: a ``datasets.Dataset`` of one column, whose cells are pictures not decoded.
        split: its name.
        labels: as of ``Pictures``.
        rows: (N,) which rows these are.
    """

    column: Any
    split: str
    labels: Labels
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> Image.Image:
        """See ``Pictures``."""
        (cell,) = self.column[int(self.rows[index])].values()
        data, path = (cell or {}).get("bytes"), (cell or {}).get("path")
        if data is not None:
            return decode_picture(data, self.name(index) + (f" ({path})" if path else ""))
        if path:
            return open_picture(Path(path))
        raise PictureError(f"{self.name(index)}: this row of the data set has no picture")

    def open(self, index: int) -> OpenPicture:
        """See ``Pictures``."""
        return WholePicture(self.load(index))

    def name(self, index: int) -> str:
        """``split/row``."""
        return f"{self.split}/{self.rows[index]:08d}"

    def subset(self, indices: NDArray[np.int64]) -> "HubPictures":
        """The pictures at ``indices``, in that order; they keep their names."""
        return replace(self, labels=self.labels[indices], rows=self.rows[indices])


def open_huggingface(root: str, *, val_fraction: float | None, seed: int) -> Splits:
    """Open a data set of the Hub, or a folder.

    Its pictures are the column of the type Image. Its labels are a column of the type ClassLabel,
    or a list of them for several labels of a picture; where there is none, a column of strings or
    of lists of them, whose classes are in the order of their names. Nothing that a data set brings
    along is executed.

    Args:
        root: ``org/name``, or ``org/name:config`` where there are several; or a folder that
            ``save_to_disk`` has written, or one of Parquet files, or of pictures by class.
        val_fraction: share to hold out, in (0, 1), where there is no split for validation.
        seed: of that choice.

    Raises:
        InputError: the data set cannot be had, or not be made sense of.
    """
    loaded = _load(root)
    parts, notes = _by_split(loaded)
    problems = split_problems(parts, val_fraction)
    if problems:
        names = ", ".join(map(repr, loaded))
        raise InputError(f"{root}: {'; '.join(problems)}; the splits are {names}")
    image, label = _columns(root, parts["train"].features)
    labels, classes, left_out = _labels(root, label, parts)
    found: dict[str, Divisible] = {
        name: HubPictures(_undecoded(parts[name], image), name, own, np.arange(len(own)))
        for name, own in labels.items()
    }
    return divide(
        root, classes, found, val_fraction=val_fraction, seed=seed, notes=(*left_out, *notes)
    )


def _load(root: str) -> dict[str, Any]:
    """Split name → ``datasets.Dataset``."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{root}: Hugging Face data sets need the package datasets: "
            'pip install "vit-lightning[datasets]"'
        ) from None
    folder = Path(root)
    if not folder.is_dir() and not _ID.fullmatch(root):
        raise InputError(
            f"{root}: no such folder, and no id of a data set of the Hub, which would be org/name "
            "or org/name:config"
        )
    try:
        if not folder.is_dir():
            name, _, config = root.partition(":")
            loaded = datasets.load_dataset(name, config or None)
        elif any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(root)
        else:
            loaded = datasets.load_dataset(root)
    except Exception as error:  # of the network, of the Hub, of any file format
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{root} cannot be opened as a Hugging Face data set: {lines[0]}"
            + ("\n  " + "\n  ".join(lines[1:10]) if len(lines) > 1 else "")
        ) from None
    return dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}


def _by_split(loaded: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The data sets for train, val and test, and what is to be told of others."""
    parts: dict[str, Any] = {}
    unused = []
    for name, part in loaded.items():
        split = SPLIT_NAMES.get(name.lower())
        if split is None or split in parts or not len(part):
            unused.append(name)
        else:
            parts[split] = part
    names: list[str] = [name for name in ("train", "val", "test") if name in parts]
    ordered = {name: parts[name] for name in names}
    return ordered, [f"splits not used: {', '.join(unused)}"] if unused else []


def _columns(root: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """The columns of the pictures and of the labels."""
    image = _only(root, "of pictures (Image)", features, _of_type(features, "Image", lists=False))
    classes = _of_type(features, "ClassLabel")
    label = classes or [
        name for name in _of_type(features, "Value") if _inner(features[name]).dtype in _TEXT
    ]
    return image, _only(root, "of labels (ClassLabel, else strings)", features, label)


def _only(root: str, what: str, features: Mapping[str, Any], found: list[str]) -> str:
    preferred = [name for name in found if name in ("image", *_LABEL_NAMES)]
    if len(found) == 1 or len(preferred) == 1:
        return (preferred or found)[0]
    state = f"several columns {what}: {', '.join(found)}" if found else f"no column {what}"
    columns = ", ".join(f"{name} ({_short(feature)})" for name, feature in features.items())
    raise InputError(
        f"{root} has {state}; the columns are {columns}. Save it with one of each, by the methods "
        "select_columns, rename_column, cast_column and save_to_disk of datasets, and give that "
        "folder"
    )


def _short(feature: Any) -> str:
    inner = _inner(feature)
    kind = str(inner.dtype) if type(inner).__name__ == "Value" else type(inner).__name__
    return f"list of {kind}" if inner is not feature else kind


def _inner(feature: Any) -> Any:
    """What a list is of; any other type itself."""
    return getattr(feature, "feature", feature)


def _of_type(features: Mapping[str, Any], kind: str, *, lists: bool = True) -> list[str]:
    return [
        name
        for name, feature in features.items()
        if type(_inner(feature) if lists else feature).__name__ == kind
    ]


def _undecoded(part: Any, image: str) -> Any:
    import datasets

    return (
        part.with_format(None)
        .select_columns([image])
        .cast_column(image, datasets.Image(decode=False))
    )


def _labels(
    root: str, label: str, parts: Mapping[str, Any]
) -> tuple[dict[str, Labels], tuple[str, ...], list[str]]:
    """The labels of every split, the names of the classes, and what is to be told."""
    feature = parts["train"].features[label]
    for name, part in parts.items():
        if part.features.get(label) != feature:
            raise InputError(
                f"{root}: the column {label} of {name} is {part.features.get(label)}, that of "
                f"train is {feature}; they must have the same classes"
            )
    rows = {name: _names(part, label) for name, part in parts.items()}
    notes = []
    if "test" in rows and all("" in own for own in rows["test"]):
        del rows["test"]
        notes.append("test is not used: none of its pictures has a label")
    classes = getattr(_inner(feature), "names", None)
    if classes is None:
        classes = sorted({name for own in rows["train"] for name in own} - {""})
    problems = class_problems(classes)
    for split, labels in rows.items():
        strange = sorted({name for own in labels for name in own}.difference(classes, [""]))
        if strange:
            shown = ", ".join(map(quoted, strange[:10])) + (", …" if len(strange) > 10 else "")
            problems.append(f"{split} has labels that train lacks: {shown}")
        if bare := sum("" in own for own in labels):
            problems.append(f"{bare} of {len(labels)} pictures of {split} have no label")
    if problems:
        raise InputError(f"{root}, column {label}: {'; '.join(problems)}")
    several = _inner(feature) is not feature
    coded = {name: code_labels(root, own, classes, several=several) for name, own in rows.items()}
    return coded, tuple(classes), notes


def _names(part: Any, label: str) -> list[tuple[str, ...]]:
    """Of every picture the names of its labels; empty for one that is not known."""
    feature = part.features[label]
    names = getattr(_inner(feature), "names", None)
    cells = part.select_columns([label]).with_format("arrow")[:][label].to_pylist()

    def text(value: Any) -> str:
        if value is None or value == -1:  # what the Hub's test sets have for a label kept secret
            return ""
        return str(names[value] if names else value).strip()

    if _inner(feature) is feature:
        return [(text(cell),) for cell in cells]
    return [tuple(text(value) for value in cell or ()) for cell in cells]
