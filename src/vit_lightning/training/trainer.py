"""Lightning's Trainer from the experiment's settings, and predictions gathered over ranks."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.errors import InputError
from vit_lightning.files import atomic_write
from vit_lightning.memory import keep_freed_memory
from vit_lightning.precision import exact_convolutions
from vit_lightning.settings import TrainerSettings
from vit_lightning.training.progress import StepProgress

# What Lightning and torch say that is of no use to the person who runs this, each with the reason.
_NOISE = (
    # This package decides on the number of workers, and counts what waiting for them costs.
    r"The '\w+' does not have many workers",
    # Lightning 2.6 under torch 2.13, in its own pytree helper.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # The number of log lines is a matter of taste.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # A resumed run goes on in its own folder, which holds its checkpoints.
    r"Checkpoint directory .* exists and is not empty",
    # The rows of metrics.csv that a resumed run keeps are written again.
    r"Experiment logs directory .* exists and is not empty",
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it; Lightning's own goes through /tmp."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``path``, whole or not at all."""
        with atomic_write(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's hints and harmless warnings from the terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def choose_precision(settings: TrainerSettings) -> str:
    """The precision to train in: "auto" is bf16-mixed on a GPU that has it, and 32 elsewhere.

    Raises:
        InputError: 16-mixed without a GPU; torch would silently compute something else.
    """
    on_gpu = settings.accelerator in {"auto", "cuda"} and torch.cuda.is_available()
    if settings.precision == "16-mixed" and not on_gpu:
        raise InputError(
            "trainer.precision: 16-mixed needs a CUDA GPU, and there is none here; take 32, or "
            "bf16-mixed where the CPU is fast in it"
        )
    if settings.precision != "auto":
        return settings.precision
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(False) else "32"


def computes_on_cpu(settings: TrainerSettings) -> bool:
    """Whether Lightning will take the CPU."""
    if settings.accelerator == "auto":
        return not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return settings.accelerator == "cpu"


def build_trainer(
    settings: TrainerSettings,
    *,
    precision: str,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> L.Trainer:
    """A Trainer whose one epoch is the whole run; the loaders shard themselves.

    Raises:
        InputError: the devices or the strategy cannot be had.
    """
    try:
        trainer = L.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=settings.strategy,
            precision=cast(Any, precision),
            deterministic=settings.deterministic,
            max_epochs=1,
            log_every_n_steps=settings.log_every_steps,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_checkpointing=any(isinstance(item, Checkpoint) for item in callbacks),
            enable_model_summary=False,
            callbacks=list(callbacks),
            logger=list(loggers),
            plugins=[AtomicCheckpointIO()],
        )
    except (MisconfigurationException, ValueError, RuntimeError, ImportError) as error:
        raise InputError(
            f"trainer: Lightning cannot use accelerator {settings.accelerator!r}, devices "
            f"{settings.devices!r}, strategy {settings.strategy!r}: {error}"
        ) from None
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    return trainer


def predict_logits(
    settings: TrainerSettings,
    task: L.LightningModule,
    data: L.LightningDataModule,
    kept: Callable[[], NDArray[np.int64]],
) -> tuple[NDArray[np.float32], NDArray[np.integer[Any]], NDArray[np.int64]]:
    """Outputs for a whole split, in order, over all ranks.

    Args:
        settings: where to compute, and in which ``eval_precision``.
        task: a module whose ``predict_step`` returns logits and labels.
        data: whose ``predict_dataloader`` deals the split out to the ranks.
        kept: asked when this rank is done: the indices of its pictures, in their order.

    Returns:
        Logits (N, classes), labels (N,) or (N, classes), and the indices (N,) of the pictures,
        ascending; those that could not be read are missing.
    """
    precision = settings.eval_precision
    trainer = build_trainer(settings, precision=precision, callbacks=[StepProgress()])
    with exact_convolutions():
        batches = cast(list[tuple[Tensor, Tensor]], trainer.predict(task, datamodule=data))
    logits, labels = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    shards: list[Any] = [(logits, labels, kept())]
    if trainer.world_size > 1:
        own, shards = shards[0], [None] * trainer.world_size
        dist.all_gather_object(shards, own)
    logits, labels, indices = (np.concatenate(parts) for parts in zip(*shards, strict=True))
    order = np.argsort(indices)
    return logits[order], labels[order], indices[order]


def merged_over_ranks(names: dict[str, list[str]]) -> dict[str, list[str]]:
    """What all ranks have under each key, sorted, each once."""
    shards: list[Any] = [names]
    if dist.is_available() and dist.is_initialized():
        shards = [None] * dist.get_world_size()
        dist.all_gather_object(shards, names)
    return {key: sorted({name for shard in shards for name in shard[key]}) for key in names}
