"""From an experiment to its parts: lengths, model, pictures, loaders."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from vit_lightning.console import say_notes
from vit_lightning.data.class_names import named
from vit_lightning.data.datamodule import EvalData, TrainData
from vit_lightning.data.decoded import open_cache
from vit_lightning.data.decoding import FastPictures
from vit_lightning.data.leave_out import without_classes
from vit_lightning.data.pictures import PictureFiles
from vit_lightning.data.sources import open_dataset, open_labelled
from vit_lightning.data.splits import Labelled, Splits
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment
from vit_lightning.factory import ModelBundle, create_bundle
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.prediction import preprocessing_of
from vit_lightning.settings import USUAL_CROP_AREA
from vit_lightning.training.optim import default_warmup


@dataclass(frozen=True)
class Plan:
    """The lengths of a run in optimizer steps.

    Args:
        total_steps: of the run.
        val_every_steps: between two validations.
        warmup_steps: with a rising learning rate.
        steps_per_epoch: pictures of the training set over the batch size.
    """

    total_steps: int
    val_every_steps: int
    warmup_steps: int
    steps_per_epoch: float

    def __str__(self) -> str:
        epochs = self.total_steps / self.steps_per_epoch
        return (
            f"{self.total_steps} steps = {epochs:.1f} epochs of {self.steps_per_epoch:.1f} steps; "
            f"{self.warmup_steps} of warm-up; validation every {self.val_every_steps}"
        )


def plan_steps(experiment: Experiment, num_pictures: int) -> Plan:
    """Turn epochs into steps.

    Raises:
        InputError: the warm-up is longer than the run.
    """
    settings, optim = experiment.trainer, experiment.optim
    per_epoch = num_pictures / experiment.data.batch_size
    total = settings.max_steps or math.ceil((settings.max_epochs or 1) * per_epoch)
    every = settings.val_every_steps or math.ceil((settings.val_every_epochs or 1) * per_epoch)
    warmup = default_warmup(total) if optim.warmup_steps is None else optim.warmup_steps
    if warmup and warmup >= total:
        raise InputError(
            f"optim.warmup_steps: {warmup} steps of warm-up do not fit into a run of {total}; "
            f"lower it, or train longer"
        )
    return Plan(total, min(every, total), warmup, per_epoch)


def model_for(
    experiment: Experiment, classes: tuple[str, ...], *, multi_label: bool = False
) -> ModelBundle:
    """The model an experiment begins with: a preset or a shape, from weights or from scratch.

    Raises:
        InputError: the weights cannot be used, or a head to be kept knows other classes, or one of
            them in a picture where the labels are any number.
    """
    settings = experiment.model
    changes = settings.changes()
    if "resnet" in changes:
        changes["resnet"] = ResNetConfig(**changes["resnet"])
    size = settings.image_size
    base: str | ViTConfig | None = settings.name
    if base is None and settings.weights is None:
        base = ViTConfig.from_dict(changes | ({} if size is None else {"image_size": size}))
    torch.manual_seed(experiment.seed)
    bundle = create_bundle(
        base,
        weights=settings.weights,
        num_classes=len(classes),
        image_size=size,
        in_channels=settings.in_channels,
        keep_head=settings.keep_head,
        keep_pre_logits=settings.keep_pre_logits,
        **changes,
    )
    _refuse_other_head(bundle, classes, multi_label=multi_label)
    return bundle


def _refuse_other_head(bundle: ModelBundle, classes: tuple[str, ...], *, multi_label: bool) -> None:
    if bundle.classes is None:
        return
    if bundle.classes != classes:
        raise InputError(
            f"model.keep_head: the head of {bundle.source} tells {', '.join(bundle.classes)} "
            f"apart, the pictures show {', '.join(classes)}; set it to false to start a new head"
        )
    if bundle.multi_label != multi_label:
        kinds = ("any number of classes", "one class")
        told, shown = kinds if bundle.multi_label else kinds[::-1]
        raise InputError(
            f"model.keep_head: the head of {bundle.source} tells {told} of a picture, the labels "
            f"are {shown} each; set it to false to start a new head"
        )


def open_splits(experiment: Experiment) -> Splits:
    """The pictures of an experiment, decoded and kept as it says."""
    data = experiment.data
    splits = open_dataset(
        data.name,
        None if data.root is None else Path(data.root).expanduser(),
        val_fraction=data.val_fraction,
        seed=experiment.seed,
        label_separator=data.label_separator,
    )
    if data.leave_out:
        splits = without_classes(splits, data.leave_out)
    splits = replace(splits, classes=_called(experiment, splits.classes))
    if data.cache is not None:
        if not isinstance(splits.train, PictureFiles):
            raise InputError(
                f"data.cache: it is for picture files, and those of data.name {data.name} are no "
                "files of their own; remove it"
            )
        splits = splits.each(partial(open_cache, settings=data.cache))
    return splits.each(FastPictures) if data.decoding == "fast" else splits


def _called(experiment: Experiment, classes: tuple[str, ...]) -> tuple[str, ...]:
    table = experiment.data.class_names
    return classes if table is None else named(classes, Path(table).expanduser())


def open_given(experiment: Experiment, path: Path) -> Labelled:
    """The pictures of a folder or a table, decoded as an experiment says; they are kept nowhere."""
    data = experiment.data
    found = open_labelled(path, label_separator=data.label_separator)
    found = replace(found, classes=_called(experiment, found.classes))
    if data.decoding == "fast":
        return replace(found, pictures=FastPictures(found.pictures))
    return found


def train_data(
    experiment: Experiment, splits: Splits, preprocessing: Preprocessing, num_steps: int
) -> TrainData:
    """The training stream and validation of an experiment.

    Raises:
        InputError: settings that do not go with the labels or the preprocessing.
    """
    if experiment.data.sampling == "balanced" and splits.multi_label:
        raise InputError(
            "data.sampling: balanced sampling is for pictures of one label each; set it to uniform"
        )
    augmentation = experiment.data.augmentation
    crop = TrainView(preprocessing, augmentation).crop
    if augmentation.min_crop_area != USUAL_CROP_AREA and crop != "modern":
        raise InputError(
            f"data.augmentation.min_crop_area: it is for crop modern, and with preprocessing "
            f"{preprocessing.mode} the crop is {crop}; set data.augmentation.crop to modern, or "
            f"remove it"
        )
    _check_side(experiment, preprocessing)
    wanted = experiment.trainer.micro_batch
    return TrainData(
        splits,
        preprocessing,
        experiment.data,
        num_steps=num_steps,
        micro_batch=None if wanted == "auto" else wanted,
        seed=experiment.seed,
    )


def _check_side(experiment: Experiment, preprocessing: Preprocessing) -> None:
    """Check that pictures are held finely enough for what is made of them."""
    settings = experiment.data.on_device
    if settings is None or settings.side is None:
        return
    if preprocessing.mode == "paper":
        raise InputError(
            "data.on_device.side: the paper's preprocessing, without anti-aliasing, would show "
            "that pictures were scaled; train with data.preprocessing modern, or set "
            "data.on_device to null"
        )
    _note_enlarged("data.on_device.side", settings.side, preprocessing)


def eval_data(
    experiment: Experiment, splits: Splits, preprocessing: Preprocessing, split: str
) -> EvalData:
    """One split of an experiment's pictures, to evaluate on.

    Raises:
        InputError: the data set has no such split.
    """
    return EvalData(splits.part(split).pictures, preprocessing, experiment.data)


def preprocessing_for(experiment: Experiment, bundle: ModelBundle) -> Preprocessing:
    """What an experiment does to a picture before it enters the model it begins with.

    The geometry may be the experiment's; mean and std are always those that the weights know.
    """
    own, mode = preprocessing_of(bundle), experiment.data.preprocessing
    preprocessing = own if mode is None else own.in_mode(mode)
    check_decoding(experiment, preprocessing)
    return preprocessing


def check_decoding(experiment: Experiment, preprocessing: Preprocessing) -> None:
    """Check that pictures are decoded and kept finely enough for what is made of them.

    Raises:
        InputError: they are decoded at a reduced scale that would be seen.
    """
    data = experiment.data
    if preprocessing.mode == "paper" and data.decoding == "fast":
        raise InputError(
            "data.decoding: fast decodes at a reduced scale, which the paper's preprocessing, "
            "without anti-aliasing, would show; set data.decoding to full (or train with "
            "data.preprocessing modern)"
        )
    kept = None if data.cache is None else data.cache.shorter_side
    if kept is not None:
        _note_enlarged("data.cache.shorter_side", kept, preprocessing)


def _note_enlarged(setting: str, side: int, preprocessing: Preprocessing) -> None:
    seen = min(preprocessing.image_size)
    if side < seen:
        say_notes([f"{setting}: {side} pixels are enlarged for a model of {seen}"])
