import csv
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vit_lightning.errors import InputError
from vit_lightning.training.loggers import add_figure, build_loggers, require_loggers
from vit_lightning.training.trainer import quiet_lightning


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _begun(folder: Path) -> None:
    """A run that logged six steps, one validation after the third, and was stopped."""
    for logger in build_loggers(["csv", "tensorboard"], folder, run_name="", step=0):
        for step in range(6):
            logger.log_metrics({"train/loss": 10.0 - step, "epoch": 0}, step=step)
            if step == 2:
                logger.log_metrics({"val/loss": 0.125}, step=step)
        logger.finalize("failed")


def test_loggers_are_those_named(tmp_path: Path) -> None:
    loggers = build_loggers(["csv", "tensorboard"], tmp_path, run_name="it", step=0)
    assert [type(logger) for logger in loggers] == [CSVLogger, TensorBoardLogger]
    # No folders of their own.
    assert {Path(logger.log_dir) for logger in loggers if logger.log_dir} == {tmp_path}
    assert build_loggers([], tmp_path, run_name="it", step=0) == []


def test_missing_packages_are_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_lightning.training.loggers.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'vit-lightning\[wandb,mlflow\]'"):
        require_loggers(["csv", "wandb", "mlflow"])
    require_loggers(["csv", "tensorboard"])


def test_table_of_a_resumed_run_keeps_what_was_before(tmp_path: Path) -> None:
    _begun(tmp_path)
    with quiet_lightning():
        (logger,) = build_loggers(["csv"], tmp_path, run_name="", step=4)
    # Already there: a run that is stopped at once shall not have lost them.
    kept = [(row["step"], row["train/loss"], row["val/loss"]) for row in _table(tmp_path)]
    assert kept == [
        ("0", "10.0", ""),
        ("1", "9.0", ""),
        ("2", "8.0", ""),
        ("2", "", "0.125"),
        ("3", "7.0", ""),
    ]
    logger.log_metrics({"train/loss": 0.5, "train/new": 3.0}, step=4)
    logger.finalize("success")
    rows = _table(tmp_path)
    assert [row["step"] for row in rows] == ["0", "1", "2", "2", "3", "4"]
    new = [row["train/new"] for row in rows]
    assert new == ["", "", "", "", "", "3.0"]


def test_table_of_a_run_that_logged_nothing_yet(tmp_path: Path) -> None:
    (logger,) = build_loggers(["csv"], tmp_path, run_name="", step=4)
    logger.log_metrics({"train/loss": 1.0}, step=4)
    logger.finalize("success")
    assert [row["step"] for row in _table(tmp_path)] == ["4"]


def test_tensorboard_of_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    _begun(tmp_path)
    (logger,) = build_loggers(["tensorboard"], tmp_path, run_name="", step=4)
    for step in (4, 5, 6):
        logger.log_metrics({"train/loss": 0.5}, step=step)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    values = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert values == [(0, 10.0), (1, 9.0), (2, 8.0), (3, 7.0), (4, 0.5), (5, 0.5), (6, 0.5)]
    assert [event.step for event in events.Scalars("val/loss")] == [2]


def test_figures_go_to_tensorboard_alone(tmp_path: Path) -> None:
    loggers = build_loggers(["csv", "tensorboard"], tmp_path, run_name="", step=0)
    figure = Figure(figsize=(3, 2), dpi=50)
    figure.add_subplot().imshow(np.eye(3))
    add_figure(loggers, "val/it", figure, step=7)
    for logger in loggers:
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("val/it")
    assert (image.step, image.width, image.height) == (7, 150, 100)
