"""How long commands take from their start to their end, beside other libraries' ways.

    python -m benchmarks commands --pictures FOLDER [--model ViT-S_16] [--rounds 5]
        [--vit .venv/bin/vit] [--commands predict train] [--few 32] [--many 160]
        [--batch 8] [--few-steps 5] [--many-steps 30]

``vit predict`` on a folder beside timm's model and loader and the pipeline of transformers, and
``vit train`` beside timm's model, loader and optimizer in a loop: same weights, same photographs,
every run a process of its own, in turns. Each runs with few pictures or steps and with many: the
difference, over the difference of their numbers, is what a picture or a step takes; what is left
of the shorter run is the start. FOLDER has a folder of photographs (``.jpg``) for each class.
Where torchvision stands beside a torch for the CPU, Lightning cannot be imported: ``--vit`` is then
the command of another environment. Prints tables, and writes
``results/DATE-commands-MODEL.json``.
"""

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import RESULTS, versions, write_report

from vit_lightning.convert import Target, convert_model
from vit_lightning.factory import create_model, load_bundle, save_model
from vit_lightning.models.presets import preset

OWN = "vit-lightning"
PEERS: dict[str, Target] = {"timm": "timm", "transformers": "huggingface"}
SIDE = Path(__file__).with_name("command_side.py")
COMMANDS = ["predict", "train"]
CLASSES = 100
MODERN = {
    "mode": "modern",
    "in_channels": 3,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "crop_fraction": 1.0,
}

Run = Callable[[int], dict[str, Any]]


def write_weights(name: str, folder: Path, sides: list[str]) -> None:
    """A model with a random head, as each side reads it."""
    torch.manual_seed(0)
    config = preset(name).replace(activation="gelu", dropout=0.0, num_classes=CLASSES)
    model = create_model(config)
    torch.nn.init.normal_(model.head.weight, std=0.5)
    view = MODERN | {"image_size": list(config.image_size)}
    names = [f"class {number}" for number in range(CLASSES)]
    save_model(model, folder / "ours.safetensors", names, view)
    bundle = load_bundle(folder / "ours.safetensors")
    for side in sides:
        convert_model(bundle, folder / side, PEERS[side])


def chosen(pictures: Path, count: int, folder: Path) -> Path:
    """A folder of so many of the photographs, of all classes in turns."""
    by_class = [sorted(each.glob("*.jpg")) for each in sorted(pictures.iterdir()) if each.is_dir()]
    mixed = [path for path in chain.from_iterable(zip_longest(*by_class)) if path]
    if len(mixed) < count:
        raise SystemExit(f"{pictures} has {len(mixed)} photographs; {count} are wanted")
    folder.mkdir()
    for path in mixed[:count]:
        (folder / path.name).symlink_to(path.resolve())
    return folder


