"""Whose pictures a baseline is about, as an experiment; and the experiment that it ends with."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_lightning.assemble import open_splits
from vit_lightning.data.splits import Splits
from vit_lightning.data.tables import DELIMITERS
from vit_lightning.errors import InputError
from vit_lightning.experiment import (
    Experiment,
    parse_experiment,
    resolve_experiment,
    short_values,
)
from vit_lightning.models.config import Size
from vit_lightning.overrides import apply_overrides

_TABLES = (*DELIMITERS, ".parquet")
_LAYOUT = (
    "expected a folder of pictures by class, a manifest (.csv, .tsv, .parquet) or an experiment "
    "file (.json)"
)
# What a recipe is about; whatever an experiment said of it is forgotten.
_ANEW = {
    "adapt": None,
    "optim": None,
    "data": ("batch_size", "sampling", "augmentation"),
    "trainer": (
        *("max_steps", "max_epochs", "val_every_steps", "val_every_epochs", "patience"),
        *("micro_batch", "merge_tokens"),
    ),
}


def experiment_for(
    data: str | Path | Experiment,
    overrides: Sequence[str],
    val_fraction: float | None,
    label_separator: str | None,
) -> Experiment:
    """The experiment that ``data`` is, or one that stands for a folder or a table.

    Raises:
        InputError: it is none of these, or options are given that it has no use for.
    """
    if isinstance(data, Experiment) or Path(data).suffix.lower() == ".json":
        if (val_fraction, label_separator) != (None, None):
            raise InputError(
                "an experiment says itself what is held out and how labels are separated: change "
                "data.val_fraction and data.label_separator there"
            )
        return resolve_experiment(data, overrides)
    path = Path(data)
    if overrides:
        raise InputError(f"{path} is no experiment file: {overrides[0]} is for these")
    is_table = path.suffix.lower() in _TABLES and not path.is_dir()
    if not is_table and not path.is_dir():
        what = "is no data set" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; {_LAYOUT}")
    section = {
        "name": "manifest" if is_table else "folder",
        "root": path.as_posix(),
        "val_fraction": val_fraction,
        "label_separator": label_separator,
    }
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", path.resolve().stem).lstrip("._+-") or "pictures"
    values = {
        "name": name,
        "data": {name: value for name, value in section.items() if value is not None},
        "trainer": {"max_steps": 1},
    }
    return parse_experiment(values, str(path))


def with_weights(experiment: Experiment, weights: str, image_size: int | Size | None) -> Experiment:
    """The same from other weights, whose own model it then is."""
    model = {"name": None, "weights": weights, "image_size": image_size}
    return parse_experiment(short_values(experiment) | {"model": model}, "the baseline")


def open_pictures(experiment: Experiment) -> Splits:
    """The pictures of an experiment.

    Raises:
        InputError: they cannot be used.
    """
    try:
        return open_splits(experiment)
    except InputError as error:
        said = str(error).replace("data.val_fraction", "val_fraction (--val-fraction)")
        raise InputError(said) from None


def advised(experiment: Experiment, settings: Sequence[str]) -> Experiment:
    """An experiment that follows a recipe.

    Args:
        experiment: the pictures, the weights and the rest.
        settings: such as ``optim.lr=0.01``.
    """
    values = short_values(experiment)
    for part, names in _ANEW.items():
        section: dict[str, Any] = values.get(part, {})
        values[part] = {
            name: value for name, value in section.items() if names and name not in names
        }
    values["description"] = "A start from vit baseline, by rules of thumb; not a promise."
    values["expected"] = ""
    values["name"] = f"{experiment.name}_tuned"  # its checkpoint may be what is tuned
    apply_overrides(values, settings)
    return parse_experiment(values, "the recipe")
