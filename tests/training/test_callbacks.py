import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vit_lightning.data.datamodule import TrainData
from vit_lightning.settings import TrainerSettings
from vit_lightning.training.callbacks import (
    LastCheckpoint,
    PictureLog,
    Throughput,
    peak_memory_gb,
)
from vit_lightning.training.loggers import build_loggers
from vit_lightning.training.task import VisionTask
from vit_lightning.training.trainer import build_trainer, quiet_lightning

MakeTask = Callable[..., VisionTask]
MakeData = Callable[..., TrainData]


def _fit(
    task: VisionTask,
    data: TrainData,
    callbacks: list[Callback],
    loggers: list[Any] | None = None,
    val_every: int = 2,
    log_every: int = 1,
) -> L.Trainer:
    settings = TrainerSettings(max_steps=1, accelerator="cpu", devices=1, log_every_steps=log_every)
    with quiet_lightning():
        trainer = build_trainer(
            settings, precision="32", callbacks=callbacks, loggers=loggers or []
        )
        per_step = data.stream(0, 1).micro_batches_per_step
        trainer.accumulate_grad_batches = per_step
        trainer.val_check_interval = val_every * per_step
        trainer.fit(task, datamodule=data)
    return trainer


class Watch(LastCheckpoint):
    """Notes each write: the optimizer step, and the micro-batches seen."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.writes: list[tuple[int, int]] = []

    def _write(self, trainer: L.Trainer) -> None:
        super()._write(trainer)
        stored = torch.load(self.path, weights_only=True)
        batches = stored["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
        self.writes.append((stored["global_step"], batches))


@pytest.mark.parametrize(("micro_batch", "per_step"), [(None, 1), (4, 2)])
def test_last_checkpoint_is_written_between_steps_alone(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData, micro_batch: int, per_step: int
) -> None:
    watch = Watch(tmp_path / "last.ckpt", 3, 4)
    _fit(make_task(9), make_data(9, micro_batch=micro_batch), [watch], val_every=4)
    # After step 3 and 6 and 9, and after the validations of step 4 and 8.
    assert [step for step, _ in watch.writes] == [3, 4, 6, 8, 9]
    assert [batches for _, batches in watch.writes] == [step * per_step for step in (3, 4, 6, 8, 9)]


def test_step_that_is_validated_is_written_once_and_afterwards(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData
) -> None:
    class Validations(Callback):
        ended = 0

        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.ended += 1

    validations, ended = Validations(), []

    class Late(Watch):
        def _write(self, trainer: L.Trainer) -> None:
            super()._write(trainer)
            ended.append(validations.ended)

    watch = Late(tmp_path / "last.ckpt", 2, 2)
    _fit(make_task(4), make_data(4), [watch, validations])  # Lightning puts the checkpoint last
    assert [step for step, _ in watch.writes] == [2, 4]
    assert ended == [1, 2]


def test_validation_outside_of_a_training_writes_nothing(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData
) -> None:
    watch = Watch(tmp_path / "last.ckpt", 1, 1)
    settings = TrainerSettings(max_steps=1, accelerator="cpu", devices=1)
    with quiet_lightning():
        trainer = build_trainer(settings, precision="32", callbacks=[watch])
        trainer.validate(make_task(1), datamodule=make_data(1), verbose=False)
    assert watch.writes == []


def test_what_was_logged_is_on_disk_before_the_next_step(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData
) -> None:
    found: dict[int, tuple[list[int], list[int]]] = {}

    class Read(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step:
                with (tmp_path / "metrics.csv").open(newline="") as file:
                    rows = [int(row["step"]) for row in csv.DictReader(file)]
                events = EventAccumulator(str(tmp_path))
                events.Reload()
                scalars = "train/loss" in events.Tags()["scalars"]
                steps = [event.step for event in events.Scalars("train/loss")] if scalars else []
                found[trainer.global_step] = rows, steps

    last = LastCheckpoint(tmp_path / "last.ckpt", 1, 2)
    loggers = build_loggers(["csv", "tensorboard"], tmp_path, run_name="", step=0)
    _fit(make_task(3), make_data(3), [last, Read()], loggers)
    assert found[1][0] == [0]
    assert found[2] == ([0, 1, 1], [0, 1])  # after a validation


def test_throughput_is_logged_when_the_step_is(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData
) -> None:
    throughput = Throughput(batch_size=6)
    loggers = build_loggers(["csv"], tmp_path, run_name="", step=0)
    _fit(make_task(6), make_data(6, micro_batch=4), [throughput], loggers, log_every=2)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/images_per_second"]]
    assert [row["step"] for row in rows] == ["1", "3", "5"]
    for row in rows:
        assert row["train/loss"]  # in one row with the rest
        assert 0 < float(row["train/images_per_second"]) < 1e6
        assert 0 <= float(row["train/data_wait_share"]) <= 1
        assert 0.01 < float(row["train/peak_memory_gb"]) < 1000
    last = float(rows[-1]["train/images_per_second"])
    assert throughput.images_per_second == pytest.approx(last, rel=1e-5)


def test_throughput_leaves_validation_out(
    monkeypatch: pytest.MonkeyPatch, make_task: MakeTask, make_data: MakeData
) -> None:
    """On a clock that only validation moves, no time passes."""
    clock = [100.0]
    logged: list[float] = []
    monkeypatch.setattr("vit_lightning.training.callbacks.time.perf_counter", lambda: clock[0])

    class SlowValidation(VisionTask):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            clock[0] += 1000.0
            super().validation_step(batch, batch_idx)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            clock[0] += 2.0
            super().on_train_batch_start(batch, batch_idx)

    task = make_task(4)
    task.__class__ = SlowValidation
    throughput = Throughput(batch_size=6)

    class Note(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            logged.append(throughput.images_per_second)

    _fit(task, make_data(4), [throughput, Note()])
    assert logged == [3.0] * 4  # six pictures in two seconds


def test_memory_is_that_of_this_process() -> None:
    before = peak_memory_gb(torch.device("cpu"))
    block = np.ones(25_000_000)  # 0.2 GB
    after = peak_memory_gb(torch.device("cpu"))
    assert block.sum() == 25_000_000
    assert 0.01 < before <= after < 1000


class Pictures:
    """In place of TensorBoard: which figures were added when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.added: list[tuple[str, int]] = []
        monkeypatch.setattr("vit_lightning.training.callbacks.add_figure", self.add)

    def add(self, loggers: list[Any], tag: str, figure: Figure, step: int) -> None:
        assert isinstance(figure, Figure)
        self.added.append((tag, step))


def test_pictures_are_drawn_at_the_steps_of_the_scalars(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, models, batches = Pictures(monkeypatch), [], []

    def draw(model: Any) -> Figure:
        models.append(model)
        return Figure()

    def unnormalised(images: torch.Tensor) -> torch.Tensor:
        batches.append(images.shape)
        return images

    loggers = build_loggers(["tensorboard"], tmp_path, run_name="", step=0)
    task, log = make_task(4), PictureLog(("a", "b", "c"), unnormalised, draw)
    _fit(task, make_data(4, micro_batch=4), [log], loggers)
    assert pictures.added == [
        ("train/batch", 0),
        ("val/attention", 1),
        ("model/position_embedding", 1),
        ("val/attention", 3),
        ("model/position_embedding", 3),
    ]
    assert models == [task.model, task.model]
    assert batches == [(3, 1, 16, 16)]


def test_without_tensorboard_nothing_is_drawn(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures(monkeypatch)

    def draw(model: Any) -> Figure:
        raise AssertionError

    loggers = build_loggers(["csv"], tmp_path, run_name="", step=0)
    log = PictureLog(("a", "b", "c"), lambda images: images, draw)
    _fit(make_task(2), make_data(2), [log], loggers)
    assert pictures.added == []
