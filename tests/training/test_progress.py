"""What a run says of its progress where there is no terminal."""

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest

from vit_lightning.training import progress
from vit_lightning.training.progress import StepProgress


def test_the_time_left_does_not_hold_the_first_step_for_usual(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    trainer: Any = SimpleNamespace(
        global_step=40, num_training_batches=100, accumulate_grad_batches=1, callback_metrics={}
    )
    shown, module = StepProgress(), L.LightningModule()
    shown.on_train_start(trainer, module)
    for batch, seconds in enumerate((90, 20, 20)):  # the first compiles
        clock.now += seconds
        trainer.global_step += 1
        shown.on_train_batch_end(trainer, module, None, None, batch)
    assert capsys.readouterr().err.splitlines() == [
        "step 41/100: first steps",
        "step 42/100: first steps, about 19:20 left",
        "step 43/100: first steps, about 19:00 left",
    ]
