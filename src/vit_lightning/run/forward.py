"""What computes the training step of a run: the model as it is, compiled, or in halves."""

from pathlib import Path
from typing import Any

from lightning import Trainer

from vit_lightning.assemble import Plan
from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment
from vit_lightning.precision import product_type
from vit_lightning.run_folder import newest_environment
from vit_lightning.training.compiling import CompiledForward, repays_compiling
from vit_lightning.training.halves import ForwardInHalves, can_be_halved, repays_halving
from vit_lightning.training.task import VisionTask


def choose_forward(
    experiment: Experiment,
    plan: Plan,
    task: VisionTask,
    micro_batch: int,
    trainer: Trainer,
    old: Path | None,
) -> CompiledForward | ForwardInHalves | None:
    """As the experiment says, else as the run did before, else what pays; None for the model.

    Args:
        experiment: its settings.
        plan: its steps.
        task: what is trained.
        micro_batch: pictures computed at once.
        trainer: to ask for devices and precision.
        old: the folder of a run to go on with: what is compiled or halved is rounded otherwise.

    Raises:
        InputError: the run cannot be computed in halves, and the experiment wants it.
    """
    before = None if old is None else newest_environment(old)
    if _compiles(experiment, plan, task, micro_batch, trainer, before):
        return CompiledForward(task.model, fixed=experiment.trainer.compile is True)
    if _halves(experiment, task, micro_batch, trainer, before):
        return ForwardInHalves(task.model)
    return None


def _compiles(
    experiment: Experiment,
    plan: Plan,
    task: VisionTask,
    micro_batch: int,
    trainer: Trainer,
    before: dict[str, Any] | None,
) -> bool:
    wanted = experiment.trainer.compile
    if wanted != "auto":
        return wanted
    if before is not None and "compile" in before:
        return bool(before["compile"] == "on")
    pictures = plan.total_steps * experiment.data.batch_size // trainer.world_size
    dtype, device = product_type(str(trainer.precision)), trainer.strategy.root_device
    return repays_compiling(task.model.config, pictures, micro_batch, dtype, device)


def _halves(
    experiment: Experiment,
    task: VisionTask,
    micro_batch: int,
    trainer: Trainer,
    before: dict[str, Any] | None,
) -> bool:
    wanted, device = experiment.trainer.halves, trainer.strategy.root_device
    on_one_cpu = device.type == "cpu" and trainer.world_size == 1
    possible = on_one_cpu and can_be_halved(task.model, task.model.activation_checkpointing)
    if wanted is True and not possible:
        raise InputError(
            "trainer.halves: a step is computed in halves on a CPU, by one process, for a model "
            "without model.attention_dropout whose activation_checkpointing is none, or selective "
            "where nothing has dropout; set it to false, or to auto"
        )
    if wanted != "auto":
        return wanted
    if before is not None:
        return possible and before.get("halves") == "on"
    return possible and repays_halving(task.model.config, micro_batch, device)
