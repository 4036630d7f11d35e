"""From a model and pictures to an evaluation: measured over all ranks, reported in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray

from vit_lightning.assemble import check_decoding, open_given, open_splits
from vit_lightning.backend import PICTURES_WORTH_PACKING, choose_backend, with_backend
from vit_lightning.checkpoints.locate import locate_weights
from vit_lightning.checkpoints.weights import describes_itself
from vit_lightning.console import is_main_process, printable, say, say_notes
from vit_lightning.data.datamodule import EvalData
from vit_lightning.data.pictures import Labels
from vit_lightning.data.splits import Labelled, Splits
from vit_lightning.errors import InputError
from vit_lightning.evaluation.class_map import class_map, class_map_note, mapped_labels, some
from vit_lightning.evaluation.metrics import Metrics
from vit_lightning.evaluation.multi_label import AnyMetrics, measure
from vit_lightning.evaluation.report import refuse_zero_head, summary_text, write_report
from vit_lightning.experiment import Experiment, resolve_experiment
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.figures import confusion_figure, precision_recall_figure, roc_figure
from vit_lightning.models.merging import describe_merging, merge_tokens
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.precision import product_type
from vit_lightning.prediction import preprocessing_of
from vit_lightning.run_folder import describe_environment, new_run_folder
from vit_lightning.settings import TrainerSettings
from vit_lightning.training.loggers import add_figure, build_loggers
from vit_lightning.training.task import VisionTask
from vit_lightning.training.trainer import computes_on_cpu, predict_logits, quiet_lightning
from vit_lightning.waiting import threads_wait_while_alone


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation gave.

    Args:
        metrics: of the split.
        split: which: "train", "val" or "test"; "data" for pictures that were given by their path.
        folder: with the report's files.
    """

    metrics: AnyMetrics
    split: str
    folder: Path


@dataclass(frozen=True, eq=False)
class Assessment:
    """A model's outputs on one split, and what they amount to.

    Args:
        split: "train", "val", "test" or "data".
        metrics: of all its pictures.
        logits: (N, classes).
        labels: (N,), or where a picture has any number of classes (N, classes) of 0 and 1.
        names: N names of pictures.
        unreadable: names of those that could not be read, which are in nothing of the above.
        classes: names.
    """

    split: str
    metrics: AnyMetrics
    logits: NDArray[np.float32]
    labels: Labels
    names: list[str]
    unreadable: list[str]
    classes: tuple[str, ...]

    def write(
        self, folder: Path, header: dict[str, Any], loggers: Sequence[Logger], step: int
    ) -> None:
        """Write the report's files, and its figures to TensorBoard."""
        write_report(
            folder,
            metrics=self.metrics,
            logits=self.logits,
            labels=self.labels,
            names=self.names,
            classes=self.classes,
            header=header | {"unreadable": self.unreadable},
        )
        if isinstance(self.metrics, Metrics):
            figures = {
                "confusion_matrix": confusion_figure(self.metrics.confusion, self.classes),
                "roc_curves": roc_figure(self.logits, self.labels, self.classes),
            }
        else:
            curves = precision_recall_figure(self.logits, self.labels, self.classes)
            figures = {"precision_recall_curves": curves}
        for name, figure in figures.items():
            add_figure(loggers, f"{self.split}/{name}", figure, step)


def assess(
    settings: TrainerSettings,
    task: VisionTask,
    data: EvalData,
    split: str,
    classes: tuple[str, ...],
    places: NDArray[np.int64] | None = None,
) -> Assessment:
    """Run a model over a split, on the devices and in the ``eval_precision`` of ``settings``.

    Args:
        settings: of the devices.
        task: the model.
        data: the pictures.
        split: what to call them.
        classes: names of the model's outputs.
        places: for each class that the labels count its index among ``classes``; None if they
            count these.
    """
    with data.naming_pictures():
        logits, labels, read = predict_logits(settings, task, data, data.kept)
    names = [data.pictures.name(index) for index in read]
    missing = np.setdiff1d(np.arange(len(data.pictures)), read)
    unreadable = [data.pictures.name(index) for index in missing]
    if unreadable:
        named = some([printable(name) for name in unreadable])
        say(f"{split}: left out, as they cannot be read: {named}")
    if places is not None:
        labels = mapped_labels(labels, places, len(classes))
    metrics = measure(logits, labels, classes)
    return Assessment(split, metrics, logits, labels, names, unreadable, classes)


