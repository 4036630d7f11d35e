"""What a step of ``vit train`` costs beside its arithmetic and its pictures.

    python -m benchmarks overhead [--steps 500] [--rounds 5]

Trains a tiny model on scikit-learn's digits in three ways, in turns: as ``vit train`` does, with
logging to CSV and TensorBoard every 10 steps, progress and a checkpoint every 100 steps; with a
plain ``LightningModule`` as Lightning's documentation shows it, with its own progress bar, logging
of two values and checkpoints as often; and in a loop written by hand around the same model, loss,
optimizer, clipping and loader, which does nothing else. The differences from the loop are what
Lightning, the callbacks and the loggers take. It is processor time on one thread, which other work
on the machine changes little. Writes ``results/DATE-overhead.json``.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import lightning as L  # the project's own convention for its import
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from report import RESULTS, write_report
from torch import Tensor

from vit_lightning.experiment import Experiment
from vit_lightning.run.fitting import fit
from vit_lightning.run.preparation import Run, prepare
from vit_lightning.training.optim import build_optimizer
from vit_lightning.training.task import Batch, VisionTask
from vit_lightning.training.trainer import quiet_lightning

WARM_UP = 50  # steps that do not count


def experiment(folder: Path, steps: int) -> Experiment:
    """A run in which the model itself takes next to nothing."""
    shape = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
    return Experiment.model_validate(
        {
            "name": "overhead",
            "description": "A tiny model",
            "model": {"name": None, "image_size": 8, "in_channels": 1, **shape},
            "data": {"name": "digits", "batch_size": 8, "workers": 0},
            "trainer": {"max_steps": steps, "val_every_steps": steps, "accelerator": "cpu"}
            | {"checkpoint_every_steps": 100, "log_every_steps": 10, "devices": 1},
            "runs_dir": str(folder / "runs"),
            "checkpoint_dir": str(folder / "checkpoint"),
        }
    )


def seconds_of_train(run: Run) -> float:
    """A step of ``vit train``."""
    stamps: list[float] = []
    original = VisionTask.on_train_batch_start

    def stamped(task: VisionTask, batch: object, batch_idx: int) -> None:
        stamps.append(time.process_time())
        original(task, batch, batch_idx)  # type: ignore[arg-type]

    VisionTask.on_train_batch_start = stamped  # type: ignore[method-assign]
    try:
        fit(run)
    finally:
        VisionTask.on_train_batch_start = original  # type: ignore[method-assign]
    return _step(stamps)


class PlainTask(L.LightningModule):
    """The same training in Lightning's own ways."""

    def __init__(self, task: VisionTask) -> None:
        super().__init__()
        self.model = task.model
        self.loss, self.recipe, self.total_steps = task._loss, task.optim, task.total_steps
        self.stamps: list[float] = []

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Note when a step begins."""
        self.stamps.append(time.process_time())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss, logged with the accuracy."""
        images, labels = batch
        logits = self.model(images).float()
        loss = self.loss(logits, labels).mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimizer, with torch's own schedule."""
        optimizer = build_optimizer(self.model, self.recipe, "32")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def seconds_of_plain_lightning(run: Run) -> float:
    """The same of that."""
    task, folder = PlainTask(run.task), run.folder / "plain"
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=100)],
        logger=[CSVLogger(folder / "csv"), TensorBoardLogger(folder / "board")],
        enable_model_summary=False,
    )
    trainer.fit(task, train_dataloaders=_finished(run))
    return _step(task.stamps)


def _finished(run: Run) -> Iterable[Batch]:
    """Batches, finished where ``vit train`` has Lightning's hooks for it."""

    class Finished:
        def __len__(self) -> int:
            return len(run.data.train_dataloader())

        def __iter__(self) -> Iterator[Batch]:
            return map(run.data._finished, run.data.train_dataloader())

    return Finished()


def _step(stamps: list[float]) -> float:
    """A step's share of the time between the first and the last of those that count."""
    return (stamps[-1] - stamps[WARM_UP]) / (len(stamps) - 1 - WARM_UP)


def seconds_by_hand(run: Run) -> float:
    """The same of a loop by hand."""
    task, stamps = run.task, []
    optimizer = build_optimizer(task.model, task.optim, "32")
    for step, batch in enumerate(run.data.train_dataloader()):
        stamps.append(time.process_time())
        images, labels = run.data._finished(batch)
        for group in optimizer.param_groups:
            group["lr"] = task._rate(step)
        optimizer.zero_grad()
        task._loss(task.model(images).float(), labels).mean().backward()
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
    return _step(stamps)


BY_HAND = "by hand"
WAYS: dict[str, Callable[[Run], float]] = {
    BY_HAND: seconds_by_hand,
    "vit train": seconds_of_train,
    "plain Lightning": seconds_of_plain_lightning,
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        settings = experiment(Path(folder), arguments.steps)
        for _ in range(arguments.rounds):
            for name, way in WAYS.items():
                with (
                    contextlib.redirect_stdout(io.StringIO()),
                    contextlib.redirect_stderr(io.StringIO()),
                ):
                    spent[name].append(1e3 * way(prepare(settings, None)))
    figures: dict[str, object] = {f"{name}_ms": values for name, values in spent.items()}
    by_hand = np.array(spent[BY_HAND])
    for name, values in spent.items():
        beside = np.array(values) - by_hand
        least = min(values) - min(by_hand)  # other work on the machine only adds to either
        print(f"{name:16s}{np.median(values):7.3f} ms a step", end="")
        if name != BY_HAND:
            figures[f"{name}_adds_ms"] = float(np.median(beside))
            figures[f"{name}_adds_least_ms"] = float(least)
            print(
                f", adds {np.median(beside):6.3f} ms ({beside.min():.3f} to {beside.max():.3f}), "
                f"at the least {least:.3f}",
                end="",
            )
        print()
    write_report("overhead", figures, folder=arguments.results)


if __name__ == "__main__":
    main()
