"""Lightning's loggers in a run's folder, gone on with where a resumed run begins."""

import csv
import os
from collections.abc import Sequence
from importlib.util import find_spec
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

_EXTRAS = ("wandb", "mlflow")  # loggers, extras of this package and packages of those names


def require_loggers(names: Sequence[str]) -> None:
    """Check that the loggers can be had, before anything is made for them.

    Raises:
        InputError: a logger's package is not installed.
    """
    missing = [name for name in names if name in _EXTRAS and find_spec(name) is None]
    if missing:
        raise InputError(
            f"loggers: {' and '.join(missing)} must be installed; "
            f"use: pip install 'vit-lightning[{','.join(missing)}]'"
        )


def build_loggers(names: Sequence[str], folder: Path, *, run_name: str, step: int) -> list[Logger]:
    """The loggers of a run.

    Args:
        names: of "tensorboard", "csv", "wandb", "mlflow".
        folder: the run's.
        run_name: what to call the run where others are listed too.
        step: the optimizer step the run starts with; what an interrupted run logged from there on
            gives way to what is computed again.
    """
    return [_build(name, folder, run_name, step) for name in names]


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
    # MLflow's own variable names a server; without one the run keeps its database itself.
    own = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", own)
    artifacts = str(folder.resolve() / "mlflow")
    return MLFlowLogger(run_name, tracking_uri=uri, artifact_location=artifacts)


def _csv_logger(folder: Path, step: int) -> CSVLogger:
    """A CSV logger that keeps the rows from before ``step``; Lightning's own starts afresh."""
    path, rows = folder / METRICS_FILE, []
    if step and path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    # Each row to the disk at once: a killed run shall have the rows before its checkpoint.
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)
    for row in rows:
        values: dict[str, Any] = {key: float(text) for key, text in row.items() if text}
        logger.log_metrics(values, step=int(values.pop("step")))
    return logger


def add_figure(loggers: Sequence[Logger], tag: str, figure: Figure, step: int) -> None:
    """Add a figure to those of the loggers that are TensorBoard's."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            image = figure_array(figure)
            logger.experiment.add_image(tag, image, step, dataformats="HWC")
