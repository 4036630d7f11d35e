"""A training run from an experiment: prepared, fitted, concluded."""

from collections.abc import Sequence
from pathlib import Path

from vit_lightning.experiment import Experiment, resolve_experiment
from vit_lightning.run.conclusion import TrainResult, conclude
from vit_lightning.run.fitting import fit
from vit_lightning.run.preparation import prepare
from vit_lightning.training.trainer import computes_on_cpu, quiet_lightning
from vit_lightning.waiting import threads_wait_while_alone

__all__ = ["TrainResult", "train"]


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
    on_cpu = computes_on_cpu(experiment.trainer)
    with quiet_lightning(), threads_wait_while_alone(on_cpu=on_cpu):
        run = fit(prepare(experiment, resume))
        return conclude(run, path)
