"""The training of a prepared run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping

from vit_lightning.console import say
from vit_lightning.dense import computed_by_onednn
from vit_lightning.errors import InputError
from vit_lightning.run.preparation import Run
from vit_lightning.run_folder import checkpoint_step
from vit_lightning.training.callbacks import LastCheckpoint, PictureLog, Throughput
from vit_lightning.training.loggers import build_loggers
from vit_lightning.training.progress import StepProgress
from vit_lightning.training.trainer import build_trainer, merged_over_ranks

_LOST_PROCESS = re.compile("closed by peer|Connection reset|remote worker|NCCL", re.IGNORECASE)
# Exit codes of a process that a signal has ended: Ctrl-C, SIGTERM.
_INTERRUPTED, _TERMINATED = 130, 143


def fit(run: Run) -> Run:
    """Train, from the start or from where the run was left; every rank learns the run's folder."""
    experiment, settings = run.experiment, run.experiment.trainer
    throughput = Throughput(experiment.data.batch_size)
    callbacks: list[Callback] = [
        throughput,
        StepProgress(throughput),
        PictureLog(
            run.data.splits.classes,
            run.data.preprocessing.unnormalised,
            run.draw_attention,
        ),
        run.best,
        LastCheckpoint(run.last, settings.checkpoint_every_steps, run.plan.val_every_steps),
    ]
    if settings.patience is not None:
        callbacks.append(EarlyStopping(run.task.score_name, patience=settings.patience, mode="max"))
    loggers = build_loggers(
        experiment.loggers, run.folder, run_name=experiment.name, step=run.start_step
    )
    trainer = build_trainer(
        settings, precision=run.choices.precision, callbacks=callbacks, loggers=loggers
    )
    per_step = run.data.stream(0, trainer.world_size).micro_batches_per_step
    trainer.accumulate_grad_batches = per_step
    trainer.val_check_interval = run.plan.val_every_steps * per_step
    if run.start_step < run.plan.total_steps:
        by_onednn = run.choices.linear != "torch"
        backend = computed_by_onednn(run.task.model) if by_onednn else nullcontext()
        with _said_plainly(run, trainer), run.data.naming_pictures(), backend:
            trainer.fit(run.task, datamodule=run.data, ckpt_path=run.start, weights_only=True)
        trainer.save_checkpoint(run.last)
    return replace(
        run,
        folder=trainer.strategy.broadcast(run.folder),
        unreadable=merged_over_ranks(run.data.unreadable_names()),
    )


@contextmanager
def _said_plainly(run: Run, trainer: Trainer) -> Iterator[None]:
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


def _say_how_to_go_on(run: Run) -> None:
    if run.last.exists():
        say(
            f"\nstopped; {run.last} holds step {checkpoint_step(run.last)}. Go on with the same "
            f"command and --resume {run.folder}"
        )
    else:
        say("\nstopped before the first checkpoint: there is nothing to go on from")
