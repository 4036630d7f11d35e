"""Lightning's loggers in a run's folder, gone on with where a resumed run begins."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from matplotlib.figure import Figure

from vit_lightning.errors import InputError
from vit_lightning.figures import figure_array

METRICS_FILE = "metrics.csv"


def build_loggers(names: Sequence[str], folder: Path, *, run_name: str, step: int) -> list[Logger]:
    """The loggers of a run.

    Args:
        names: of "tensorboard", "csv", "wandb", "mlflow".
        folder: the run's.
        run_name: what to call the run where others are listed too.
        step: the optimizer step the run starts with; what an interrupted run logged from there on
            gives way to what is computed again.

    Raises:
        InputError: a logger's package is not installed.
    """
    loggers: list[Logger] = []
    for name in names:
        try:
            loggers.append(_build(name, folder, run_name, step))
        except ImportError:  # ModuleNotFoundError is one
            raise InputError(
                f'loggers: "{name}" needs a package of its own; '
                f"install it with: pip install vit-lightning[{name}]"
            ) from None
    return loggers


def _build(name: str, folder: Path, run_name: str, step: int) -> Logger:
    if name == "tensorboard":
        purge_step = step or None
        return TensorBoardLogger(
            folder, name="", version="", default_hp_metric=False, purge_step=purge_step
        )
    if name == "csv":
        return _csv_logger(folder, step)
    if name == "wandb":
        return WandbLogger(name=run_name, save_dir=folder)
    return MLFlowLogger(run_name=run_name, tracking_uri=f"file:{folder / 'mlflow'}")


def _csv_logger(folder: Path, step: int) -> CSVLogger:
    """A CSV logger that keeps the rows from before ``step``; Lightning's own starts afresh."""
    path, rows = folder / METRICS_FILE, []
    if step and path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=20)
    for row in rows:
        values: dict[str, Any] = {key: float(text) for key, text in row.items() if text}
        logger.log_metrics(values, step=int(values.pop("step")))
    logger.save()
    return logger


def add_figure(loggers: Sequence[Logger], tag: str, figure: Figure, step: int) -> None:
    """Add a figure to those of the loggers that are TensorBoard's."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            image = figure_array(figure)
            logger.experiment.add_image(tag, image, step, dataformats="HWC")
