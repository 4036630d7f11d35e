"""What a person waits for before anything happens, and what attention maps cost.

    python -m benchmarks start_up EXPERIMENT.json [part.name=value ...] [--rounds 5]
        [--model ViT-B_16]

In every round, each in a fresh process: ``vit --help``, from the start of Python to its end; ``vit
info`` on a model's .npz and ``vit train`` up to the end of its first step, both counted from where
torch and Lightning are imported, as nobody can be quicker than these. In this process, in turns:
one picture through the model, and the maps of all its layers. Medians, with the least and the most;
processor time beside the clock's, which other work on the machine changes less. Writes
``results/DATE-start_up.json``.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import RESULTS, told, write_report

from vit_lightning.attention import attention_maps
from vit_lightning.experiment import load_experiment
from vit_lightning.factory import create_model, save_model

Seconds = tuple[float, float]  # by the clock, of the processor

# Both print the seconds behind the imports, as JSON, on the last line.
_INFO = """
import json, sys, time
import torch, lightning
start = time.perf_counter(), time.process_time()
from vit_lightning.cli import main
code = main(sys.argv[1:])
print(json.dumps([time.perf_counter() - start[0], time.process_time() - start[1]]))
sys.exit(code)
"""
_TRAIN = """
import json, os, sys, time
import torch, lightning
start = time.perf_counter(), time.process_time()
from vit_lightning.cli import main
from vit_lightning.training.task import VisionTask
step = VisionTask.optimizer_step
def first_step(*arguments):
    step(*arguments)
    taken = [time.perf_counter() - start[0], time.process_time() - start[1]]
    print("\\n" + json.dumps(taken), flush=True)
    os._exit(0)
VisionTask.optimizer_step = first_step
main(sys.argv[1:])
sys.exit("no step was made")
"""


def environment() -> dict[str, str]:
    """In which Python keeps what it has compiled, as it does where nobody forbids it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def help_seconds() -> Seconds:
    """Of ``vit --help``, the start of Python included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "-c", "from vit_lightning.cli import main; main(['--help'])"]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    clock = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_behind_imports(code: str, words: list[str]) -> Seconds:
    """Of one of the programs above, with the words of a command."""
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise SystemExit(f"vit {' '.join(words)}: {done.stderr.strip()}")
    clock, processor = json.loads(done.stdout.splitlines()[-1])
    return clock, processor


def attention_seconds(name: str, rounds: int) -> dict[str, list[Seconds]]:
    """Of one picture through a model, and of its maps, in turns."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    picture = torch.rand(1, model.config.in_channels, *model.config.image_size) * 2 - 1
    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: model(picture),
        "attention maps": lambda: attention_maps(model, picture),
    }
    taken: dict[str, list[Seconds]] = {way: [] for way in ways}
    with torch.inference_mode():
        for turn in range(5 * rounds + 1):
            for way, run in ways.items():
                start = time.perf_counter(), time.process_time()
                run()
                if turn:  # the first is not counted
                    now = time.perf_counter(), time.process_time()
                    taken[way].append((now[0] - start[0], now[1] - start[1]))
    return taken


def row(name: str, taken: list[Seconds]) -> str:
    """One line of what is printed."""
    clock, processor = np.array(taken).T
    return (
        f"{name:<34} {np.median(clock):7.3f} s ({clock.min():.3f} to {clock.max():.3f})  "
        f"processor {np.median(processor):7.3f} s"
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="ViT-B_16")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments, overrides = parser.parse_known_args()
    experiment = load_experiment(arguments.experiment, overrides)  # errors before the processes
    taken: dict[str, list[Seconds]] = {"vit --help": [], "vit info": [], "first step": []}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / f"{arguments.model}.npz"
        save_model(create_model(arguments.model), weights)
        places = [f"runs_dir={folder}/runs", f"checkpoint_dir={folder}/checkpoint"]
        train = ["train", str(arguments.experiment), *overrides, *places]
        seconds_behind_imports(_TRAIN, train)  # compiles what was not yet
        for _ in range(arguments.rounds):
            taken["vit --help"].append(help_seconds())
            taken["vit info"].append(seconds_behind_imports(_INFO, ["info", str(weights)]))
            taken["first step"].append(seconds_behind_imports(_TRAIN, train))
    taken |= attention_seconds(arguments.model, arguments.rounds)
    for name, each in taken.items():
        print(row(name, each))
    clock = {name: np.array(each)[:, 0] for name, each in taken.items()}
    ratios = clock["attention maps"] / clock["forward"]
    print(f"maps over forward: {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")
    figures = {
        "experiment": told(experiment),
        "model": arguments.model,
        "seconds_by_clock_and_of_the_processor": taken,
        "maps_over_forward": float(np.median(ratios)),
    }
    write_report("start_up", figures, folder=arguments.results)


if __name__ == "__main__":
    main()
