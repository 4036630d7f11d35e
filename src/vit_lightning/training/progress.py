"""Progress: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning as L  # the project's own convention for its import
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor
from tqdm import tqdm

from vit_lightning.training.callbacks import Throughput
from vit_lightning.training.task import log_is_due, step_is_complete

_LINE_SECONDS = 15.0  # between two plain lines
_REFRESH_SECONDS = 0.5  # of the bar


class StepProgress(ProgressBar):
    """Counts optimizer steps, with pictures per second and the time left.

    Args:
        throughput: where the pictures per second of a training come from.
    """

    def __init__(self, throughput: Throughput | None = None) -> None:
        super().__init__()
        self.throughput = throughput
        self._enabled = True
        self._bar: Any = None  # tqdm has no types
        self._start: tuple[int, float] | None = None  # step and time after the first step, which
        # takes longer than others: it compiles, tunes and fills caches
        self._last_line = time.monotonic()

    def disable(self) -> None:
        """Lightning turns the bar off on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Turn the bar on."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step that the run begins with."""
        self._start = None
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total(trainer),
                initial=trainer.global_step,
                desc="train",
                unit="step",
                dynamic_ncols=True,
                mininterval=_REFRESH_SECONDS,
            )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a complete step."""
        if not self._enabled or not step_is_complete(trainer, batch_idx):
            return
        if self._start is None:
            self._start = (trainer.global_step, time.monotonic())
        if self._bar is not None:
            if log_is_due(trainer, trainer.global_step):
                self._bar.set_postfix_str(self._state(trainer), refresh=False)
            self._bar.update()
        elif time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._say(trainer, f"{self._state(trainer)}{self._time_left(trainer)}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what a validation gave."""
        metrics = trainer.callback_metrics
        if self._enabled and trainer.state.fn == "fit" and "val/accuracy" in metrics:
            said = _validated(metrics, "val/")
            if "val/ema_accuracy" in metrics:
                said += f"; averaged weights: {_validated(metrics, 'val/ema_')}"
            self._say(trainer, said)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a bar over the batches of an evaluation."""
        if self._enabled and sys.stderr.isatty():
            total = int(sum(trainer.num_predict_batches))
            self._bar = tqdm(total=total, desc="evaluate", unit="batch", dynamic_ncols=True)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count an evaluation batch."""
        if self._bar is not None:
            self._bar.update()
        elif self._enabled and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            total = int(sum(trainer.num_predict_batches))
            print(f"evaluate: batch {batch_idx + 1}/{total}", file=sys.stderr, flush=True)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar before a message is printed."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, trainer: L.Trainer, text: str) -> None:
        line = f"step {trainer.global_step}/{self._total(trainer)}: {text}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def _state(self, trainer: L.Trainer) -> str:
        metrics = trainer.callback_metrics
        parts = []
        if "train/loss" in metrics:
            parts.append(f"loss {float(metrics['train/loss']):.3f}")
        if self.throughput and self.throughput.images_per_second:
            parts.append(f"{self.throughput.images_per_second:.1f} images/s")
        return ", ".join(parts) or "first steps"

    def _time_left(self, trainer: L.Trainer) -> str:
        step, start = self._start or (trainer.global_step, 0.0)
        if step == trainer.global_step:
            return ""
        per_step = (time.monotonic() - start) / (trainer.global_step - step)
        seconds = round(per_step * (self._total(trainer) - trainer.global_step))
        return f", about {seconds // 60}:{seconds % 60:02d} left"

    @staticmethod
    def _total(trainer: L.Trainer) -> int:
        return int(trainer.num_training_batches) // trainer.accumulate_grad_batches


def _validated(metrics: Mapping[str, Tensor], prefix: str) -> str:
    """What a validation gave for one set of weights."""
    score = f"val accuracy {float(metrics[prefix + 'accuracy']):.2%}"
    if prefix + "mean_average_precision" in metrics:
        score = f"val mAP {float(metrics[prefix + 'mean_average_precision']):.4f}"
    return f"{score}, val loss {float(metrics[prefix + 'loss']):.4f}"
