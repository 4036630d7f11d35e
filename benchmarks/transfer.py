"""What pretrained weights buy on pictures: beside training from scratch, by seeds and sizes.

    python -m benchmarks transfer EXPERIMENT.json [part.name=value ...] [--sizes 64 96 128]
        [--seeds 0 1 2] [--scratch optim.lr=0.002 trainer.max_epochs=60]

For every size of the pictures: nearest neighbours and a linear probe on frozen features (as by
``vit baseline``); the experiment, which names the weights, with each seed; and from scratch the
same model, experiment and seeds, with the settings behind ``--scratch``, so that it may have a
recipe and a length of its own. What is told of a training is its end, which no validation has
chosen. Intervals are Wilson's, 95 %, of the mean over the seeds: what the number of pictures
allows. Writes ``results/DATE-transfer-NAME.json``.
"""

import argparse
import contextlib
import io
import time
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from report import RESULTS, told, write_report

from vit_lightning.checkpoints.weights import open_weights
from vit_lightning.download import file_hash
from vit_lightning.errors import InputError
from vit_lightning.evaluation.metrics import Metrics, wilson_interval
from vit_lightning.experiment import (
    Experiment,
    load_experiment,
    parse_experiment,
    short_values,
)
from vit_lightning.overrides import apply_overrides
from vit_lightning.probe.run import baseline
from vit_lightning.run import train
from vit_lightning.settings import ModelSettings

TUNED, SCRATCH = "fine-tuned", "from scratch"


def of_size(experiment: Experiment, size: int, changes: list[str]) -> Experiment:
    """An experiment at another size, with other settings."""
    values = short_values(experiment)
    apply_overrides(values, [f"model.image_size={size}", *changes])
    return parse_experiment(values, str(size))


def without_weights(experiment: Experiment) -> Experiment:
    """The same model with fresh weights."""
    config = open_weights(str(experiment.model.weights)).config
    stated = {field.name: getattr(config, field.name) for field in fields(config)}
    shape = {name: value for name, value in stated.items() if name in ModelSettings.model_fields}
    values = short_values(experiment)
    values["model"] = shape | {"name": None, "in_channels": None, "resnet": None}
    values.pop("adapt", None)
    return parse_experiment(values, SCRATCH)


def trained(experiment: Experiment, seeds: list[int]) -> dict[str, Any]:
    """One training for each seed: accuracy at its end and seconds."""
    top1, seconds, pictures = [], [], 0
    for seed in seeds:
        with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            places = {"runs_dir": folder, "checkpoint_dir": folder, "seed": seed}
            start = time.perf_counter()
            result = train(experiment.model_copy(update=places))
            seconds.append(round(time.perf_counter() - start, 1))
        metrics = result.final["val"]
        assert isinstance(metrics, Metrics)
        top1.append(metrics.top1)
        pictures = metrics.num_images
    mean = float(np.mean(top1))
    interval = wilson_interval(round(mean * pictures), pictures)
    return {"top1": mean, "interval": interval, "by_seed": top1, "seconds": seconds}


def frozen(experiment: Experiment, size: int) -> dict[str, dict[str, Any]]:
    """What nearest neighbours and a linear probe achieve."""
    result = baseline(experiment, str(experiment.model.weights), image_size=size)
    outcomes = {outcome.method: outcome for outcome in result.outcomes}
    return {
        name: {"top1": outcome.score, "interval": outcome.interval}
        for name, outcome in outcomes.items()
    }


def line(size: int, name: str, row: dict[str, Any]) -> str:
    """A row of the printed table."""
    low, high = row["interval"]
    seeds = " ".join(f"{top1:.1%}" for top1 in row.get("by_seed", []))
    seconds = f"{np.mean(row['seconds']):6.0f} s" if "seconds" in row else ""
    words = f"{size:4} px  {name:<24} {row['top1']:6.1%} ({low:.1%} to {high:.1%})"
    return f"{words}  {seconds}  {seeds}".rstrip()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scratch", nargs="*", default=[], metavar="part.name=value")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments, overrides = parser.parse_known_args()
    tuned = load_experiment(arguments.experiment, overrides)
    if tuned.model.weights is None:
        raise InputError(f"{arguments.experiment} names no weights: there is nothing to compare")
    fresh = without_weights(tuned)
    figures: dict[str, Any] = {}
    for size in arguments.sizes:
        rows = frozen(tuned, size)
        rows[TUNED] = trained(of_size(tuned, size, []), arguments.seeds)
        rows[SCRATCH] = trained(of_size(fresh, size, arguments.scratch), arguments.seeds)
        for name, row in rows.items():
            print(line(size, name, row), flush=True)
        figures[str(size)] = rows
    report = {
        "weights": {
            "name": tuned.model.weights,
            "sha256": file_hash(open_weights(tuned.model.weights).located.path),
        },
        "experiment": told(tuned),
        "from_scratch": arguments.scratch,
        "seeds": arguments.seeds,
        "sizes": figures,
    }
    write_report(f"transfer-{tuned.name}", report, folder=arguments.results)


if __name__ == "__main__":
    main()
