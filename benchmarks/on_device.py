"""How fast an experiment's training batches come in: from files, kept decoded, held on the device.

    python -m benchmarks on_device EXPERIMENT.json [part.name=value ...] [--rounds 5] [--batches 20]

From pictures to mixed, normalised float32 batches where the model would be: on a GPU if there is
one, else on the CPU. Sides are processes that take turns in one run; what lies ready when a turn
begins, and a few batches more, are not counted. "files": a picture is decoded whenever it is
wanted; "kept": it is read from the cache (data.cache), which is in the system's memory; "on the
device": it is there (data.on_device), and augmented there. Processor time is of all processes, for
each picture. Writes ``results/DATE-on_device-NAME.json``.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from batch_turns import in_turns, print_table
from report import RESULTS, told, versions, write_report
from turns import GaveUpError, Process, answer, seconds_of

from vit_lightning.assemble import model_for, open_splits, preprocessing_for, train_data
from vit_lightning.data.decoded import CachedPictures, build
from vit_lightning.experiment import Experiment, load_experiment, parse_experiment, short_values
from vit_lightning.memory import keep_freed_memory
from vit_lightning.openmp import choose_waiting
from vit_lightning.training.trainer import build_trainer, quiet_lightning

SIDES = ("files", "kept", "on the device")


def side_of(experiment: Experiment, name: str, cache: str) -> Experiment:
    """The experiment as a side has it."""
    values = short_values(experiment)
    held = values["data"].get("on_device") or {}
    changes = {
        "files": {"cache": None, "on_device": None},
        "kept": {"cache": {"folder": cache}, "on_device": None},
        "on the device": {"cache": None, "on_device": held},
    }
    values["data"] |= changes[name]
    return parse_experiment(values, name)


def batches_of(experiment: Experiment) -> tuple[Iterator[Any], int, torch.device]:
    """Batches without end, how many loading processes make them, and where they are."""
    splits = open_splits(experiment)
    if isinstance(splits.train, CachedPictures):
        build(splits.train, None, lambda _: None)
    bundle = model_for(experiment, splits.classes, multi_label=splits.multi_label)
    preprocessing = preprocessing_for(experiment, bundle)
    data = train_data(experiment, splits, preprocessing, num_steps=10**7)
    data.trainer = build_trainer(experiment.trainer, precision="32")
    device = data.trainer.strategy.root_device

    def finished() -> Iterator[Any]:
        for batch in data.train_dataloader():
            result = data.finished(batch.to(device))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            yield result

    return finished(), data.workers, device


def be_side(experiment: Experiment) -> None:
    """Answer numbers of batches with wall and processor seconds."""
    keep_freed_memory()  # as a training does
    with contextlib.redirect_stdout(sys.stderr), quiet_lightning():
        batches, workers, device = batches_of(experiment)
        next(batches)
    about = {"device": str(device), "workers": str(workers)}
    answer(versions() | about, partial(seconds_of, batches, workers))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--batches", type=int, default=20, help="batches of a turn")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    experiment = load_experiment(options.experiment, overrides)
    if options.side is not None:
        be_side(side_of(experiment, options.side, options.cache))
        return
    sides = {}
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-W", "ignore", __file__, str(options.experiment), *overrides]
        environment = dict(os.environ)
        choose_waiting(environment)  # as for vit
        for name in SIDES:
            try:
                words = [*command, "--cache", cache, "--side", name]
                sides[name] = Process(words, environment=environment)
            except GaveUpError:
                print(f"{name}: left out, as it said above", file=sys.stderr)
        rows = in_turns(sides, options.rounds, options.batches, experiment.data.batch_size)
        known = {name: side.versions for name, side in sides.items()}
        for side in sides.values():
            side.close()
    print_table("training batches", rows)
    figures = {"experiment": told(experiment), "side_versions": known, "sides": rows}
    write_report(f"on_device-{experiment.name}", figures, folder=options.results)


if __name__ == "__main__":
    main()
