"""The training of a prepared run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping

from vit_lightning.console import say
from vit_lightning.dense import computed_by_onednn
from vit_lightning.errors import InputError
from vit_lightning.run.micro_batch import Cuts
from vit_lightning.run.preparation import Run
from vit_lightning.run.recovery import with_half
from vit_lightning.run_folder import checkpoint_step
from vit_lightning.training.callbacks import (
    LastCheckpoint,
    PictureLog,
    Throughput,
    is_out_of_memory,
)
from vit_lightning.training.loggers import build_loggers
from vit_lightning.training.progress import StepProgress
from vit_lightning.training.trainer import build_trainer, merged_over_ranks

_LOST_PROCESS = re.compile("closed by peer|Connection reset|remote worker|NCCL", re.IGNORECASE)
# Exit codes of a process that a signal has ended: Ctrl-C, SIGTERM.
_INTERRUPTED, _TERMINATED = 130, 143


def fit(run: Run) -> Run:
    """Train, from the start or from where the run was left; every rank learns the run's folder."""
    while True:
        trainer, last = _trainer(run)
        full = None
        try:
            if run.start_step < run.plan.total_steps:
                _fit(run, trainer)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            full = str(error)
        if full is None:
            break
        # Outside of the except clause, as the error holds on to all that filled the memory.
        run = with_half(run, trainer, last, full)
    return replace(
        run,
        folder=trainer.strategy.broadcast(run.folder),
        unreadable=merged_over_ranks(run.data.unreadable_names()),
    )


def _fit(run: Run, trainer: Trainer) -> None:
    by_onednn = run.choices.linear != "torch"
    backend = computed_by_onednn(run.task.model) if by_onednn else nullcontext()
    with _said_plainly(run, trainer), run.data.naming_pictures(), backend:
        trainer.fit(run.task, datamodule=run.data, ckpt_path=run.start, weights_only=True)
    trainer.save_checkpoint(run.last)


def _trainer(run: Run) -> tuple[Trainer, LastCheckpoint]:
    """What trains, and keeps the newest weights."""
    experiment, settings = run.experiment, run.experiment.trainer
    throughput = Throughput(experiment.data.batch_size)
    last = LastCheckpoint(run.last, settings.checkpoint_every_steps, run.plan.val_every_steps)
    callbacks: list[Callback] = [
        Cuts(run.plan.val_every_steps),
        throughput,
        StepProgress(throughput),
        PictureLog(
            run.data.splits.classes,
            run.data.preprocessing.unnormalised,
            run.draw_attention,
        ),
        run.best,
        last,
    ]
    if settings.patience is not None:
        callbacks.append(EarlyStopping(run.task.score_name, patience=settings.patience, mode="max"))
    loggers = build_loggers(
        experiment.loggers, run.folder, run_name=experiment.name, step=run.start_step
    )
    precision = run.choices.precision
    return build_trainer(settings, precision=precision, callbacks=callbacks, loggers=loggers), last


@contextmanager
def _said_plainly(run: Run, trainer: Trainer) -> Iterator[None]:
    """Answer what ends a training from outside: a signal, a lost process."""
    try:
        yield
    except SystemExit as stop:  # Lightning's answer to Ctrl-C, and without a code to SIGTERM
        _say_how_to_go_on(run)
        raise SystemExit(_INTERRUPTED if stop.code else _TERMINATED) from None
    except RuntimeError as error:
        if trainer.world_size == 1 or not _LOST_PROCESS.search(str(error)):
            raise
        raise InputError(
            "another process of this run has stopped; what it said stands above, or in its log"
        ) from None


def _say_how_to_go_on(run: Run) -> None:
    if run.last.exists():
        say(
            f"\nstopped; {run.last} holds step {checkpoint_step(run.last)}. Go on with the same "
            f"command and --resume {run.folder}"
        )
    else:
        say("\nstopped before the first checkpoint: there is nothing to go on from")
