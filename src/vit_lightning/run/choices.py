"""What a run computes with: what the experiment fixes, else what suits the machine."""

from dataclasses import asdict, dataclass

from vit_lightning.backend import Backend, choose_backend
from vit_lightning.experiment import Experiment
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.recompute import Recomputed
from vit_lightning.precision import product_type
from vit_lightning.training.optim import has_fused_update
from vit_lightning.training.trainer import choose_precision, computes_on_cpu


@dataclass(frozen=True)
class Choices:
    """The choices of a run, printed in one line and kept in its ``environment.json``.

    Args:
        precision: of the training.
        optimizer: its name, "fused" where one kernel updates all weights.
        linear: what computes the dense layers.
        activation_checkpointing: what the backward pass computes again.
        micro_batch: pictures computed at once, of those of a step; told when they are counted.
        compile: "on" where torch compiles the training step; told then too.
    """

    precision: str
    optimizer: str
    linear: Backend
    activation_checkpointing: Recomputed
    micro_batch: str = ""
    compile: str = ""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


def choose(experiment: Experiment, config: ViTConfig) -> Choices:
    """The choices for an experiment on this machine.

    Args:
        experiment: its settings.
        config: of the model that is trained.

    Raises:
        InputError: the machine cannot do what the experiment fixes.
    """
    trainer = experiment.trainer
    precision = choose_precision(trainer)
    optim = experiment.optim
    fused = "fused " if has_fused_update(optim, precision) else ""
    on_cpu, dtype = computes_on_cpu(trainer), product_type(precision)
    linear = choose_backend(trainer.linear, "training", config, on_cpu=on_cpu, dtype=dtype)
    return Choices(
        precision=precision,
        optimizer=f"{fused}{optim.name}",
        linear=linear,
        activation_checkpointing=_recomputed(experiment, linear, on_cpu=on_cpu),
    )


def _recomputed(experiment: Experiment, linear: Backend, *, on_cpu: bool) -> Recomputed:
    """The experiment's, else the activations where they alone are computed again, on a CPU.

    There it takes an eighth less memory and hardly more time. Behind oneDNN's and low-rank layers a
    product of matrices would be computed again, and a compiler chooses by itself.
    """
    wanted = experiment.trainer.activation_checkpointing
    if wanted != "auto":
        return wanted
    plain = linear == "torch" and experiment.adapt.method != "lora"
    return "selective" if on_cpu and plain and experiment.trainer.compile is not True else "none"
