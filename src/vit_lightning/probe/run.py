"""A baseline: the features of a data set once, and what simple methods make of them."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_lightning.assemble import preprocessing_for
from vit_lightning.console import say_notes
from vit_lightning.data.splits import class_counts
from vit_lightning.download import file_hash
from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment, short_values
from vit_lightning.factory import create_bundle
from vit_lightning.models.config import Size
from vit_lightning.probe.features import Extractor, Features
from vit_lightning.probe.linear import LinearProbe, fit_probe
from vit_lightning.probe.neighbours import neighbours_for, vote
from vit_lightning.probe.outcome import Outcome, measure_logits, measure_shares
from vit_lightning.probe.recipe import Advice, recommend
from vit_lightning.probe.store import FeatureStore
from vit_lightning.probe.subject import (
    advised,
    experiment_for,
    open_pictures,
    with_weights,
)


@dataclass(frozen=True)
class BaselineResult:
    """What frozen features achieve on ``val``, fitted on ``train``.

    Args:
        classes: names.
        num_train: pictures that were fitted on.
        num_val: pictures that were measured on.
        embed_dim: features of a picture.
        multi_label: whether scores are mean average precision, not top-1.
        outcomes: of the majority class, the nearest neighbours and the linear probe, in this order.
        penalty: the regularisation that the linear probe chose.
        recipe: settings for a fine-tuning.
        experiment: the same as an experiment, on these pictures.
        notes: what is to be known of the pictures.
        unreadable: names of pictures that were left out, by split.
        kept: pictures whose features were known from before.
        seconds: spent on each part.
    """

    classes: tuple[str, ...]
    num_train: int
    num_val: int
    embed_dim: int
    multi_label: bool
    outcomes: tuple[Outcome, ...]
    penalty: float
    recipe: tuple[Advice, ...]
    experiment: Experiment
    notes: tuple[str, ...]
    unreadable: dict[str, tuple[str, ...]]
    kept: int
    seconds: dict[str, float]

    @property
    def best(self) -> Outcome:
        """The outcome with the highest score."""
        return max(self.outcomes, key=lambda outcome: outcome.score or 0.0)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the figures should not be relied on."""
        shown = sum(recall is not None for recall in self.outcomes[0].recall)
        if not self.multi_label and shown == 1:
            return ("val shows one class alone: these figures tell nothing",)
        majority, interval = self.outcomes[0].score, self.best.interval
        if majority is None or interval is None or interval[0] > majority:
            return ()
        return (
            f"{self.num_val:,} pictures do not show that these features do better than the "
            f"majority class: other weights, or more pictures in val, may be what is needed",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        apart = ("outcomes", "recipe", "experiment")
        values = {name: value for name, value in self.__dict__.items() if name not in apart}
        return values | {
            "classes": list(self.classes),
            "notes": list(self.notes),
            "unreadable": {name: list(names) for name, names in self.unreadable.items()},
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "recipe": [asdict(advice) for advice in self.recipe],
            "experiment": short_values(self.experiment),
        }


def baseline(
    data: str | Path | Experiment,
    weights: str | Path,
    *,
    image_size: int | Size | None = None,
    val_fraction: float | None = None,
    label_separator: str | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
) -> BaselineResult:
    """Measure what a pretrained model's features achieve as they are, and advise a recipe.

    Features are computed once, and kept; everything is fitted on ``train`` and measured on
    ``val``, which chooses nothing. ``test`` is not looked at.

    Args:
        data: a folder (``train`` and ``val`` above the classes, or the classes), a manifest, or an
            experiment, whose data section and seed are used. Its pictures are taken from their
            files, whatever it says of decoding and caching.
        weights: as for :func:`vit_lightning.load_model`; a head is not needed and not used.
        image_size: pixels the model shall take; by default those of the weights.
        val_fraction: share of every class to hold out where there is no ``val``, in (0, 1).
        label_separator: between the labels of a picture in a manifest in text.
        overrides: such as ``data.root=elsewhere``, for an experiment file.
        workers: loading processes; by default the experiment's, else by the number of cores.

    Raises:
        InputError: the pictures or the weights cannot be used.
    """
    experiment = experiment_for(data, overrides, val_fraction, label_separator)
    experiment = with_weights(experiment, str(weights), image_size)
    settings: dict[str, Any] = {"decoding": "full", "cache": None}
    settings |= {} if workers is None else {"workers": workers}
    plain = experiment.model_copy(update={"data": experiment.data.model_copy(update=settings)})
    start = time.perf_counter()
    splits = open_pictures(plain)
    opened = time.perf_counter()
    extractor = _extractor(plain, weights, image_size)
    loaded = time.perf_counter()
    train, val = extractor.features(splits.train, "train"), extractor.features(splits.val, "val")
    outcomes, probe = _outcomes(train, val, splits.classes, experiment.seed)
    mode = extractor.preprocessing.mode
    unreadable = len(train.unreadable) + len(val.unreadable)
    recipe = recommend(train.labels, len(splits.classes), mode, unreadable)
    return BaselineResult(
        classes=splits.classes,
        num_train=len(train.values),
        num_val=len(val.values),
        embed_dim=train.values.shape[1],
        multi_label=splits.multi_label,
        outcomes=outcomes,
        penalty=probe.penalty,
        recipe=recipe,
        experiment=advised(experiment, [advice.setting for advice in recipe]),
        notes=splits.notes,
        unreadable={"train": train.unreadable, "val": val.unreadable},
        kept=train.kept + val.kept,
        seconds={
            "pictures": opened - start,
            "model": loaded - opened,
            "features": train.seconds + val.seconds,
        },
    )


def _extractor(
    experiment: Experiment, weights: str | Path, image_size: int | Size | None
) -> Extractor:
    """The model without a head, and what goes before it."""
    bundle = create_bundle(None, weights=weights, num_classes=0, image_size=image_size)
    say_notes(bundle.notes)
    model = bundle.model
    if model.config.pool == "none":
        raise InputError(
            f'{weights}: the model has pool "none": it has no features of a picture as a whole; '
            f'load it with pool="token" or "gap", and save that'
        )
    preprocessing = preprocessing_for(experiment, bundle)
    assert bundle.located is not None  # as there are weights
    about = {
        "weights": file_hash(bundle.located.path),
        "config": asdict(model.config),
        "preprocessing": preprocessing.to_dict(),
    }
    store = FeatureStore(about, str(weights), model.config.embed_dim)
    return Extractor(model, preprocessing, experiment.data, store)


def _outcomes(
    train: Features, val: Features, classes: tuple[str, ...], seed: int
) -> tuple[tuple[Outcome, ...], LinearProbe]:
    """What each method achieves, and the probe."""
    num_classes = len(classes)
    counts = class_counts(train.labels, num_classes)
    shares = np.broadcast_to(counts / len(train.labels), (len(val.labels), num_classes))
    outcomes = [measure_shares("majority class", shares, val.labels, classes, 0.0)]
    start = time.perf_counter()
    most = neighbours_for(counts)
    several, single = vote(train.values, train.labels, num_classes, val.values, most)
    seconds = time.perf_counter() - start
    outcomes.append(measure_shares("k-NN, k = 1", single, val.labels, classes, seconds))
    if most > 1:
        name = f"k-NN, k = {most}, weighted"
        outcomes.append(measure_shares(name, several, val.labels, classes, seconds))
    start = time.perf_counter()
    probe = fit_probe(train.values, train.labels, num_classes, seed)
    logits = probe.logits(val.values)
    seconds = time.perf_counter() - start
    outcomes.append(measure_logits("linear probe", logits, val.labels, classes, seconds))
    return tuple(outcomes), probe
