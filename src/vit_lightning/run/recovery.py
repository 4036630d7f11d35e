"""Going on where a training's memory was too small for as many pictures at once."""

import gc
from dataclasses import asdict, replace

import torch
from lightning import Trainer

from vit_lightning.console import say
from vit_lightning.data.stream import largest_micro_batch
from vit_lightning.errors import InputError
from vit_lightning.json_file import write_json
from vit_lightning.run.micro_batch import describe_micro_batch
from vit_lightning.run.preparation import Run
from vit_lightning.run_folder import describe_environment
from vit_lightning.training.callbacks import LastCheckpoint


def with_half(run: Run, trainer: Trainer, last: LastCheckpoint, said: str) -> Run:
    """A run to go on with, half as many pictures at once.

    It goes on from the last complete step where the weights are whole, as they nearly always are,
    else from its newest checkpoint. What was logged after that is computed again.

    Args:
        run: whose memory was full.
        trainer: that trained it.
        last: which kept the weights.
        said: torch's words.

    Raises:
        InputError: it cannot go on, or not without the person who runs it.
    """
    batch_size, mixed = run.experiment.data.batch_size, run.data.mixing is not None
    now = run.data.stream(0, trainer.world_size).most
    half = largest_micro_batch(batch_size, now // 2, pairs=mixed)
    if last.in_validation:
        raise InputError(
            f"memory is too small for the validation: lower data.eval_batch_size (now "
            f"{run.experiment.data.eval_batch_size}). It said: {said}"
        )
    fixed = run.experiment.trainer.micro_batch != "auto" or trainer.world_size > 1
    whole = last.settled or run.last.exists()
    if fixed or half >= now or not whole:
        held = " or data.on_device to null" if run.experiment.data.on_device else ""
        raise InputError(
            f"memory is too small for this: lower trainer.micro_batch (now {now}), or set "
            f"trainer.activation_checkpointing to full{held}. It said: {said}"
        )
    run.data.let_go()
    for parameter in run.task.parameters():
        parameter.grad = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    run.data.micro_batch = half
    choices = replace(run.choices, micro_batch=describe_micro_batch(half, batch_size))
    after = replace(run, choices=choices, start=run.last if run.last.exists() else run.start)
    write_json(
        run.folder / f"environment-from-{after.start_step}.json",
        asdict(choices) | describe_environment(),
    )
    say(
        f"memory     is too small for {now} pictures at once: on from step {after.start_step} with "
        f"{half}"
    )
    return after
