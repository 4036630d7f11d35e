"""A training run from an experiment: prepared, fitted, concluded."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from matplotlib.figure import Figure

from vit_lightning.account import say_plan, say_results
from vit_lightning.assemble import (
    Plan,
    eval_data,
    model_for,
    open_splits,
    plan_steps,
    preprocessing_for,
    train_data,
)
from vit_lightning.assess import Assessment, assess
from vit_lightning.attention_view import draw_some_attention
from vit_lightning.console import is_main_process, say
from vit_lightning.data.datamodule import TrainData
from vit_lightning.data.splits import Splits, class_counts
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.evaluation.multi_label import AnyMetrics
from vit_lightning.experiment import Experiment, resolve_experiment
from vit_lightning.factory import ModelBundle, load_bundle, save_model
from vit_lightning.figures import save_figure
from vit_lightning.files import atomic_write, write_text
from vit_lightning.json_file import write_json
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.run_folder import (
    ATTENTION_FILE,
    BEST_CHECKPOINT,
    DATA_FILE,
    EXPERIMENT_FILE,
    LAST_CHECKPOINT,
    MODEL_FILE,
    RESULT_FILE,
    checkpoint_step,
    describe_environment,
    find_run,
    make_folder,
    new_run_folder,
    refuse_other_data,
    refuse_other_experiment,
)
from vit_lightning.training.callbacks import (
    LastCheckpoint,
    PictureLog,
    Throughput,
)
from vit_lightning.training.loggers import build_loggers, require_loggers
from vit_lightning.training.progress import StepProgress
from vit_lightning.training.task import VisionTask
from vit_lightning.training.trainer import (
    build_trainer,
    choose_precision,
    merged_over_ranks,
    quiet_lightning,
)

_LOST_PROCESS = re.compile("closed by peer|Connection reset|remote worker|NCCL", re.IGNORECASE)
# Exit codes of a process that a signal has ended: Ctrl-C, SIGTERM.
_INTERRUPTED, _TERMINATED = 130, 143


@dataclass(frozen=True)
class TrainResult:
    """What a training run gave.

    Args:
        run: the run's folder.
        checkpoint: copy of the best checkpoint, under the experiment's name.
        best: split → metrics of the best weights, chosen on "val".
        best_step: optimizer steps after which they were reached.
        final: split → metrics of the last weights.
        final_step: optimizer steps made; fewer than planned after early stopping.
    """

    run: Path
    checkpoint: Path
    best: dict[str, AnyMetrics]
    best_step: int
    final: dict[str, AnyMetrics]
    final_step: int


def train(
    experiment: Experiment | str | Path, overrides: Sequence[str] = (), resume: str | None = None
) -> TrainResult:
    """Train as an experiment says, evaluate the best and the final weights, keep everything.

    Args:
        experiment: settings, or the path of an experiment file.
        overrides: such as ``optim.lr=0.01``, for a file.
        resume: "auto" for the newest unfinished run of this experiment if there is one, or the
            folder of a run.

    Returns:
        Where everything is, and the metrics.

    Raises:
        InputError: the settings, the data or the weights cannot be used.
    """
    path = None if overrides or isinstance(experiment, Experiment) else Path(experiment)
    experiment = resolve_experiment(experiment, overrides)
    with quiet_lightning():
        run = _fit(_prepare(experiment, resume))
        return _conclude(run, path)


@dataclass(frozen=True, eq=False)
class _Run:
    """A prepared run: everything that fitting and concluding need."""

    experiment: Experiment
    folder: Path
    plan: Plan
    precision: str
    data: TrainData
    task: VisionTask
    best: ModelCheckpoint
    start: Path | None  # checkpoint to go on from
    unreadable: dict[str, list[str]] = field(default_factory=dict)  # split → pictures left out

    @property
    def start_step(self) -> int:
        return checkpoint_step(self.start) if self.start else 0

    @property
    def last(self) -> Path:
        return self.folder / LAST_CHECKPOINT

    @property
    def best_path(self) -> Path:
        return self.folder / BEST_CHECKPOINT


def _prepare(experiment: Experiment, resume: str | None) -> _Run:
    """Find or make everything before the first step, and say what will be done."""
    parent = Path(experiment.runs_dir).expanduser() / experiment.name
    old = find_run(parent, resume) if resume else None
    if old is not None:
        refuse_other_experiment(old, experiment)
    precision = choose_precision(experiment.trainer)
    splits = open_splits(experiment)
    fingerprint = splits.fingerprint()
    if old is not None:
        refuse_other_data(old, fingerprint)
    plan = plan_steps(experiment, len(splits.train))
    start = old / LAST_CHECKPOINT if old else None
    bundle = (
        load_bundle(start)
        if start
        else model_for(experiment, splits.classes, multi_label=splits.multi_label)
    )
    preprocessing = preprocessing_for(experiment, bundle)
    data = train_data(experiment, splits, preprocessing, plan.total_steps)
    require_loggers(experiment.loggers)
    task = _task(experiment, splits, plan, bundle, preprocessing)
    # A Trainer to ask: what the devices do not allow is said before a folder is made.
    num_ranks = build_trainer(experiment.trainer, precision=precision).world_size
    data.check_ranks(num_ranks)
    say_plan(experiment, plan, precision, bundle, preprocessing, splits.notes)
    make_folder(_checkpoint_copy(experiment).parent, "checkpoint_dir")  # not after the training
    folder = _open_folder(experiment, old, {"precision": precision}, fingerprint)
    task.origin = {"run": str(folder), "data": fingerprint}
    best = ModelCheckpoint(
        dirpath=folder,
        filename=Path(BEST_CHECKPOINT).stem,
        monitor=task.score_name,
        mode="max",
        enable_version_counter=False,
    )
    return _Run(experiment, folder, plan, precision, data, task, best, start)


def _task(
    experiment: Experiment,
    splits: Splits,
    plan: Plan,
    bundle: ModelBundle,
    preprocessing: Preprocessing,
) -> VisionTask:
    """What is trained."""
    task = VisionTask(
        bundle.model.train(),
        experiment.optim,
        total_steps=plan.total_steps,
        batch_size=experiment.data.batch_size,
        seed=experiment.seed,
        classes=splits.classes,
        class_counts=class_counts(splits.train.labels, len(splits.classes)).tolist(),
        multi_label=splits.multi_label,
        preprocessing=preprocessing.to_dict(),
    )
    task.model.activation_checkpointing = experiment.trainer.activation_checkpointing
    return task


def _open_folder(
    experiment: Experiment,
    old: Path | None,
    environment: dict[str, Any],
    fingerprint: dict[str, Any],
) -> Path:
    """The folder of a run, new or gone on with; the main process keeps the surroundings in it."""
    parent = Path(experiment.runs_dir).expanduser() / experiment.name
    if not is_main_process():
        return old or parent  # the name is told when the processes are connected
    environment |= describe_environment()
    if old is not None:
        step = checkpoint_step(old / LAST_CHECKPOINT)
        say(f"run        {old}, from step {step}\n")
        write_json(old / f"environment-from-{step}.json", environment)
        return old
    folder = new_run_folder(parent)
    say(f"run        {folder}\n")
    # The schema's path is relative to the file that the experiment came from.
    kept = experiment.model_copy(update={"schema_": None})
    write_text(folder / EXPERIMENT_FILE, kept.to_json())
    write_json(folder / DATA_FILE, fingerprint)
    write_json(folder / "environment.json", environment)
    return folder


def _fit(run: _Run) -> _Run:
    """Train, from the start or from where the run was left; every rank learns the run's folder."""
    experiment, settings = run.experiment, run.experiment.trainer
    throughput = Throughput(experiment.data.batch_size)
    callbacks: list[Callback] = [
        throughput,
        StepProgress(throughput),
        PictureLog(
            run.data.splits.classes,
            run.data.preprocessing.unnormalised,
            partial(_draw_attention, run.data),
        ),
        run.best,
        LastCheckpoint(run.last, settings.checkpoint_every_steps, run.plan.val_every_steps),
    ]
    if settings.patience is not None:
        callbacks.append(EarlyStopping(run.task.score_name, patience=settings.patience, mode="max"))
    loggers = build_loggers(
        experiment.loggers, run.folder, run_name=experiment.name, step=run.start_step
    )
    trainer = build_trainer(settings, precision=run.precision, callbacks=callbacks, loggers=loggers)
    per_step = run.data.stream(0, trainer.world_size).micro_batches_per_step
    trainer.accumulate_grad_batches = per_step
    trainer.val_check_interval = run.plan.val_every_steps * per_step
    if run.start_step < run.plan.total_steps:
        with _said_plainly(run, trainer), run.data.naming_pictures():
            trainer.fit(run.task, datamodule=run.data, ckpt_path=run.start, weights_only=True)
        trainer.save_checkpoint(run.last)
    return replace(
        run,
        folder=trainer.strategy.broadcast(run.folder),
        unreadable=merged_over_ranks(run.data.unreadable_names()),
    )