def evaluate(
    experiment: Experiment | str | Path,
    checkpoint: str | Path,
    split: str | None = None,
    overrides: Sequence[str] = (),
    *,
    data: str | Path | None = None,
) -> EvaluateResult:
    """Evaluate a model file on a split of an experiment's pictures, or on others, and report.

    Args:
        experiment: settings, or the path of an experiment file: the pictures and the devices.
        checkpoint: weights as for :func:`vit_lightning.load_model`: a file such as a run's
            ``.ckpt``, or a name. What they say of their preprocessing goes before the experiment's.
        split: "train", "val" or "test"; by default test where there is one, else val.
        overrides: such as ``data.root=elsewhere``, for a file.
        data: pictures to evaluate on instead of the experiment's, all of them: a folder with a
            folder for each class, or a manifest, whatever split its rows are of. They may be of
            some of the model's classes only, in any order.

    Returns:
        The metrics, and the folder of the report: ``<runs_dir>/<name>/<timestamp>-eval-<split>``,
        or ``…-eval-data``.

    Raises:
        InputError: model and pictures do not go together, or either cannot be used.
    """
    experiment = resolve_experiment(experiment, overrides)
    if data is not None and split is not None:
        raise InputError(f"{data} is evaluated as a whole: name no split, got {split!r}")
    bundle = _load(experiment, checkpoint)
    if data is not None:
        experiment = _without_cache(experiment)
    subject = _open(experiment, bundle, split) if data is None else _open_given(experiment, data)
    split = subject.split
    classes, places = _match_classes(bundle, subject.found, checkpoint)
    preprocessing = preprocessing_of(bundle, experiment.data.preprocessing)
    check_decoding(experiment, preprocessing)
    pictures = EvalData(subject.found.pictures, preprocessing, experiment.data)
    precision = experiment.trainer.eval_precision
    where = f"{subject.path or split}: {len(pictures.pictures)} pictures"
    pairs = experiment.trainer.merge_tokens
    merging = f", {pairs} pairs of tokens merged in each block" if pairs else ""
    say(f"evaluating {checkpoint} on {where}, precision {precision}{merging}")
    if subject.caution is not None:
        say(subject.caution)
    model = _packed_where_it_pays(bundle.model, experiment.trainer, len(pictures.pictures))
    task = VisionTask(model, total_steps=1)
    on_cpu = computes_on_cpu(experiment.trainer)
    with quiet_lightning(), threads_wait_while_alone(on_cpu=on_cpu):
        assessment = assess(experiment.trainer, task, pictures, split, classes, places)
    header = {
        "checkpoint": str(checkpoint),
        "split": split,
        **({} if subject.path is None else {"data": subject.path}),
        "precision": precision,
        "merge_tokens": experiment.trainer.merge_tokens,
        "caution": subject.caution,
        "preprocessing": preprocessing.to_dict(),
    }
    folder = _report(experiment, assessment, header)
    of = "" if subject.path is None else f" of {subject.path}"
    say(f"\n{summary_text(assessment.metrics, classes)}\n\nreport{of}: {folder}")
    return EvaluateResult(assessment.metrics, split, folder)


def _packed_where_it_pays(
    model: VisionTransformer, settings: TrainerSettings, count: int
) -> VisionTransformer:
    """What is to be evaluated on so many pictures: a model that is used for nothing else."""
    if settings.linear == "auto" and count < PICTURES_WORTH_PACKING:
        return model
    dtype, on_cpu = product_type(settings.eval_precision), computes_on_cpu(settings)
    config, wanted = model.config, settings.linear
    backend = choose_backend(wanted, "inference", config, on_cpu=on_cpu, dtype=dtype)
    if backend != "torch":
        say(f"dense layers by {backend}, with packed weights")
    return with_backend(model, backend, dtype=dtype, in_place=True)