def seconds(command: list[str | Path]) -> float:
    """Of a process, which has to succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return time.perf_counter() - start


def predicting(side: str, work: Path, folders: dict[int, Path], vit: Path) -> Run:
    """A prediction on a number of pictures: seconds, and the class of each."""

    def run(count: int) -> dict[str, Any]:
        output = work / f"{side}.out"
        if side == OWN:
            words = ["--weights", work / "ours.safetensors", "--csv", output]
            taken = seconds([vit, "predict", folders[count], *words])
            with output.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            found = {Path(row["picture"]).name: int(row["class_1"].split()[1]) for row in rows}
        else:
            words = ["predict", side, work / side, folders[count], output]
            taken = seconds([sys.executable, "-W", "ignore", SIDE, *words])
            found = json.loads(output.read_text(encoding="utf-8"))
        return {"seconds": taken, "classes": found}

    return run


def training(side: str, work: Path, pictures: Path, batch: int, vit: Path) -> Run:
    """A training of a number of steps."""

    def run(steps: int) -> dict[str, Any]:
        if side == "timm":
            words = ["train", side, work / side, pictures, str(steps), str(batch)]
            return {"seconds": seconds([sys.executable, "-W", "ignore", SIDE, *words])}
        values = {
            "name": "commands",
            "model": {"name": None, "weights": str(work / "ours.safetensors")},
            "data": {"name": "folder", "root": str(pictures), "val_fraction": 0.1}
            | {"batch_size": batch},
            "optim": {"lr": 1e-3},
            "trainer": {"max_steps": steps, "val_every_steps": steps},
            "runs_dir": str(work / "runs"),
            "checkpoint_dir": str(work / "checkpoint"),
        }
        path = work / "experiment.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return {"seconds": seconds([vit, "train", path])}

    return run


def in_turns(runs: dict[str, Run], few: int, many: int, rounds: int) -> dict[str, dict[str, Any]]:
    """What each takes to start and for a unit, in medians, and the ratios to ours."""
    units: dict[str, list[float]] = {name: [] for name in runs}
    starts: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            short, long = run(few)["seconds"], run(many)["seconds"]
            units[name].append((long - short) / (many - few))
            starts[name].append(short - few * units[name][-1])
    own, own_start = np.array(units[OWN]), np.array(starts[OWN])
    return {
        name: {
            "ms": round(1e3 * float(np.median(units[name])), 2),
            "ours_is_times_faster": round(float(np.median(units[name] / own)), 3),
            "spread": [round(float(q), 3) for q in np.quantile(units[name] / own, (0.1, 0.9))],
            "start_seconds": round(float(np.median(starts[name])), 2),
            "start_times_faster": round(float(np.median(starts[name] / own_start)), 3),
        }
        for name in runs
    }


def print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """What was measured of one command."""
    print(f"\n{title}\n{'':18s}{'ms':>9s}{'ours is':>9s}{'80 %':>16s}{'start':>9s}{'ours is':>9s}")
    for name, row in rows.items():
        low, high = row["spread"]
        unit = f"{row['ms']:9.2f}{row['ours_is_times_faster']:8.2f}×{low:8.2f} to {high:4.2f}"
        start = f"{row['start_seconds']:7.2f} s{row['start_times_faster']:8.2f}×"
        print(f"{name:18s}{unit}{start}", flush=True)


def measure_predict(options: argparse.Namespace, work: Path, sides: list[str]) -> dict[str, Any]:
    """``vit predict`` and the others, and whether they name the same classes."""
    counts = (options.few, options.many)
    folders = {count: chosen(options.pictures, count, work / str(count)) for count in counts}
    runs = {side: predicting(side, work, folders, options.vit) for side in sides}
    found = {side: run(options.few)["classes"] for side, run in runs.items()}
    agree = {
        side: float(np.mean([classes[name] == found[OWN][name] for name in found[OWN]]))
        for side, classes in found.items()
    }
    rows = in_turns(runs, *counts, options.rounds)
    print_table(f"vit predict, {options.model}, a picture", rows)
    print(f"the same class as ours: {agree}")
    return {"predict": rows, "same_class": agree}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--model", default="ViT-S_16")
    parser.add_argument("--sides", nargs="*", choices=list(PEERS), default=list(PEERS))
    numbers = {"rounds": 5, "few": 32, "many": 160, "batch": 8, "few-steps": 5, "many-steps": 30}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    beside = Path(sys.executable).with_name("vit")
    parser.add_argument("--vit", type=Path, default=beside, help="ours, of any environment")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args()
    sides = [side for side in options.sides if importlib.util.find_spec(side) is not None]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_weights(options.model, work, sides)
        if "predict" in options.commands:
            figures |= measure_predict(options, work, [OWN, *sides])
        if "train" in options.commands:
            train = partial(
                training,
                work=work,
                pictures=options.pictures,
                batch=options.batch,
                vit=options.vit,
            )
            runs = {side: train(side) for side in [OWN, *sides] if side != "transformers"}
            rows = in_turns(runs, options.few_steps, options.many_steps, options.rounds)
            print_table(f"vit train, {options.model}, a step of {options.batch}", rows)
            figures["train"] = rows
    about = {
        "model": options.model,
        "sizes": {name: getattr(options, name.replace("-", "_")) for name in numbers},
    }
    report = about | figures | {"versions": versions(*sides)}
    write_report(f"commands-{options.model}", report, folder=options.results)


if __name__ == "__main__":
    main()