@contextmanager
def _said_plainly(run: _Run, trainer: Trainer) -> Iterator[None]:
    """Answer what ends a training from outside: a signal, too little memory, a lost process."""
    try:
        yield
    except SystemExit as stop:  # Lightning's answer to Ctrl-C, and without a code to SIGTERM
        _say_how_to_go_on(run)
        raise SystemExit(_INTERRUPTED if stop.code else _TERMINATED) from None
    except torch.OutOfMemoryError as error:
        most = run.experiment.trainer.micro_batch or run.experiment.data.batch_size
        raise InputError(
            f"the GPU's memory is too small for this: lower trainer.micro_batch (now {most}), or "
            f"set trainer.activation_checkpointing=true. It said: {error}"
        ) from None
    except RuntimeError as error:
        if trainer.world_size == 1 or not _LOST_PROCESS.search(str(error)):
            raise
        raise InputError(
            "another process of this run has stopped; what it said stands above, or in its log"
        ) from None


def _say_how_to_go_on(run: _Run) -> None:
    if run.last.exists():
        say(
            f"\nstopped; {run.last} holds step {checkpoint_step(run.last)}. Go on with the same "
            f"command and --resume {run.folder}"
        )
    else:
        say("\nstopped before the first checkpoint: there is nothing to go on from")


