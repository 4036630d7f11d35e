"""What each part of a training recipe adds, on a short schedule.

    python -m benchmarks recipe EXPERIMENT.json VARIANTS.json [part.name=value ...]

Trains an experiment as it is (with the settings on the command line, such as
``trainer.max_epochs=1``) and once for each variant, a name and a list of settings in a JSON file:
``{"without smoothing": ["optim.label_smoothing=0"]}``. All start from the same seed. What is told
is the accuracy on val at the end of each, with its interval (Wilson, 95 %) and the images a second.
Writes ``results/DATE-recipe-NAME.json`` after every training, and leaves out what is in it already,
so that it may be stopped and started again.
"""

import argparse
import contextlib
import datetime
import io
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import RESULTS, machine, told, versions

from vit_lightning.evaluation.metrics import Metrics
from vit_lightning.experiment import load_experiment
from vit_lightning.json_file import read_json, write_json
from vit_lightning.run import train

AS_IT_IS = "as it is"


def outcome(path: Path, overrides: list[str]) -> dict[str, Any]:
    """One training: its end, and its speed."""
    experiment = load_experiment(path, overrides)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        places = {"runs_dir": folder, "checkpoint_dir": folder, "loggers": ()}
        start = time.perf_counter()
        result = train(experiment.model_copy(update=places))
        seconds = time.perf_counter() - start
    metrics = result.final["val"]
    assert isinstance(metrics, Metrics)
    images = result.final_step * experiment.data.batch_size
    return {
        "top1": metrics.top1,
        "interval": metrics.top1_interval,
        "loss": metrics.loss,
        "steps": result.final_step,
        "seconds": round(seconds),
        "images_per_second": round(images / seconds, 1),
    }


def trained_before(path: Path, experiment: dict[str, Any]) -> dict[str, Any]:
    """The trainings that a file holds, if they are of the same experiment."""
    if not path.exists():
        return {}
    kept: dict[str, Any] = read_json(path)
    return kept["trainings"] if kept["experiment"] == experiment else {}


def main() -> None:
    """Train one after the other, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("variants", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments, overrides = parser.parse_known_args()
    variants: dict[str, list[str]] = {AS_IT_IS: []} | read_json(arguments.variants)
    for changes in variants.values():
        load_experiment(arguments.experiment, [*overrides, *changes])  # errors before the hours
    base = load_experiment(arguments.experiment, overrides)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = arguments.results / f"{date}-recipe-{base.name}.json"
    done = trained_before(path, told(base))
    for variant, changes in variants.items():
        if done.get(variant, {}).get("changes") != changes:
            result = outcome(arguments.experiment, [*overrides, *changes])
            done[variant] = {"changes": changes} | result
            about = {"date": date, "machine": machine(), "versions": versions()}
            write_json(path, about | {"experiment": told(base), "trainings": done})
        row = done[variant]
        low, high = row["interval"]
        difference = row["top1"] - done[AS_IT_IS]["top1"]
        print(
            f"{variant:<32} {row['top1']:6.2%} ({low:.2%} to {high:.2%}) {difference:+7.2%}  "
            f"{row['images_per_second']:7.1f} images/s",
            flush=True,
        )
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
