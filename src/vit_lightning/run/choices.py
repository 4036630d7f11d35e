"""What a run computes with: what the experiment fixes, else what suits the machine."""

from dataclasses import asdict, dataclass

from vit_lightning.experiment import Experiment
from vit_lightning.training.optim import has_fused_update
from vit_lightning.training.trainer import choose_precision


@dataclass(frozen=True)
class Choices:
    """The choices of a run, printed in one line and kept in its ``environment.json``.

    Args:
        precision: of the training.
        optimizer: its name, "fused" where one kernel updates all weights.
    """

    precision: str
    optimizer: str

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


def choose(experiment: Experiment) -> Choices:
    """The choices for an experiment on this machine.

    Raises:
        InputError: the machine cannot do what the experiment fixes.
    """
    precision = choose_precision(experiment.trainer)
    optim = experiment.optim
    fused = "fused " if has_fused_update(optim, precision) else ""
    return Choices(precision=precision, optimizer=f"{fused}{optim.name}")
