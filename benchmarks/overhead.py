"""What a step of ``vit train`` costs beside its arithmetic and its pictures.

    python -m benchmarks overhead [--steps 500] [--rounds 5]

Trains a tiny model on scikit-learn's digits in two ways, in turns: as ``vit train`` does, with
logging to CSV and TensorBoard every 10 steps, progress and a checkpoint every 100 steps; and in a
loop written by hand around the same model, loss, optimizer, clipping and loader, which does nothing
else. The difference is what Lightning, the callbacks and the loggers take. It is processor
time on one thread, which other work on the machine changes little. Writes
``results/DATE-overhead.json``.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from report import write_report

from vit_lightning.experiment import Experiment
from vit_lightning.run.fitting import fit
from vit_lightning.run.preparation import Run, prepare
from vit_lightning.training.optim import build_optimizer
from vit_lightning.training.task import VisionTask
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
    """A step's share of the time between the first and the last of those that count."""
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
    return (stamps[-1] - stamps[WARM_UP]) / (len(stamps) - 1 - WARM_UP)


def seconds_by_hand(run: Run) -> float:
    """The same of a plain loop."""
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
    return (stamps[-1] - stamps[WARM_UP]) / (len(stamps) - 1 - WARM_UP)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trained, by_hand = [], []
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        settings = experiment(Path(folder), arguments.steps)
        for _ in range(arguments.rounds):
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                trained.append(1e3 * seconds_of_train(prepare(settings, None)))
                by_hand.append(1e3 * seconds_by_hand(prepare(settings, None)))
    beside = np.array(trained) - np.array(by_hand)
    least = min(trained) - min(by_hand)  # other work on the machine only adds to either
    print(f"vit train     {np.median(trained):6.3f} ms a step")
    print(f"by hand       {np.median(by_hand):6.3f} ms")
    print(f"what it adds  {np.median(beside):6.3f} ms ({beside.min():.3f} to {beside.max():.3f})")
    print(f"at the least  {least:6.3f} ms: {min(trained):.3f} and {min(by_hand):.3f}")
    added = {"added_ms": float(np.median(beside)), "added_least_ms": least}
    figures = {"train_ms": trained, "by_hand_ms": by_hand, **added}
    write_report("overhead", figures)


if __name__ == "__main__":
    main()