@dataclass(frozen=True, eq=False)
class _Subject:
    """What is evaluated on.

    Args:
        split: as of ``EvaluateResult``.
        found: the pictures.
        path: where they were said to be, if not by the experiment.
        caution: a word where they may be what the model was trained on.
    """

    split: str
    found: Labelled
    path: str | None = None
    caution: str | None = None


def _load(experiment: Experiment, checkpoint: str | Path) -> ModelBundle:
    model = experiment.model
    located = locate_weights(checkpoint)
    # Our own files say what they take; arrays alone may need to be told.
    told = () if describes_itself(located) else (model.image_size, model.pool)
    bundle = load_bundle(located, *told)
    say_notes(bundle.notes)
    refuse_zero_head(bundle.model)
    if pairs := experiment.trainer.merge_tokens:
        merge_tokens(bundle.model, pairs)
        say(describe_merging(bundle.model.config, pairs))
    return bundle


def _open(experiment: Experiment, bundle: ModelBundle, split: str | None) -> _Subject:
    splits = open_splits(experiment)
    split = split or ("test" if splits.test is not None else "val")
    return _Subject(split, splits.part(split), caution=_caution(bundle, splits, split))


def _open_given(experiment: Experiment, data: str | Path) -> _Subject:
    found = open_given(experiment, Path(data).expanduser())
    say_notes(found.notes)
    return _Subject("data", found, str(data))


def _without_cache(experiment: Experiment) -> Experiment:
    """The same with pictures taken from their files: those of one evaluation are read once."""
    settings = experiment.data.model_copy(update={"cache": None})
    return experiment.model_copy(update={"data": settings})


def _report(experiment: Experiment, assessment: Assessment, header: dict[str, Any]) -> Path:
    """Write an evaluation's report, on the first of several processes; returns its folder."""
    parent = Path(experiment.runs_dir).expanduser() / experiment.name
    if not is_main_process():
        return parent
    folder = new_run_folder(parent, f"-eval-{assessment.split}")
    header = header | {
        "experiment": experiment.model_dump(mode="json", by_alias=True),
        "environment": describe_environment(),
    }
    boards = [name for name in experiment.loggers if name == "tensorboard"]
    loggers = build_loggers(boards, folder, run_name=folder.name, step=0)
    assessment.write(folder, header, loggers, step=0)
    for logger in loggers:
        logger.finalize("success")
    return folder


def _caution(bundle: ModelBundle, splits: Splits, split: str) -> str | None:
    """A word where the split is not the one that the model was not trained on."""
    known = (bundle.origin or {}).get("data")
    if known is None or known.get(split) == splits.fingerprint()[split]:
        return None
    return (
        f"note: these are not the {split} pictures that the model's training knew; if they come "
        f"from the same set, held out by another seed or from a changed folder, it may have been "
        f"trained on some of them"
    )


def _match_classes(
    bundle: ModelBundle, found: Labelled, checkpoint: str | Path
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """The names of the model's outputs, and where among them the pictures' classes are.

    Raises:
        InputError: the model does not know all the pictures' classes, or counts labels otherwise.
    """
    count = bundle.model.config.num_classes
    if bundle.classes is None:
        if count != len(found.classes):
            raise InputError(
                f"{checkpoint}: the model's head has {count} classes, the pictures have "
                f"{len(found.classes)} ({some(found.classes)}); train it on these pictures first"
            )
        return found.classes, None
    if bundle.multi_label != found.multi_label:
        kinds = ("any number of classes", "one class")
        told, shown = kinds if bundle.multi_label else kinds[::-1]
        raise InputError(
            f"{checkpoint}: the model was trained to tell {told} of a picture, these pictures have "
            f"labels of {shown} each; data.label_separator decides how a table is read"
        )
    try:
        places = class_map(bundle.classes, found.classes)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error}") from None
    note = class_map_note(bundle.classes, found.classes)
    if note is None:
        return bundle.classes, None
    say(f"note: {note}")
    return bundle.classes, places
