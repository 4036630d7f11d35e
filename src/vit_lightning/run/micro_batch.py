"""How many pictures of a step are computed at once: as many as the memory holds."""

import re
from pathlib import Path

import lightning as L  # the project's own convention for its import
import torch
from lightning.pytorch.callbacks import Callback

from vit_lightning.console import say
from vit_lightning.data.datamodule import TrainData
from vit_lightning.data.stream import largest_micro_batch
from vit_lightning.experiment import Experiment
from vit_lightning.memory import free_memory
from vit_lightning.run_folder import newest_environment
from vit_lightning.training.footprint import bound_footprint, measure_footprint
from vit_lightning.training.task import VisionTask

# Of the free memory; the rest is for what a measurement of the model does not see: loading
# processes, validation, fragmentation, other programs.
_CAREFUL_SHARE = 0.8
_RECORD = re.compile(r"(\d+) of \d+")


def describe_micro_batch(micro_batch: int, batch_size: int) -> str:
    """What a run's ``environment.json`` says of its micro-batches."""
    return f"{micro_batch} of {batch_size}"


def choose_micro_batch(
    experiment: Experiment,
    task: VisionTask,
    data: TrainData,
    trainer: L.Trainer,
    old: Path | None,
) -> int:
    """The largest micro-batch of a run: the experiment's, else as large as the memory holds.

    Args:
        experiment: its settings.
        task: what is trained, on the CPU.
        data: its pictures.
        trainer: to ask for devices and precision.
        old: the folder of a run to go on with, whose cuts are taken again if they still fit: what
            dropout draws depends on them.

    Raises:
        InputError: the device has no room for the pictures that it is to hold.
    """
    world_size, device = trainer.world_size, trainer.strategy.root_device
    reserved = data.reserve(device, world_size)
    if experiment.trainer.micro_batch != "auto":
        return data.stream(0, world_size).most
    free = _free_bytes(device, world_size)
    if free is None:
        return data.stream(0, world_size).most
    free -= reserved
    if device.type != "cpu":
        free -= sum(parameter.nbytes for parameter in task.model.parameters())
    bound, whole = bound_footprint(task.model, experiment.optim), data.stream(0, world_size).most
    careful = int(free * _CAREFUL_SHARE)
    before = None if old is None else recorded_micro_batch(old)
    if bound and bound.most_pictures(careful) >= whole and before in {None, whole}:
        return whole
    footprint = measure_footprint(task.model, experiment.optim, str(trainer.precision))
    fits = footprint.most_pictures(free)
    limit = footprint.most_pictures(careful)
    if before is not None:
        if fits < before:
            say(f"memory     is free for {max(fits, 0)} pictures at once, the run had {before}")
        else:
            limit = before
    return largest_micro_batch(
        experiment.data.batch_size, limit, world_size=world_size, pairs=data.mixing is not None
    )


def recorded_micro_batch(run: Path) -> int | None:
    """What a run has last computed at once, or None if it does not say."""
    found = _RECORD.fullmatch(str(newest_environment(run).get("micro_batch")))
    return int(found[1]) if found else None


def _free_bytes(device: torch.device, world_size: int) -> int | None:
    """What one process may have: its GPU's free memory, or its part of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = free_memory()
    return None if free is None else free // world_size


class Cuts(Callback):
    """Cuts every step of a training as its data says; several ranks agree on the finest cut.

    Args:
        val_every_steps: optimizer steps between two validations.
    """

    def __init__(self, val_every_steps: int) -> None:
        self.val_every_steps = val_every_steps

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tell the trainer, before it asks for batches."""
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by its connector
        assert isinstance(data, TrainData)
        if trainer.world_size > 1 and data.micro_batch is not None:
            own = torch.tensor(data.micro_batch, device=trainer.strategy.root_device)
            data.micro_batch = int(trainer.strategy.reduce(own, reduce_op="min"))
        per_step = data.stream(0, trainer.world_size).micro_batches_per_step
        trainer.accumulate_grad_batches = per_step
        trainer.val_check_interval = self.val_every_steps * per_step