def _draw_attention(data: TrainData, model: VisionTransformer) -> Figure:
    splits = data.splits
    return draw_some_attention(model, data.preprocessing, splits.val, splits.classes)


def _conclude(run: _Run, path: Path | None) -> TrainResult:
    """Measure the final and the best weights, write what remains of the run, say where it is."""
    final_step = checkpoint_step(run.last)
    final = _assess_weights(run, run.last)
    best, best_step = final, final_step
    if run.best_path.exists() and checkpoint_step(run.best_path) != final_step:
        candidate = _assess_weights(run, run.best_path)
        # The end of a run is not always a step that was validated: it may be the best of all.
        if candidate["val"].metrics.score >= final["val"].metrics.score:
            best, best_step = candidate, checkpoint_step(run.best_path)
    checkpoint = _checkpoint_copy(run.experiment)
    if is_main_process():
        if best is final:
            _copy(run.last, run.best_path)
        _write_reports(run, best, best_step)
        _copy(run.best_path, checkpoint)
        result: dict[str, Any] = {
            "chosen_on": "val",
            "best": {"step": best_step, **_headlines(best)},
            "final": {"step": final_step, **_headlines(final)},
            "unreadable": run.unreadable,
        }
        write_json(run.folder / RESULT_FILE, result)  # comes last: the run is finished
        say_results(
            {"best": best, "final": final},
            f"best is step {best_step} of {final_step}, chosen on val",
            run.folder,
            checkpoint,
            path or run.folder / EXPERIMENT_FILE,
            run.experiment.runs_dir,
        )
    return TrainResult(
        run.folder,
        checkpoint,
        {split: item.metrics for split, item in best.items()},
        best_step,
        {split: item.metrics for split, item in final.items()},
        final_step,
    )


def _assess_weights(run: _Run, checkpoint: Path) -> dict[str, Assessment]:
    """A checkpoint's weights on val, and on test where there is one; the task keeps them."""
    # Measured in float32, also after a training in bf16-true.
    run.task.model.float().load_state_dict(load_bundle(checkpoint).model.state_dict())
    splits = run.data.splits
    assessments = {}
    for split in ("val", "test") if splits.test is not None else ("val",):
        data = eval_data(run.experiment, splits, run.data.preprocessing, split)
        assessments[split] = assess(run.experiment.trainer, run.task, data, split, splits.classes)
    return assessments


def _checkpoint_copy(experiment: Experiment) -> Path:
    return Path(experiment.checkpoint_dir).expanduser() / f"{experiment.name}.ckpt"


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_reports(run: _Run, best: dict[str, Assessment], best_step: int) -> None:
    """The model, the reports of the best weights, the attention figure."""
    bundle = load_bundle(run.best_path)
    save_model(
        bundle.model,
        run.folder / MODEL_FILE,
        classes=bundle.classes,
        preprocessing=bundle.preprocessing,
        origin=bundle.origin,
        multi_label=bundle.multi_label,
    )
    boards = [name for name in run.experiment.loggers if name == "tensorboard"]
    loggers = build_loggers(boards, run.folder, run_name="", step=0)
    for split, assessment in best.items():
        header = {"checkpoint": str(run.best_path), "split": split, "step": best_step}
        folder = run.folder / f"eval-{split}"
        assessment.write(folder, header, loggers, best_step)
    for logger in loggers:
        logger.finalize("success")
    save_figure(_draw_attention(run.data, bundle.model), run.folder / ATTENTION_FILE)


def _headlines(assessments: dict[str, Assessment]) -> dict[str, Any]:
    return {split: item.metrics.headlines() for split, item in assessments.items()}
