"""How fast a model computes, beside the same model of other libraries in the same run.

    python -m benchmarks models [--model ViT-B_16] [--batches 1 8 32] [--precision fp32]
        [--mode inference] [--sides vit-lightning timm ...]
    python -m benchmarks models --device cuda --precision bf16 --compile [--minutes 7]

Every side is a process of its own, as torch and its library run it by default; in training ours is
as ``vit train`` runs it. "timm, onnxruntime" is timm's model, exported and run by that engine, and
"vit-lightning, onnxruntime" ours, exported by ``vit export``. They take turns on the same pictures,
with the same weights where their library has a way to read them, and are compared step by step:
medians of ratios, and where 80 % of them lie. The limit, measured in the same turns, is the time of
the model's dense layers at the best rate that torch reaches by any of its ways, each run alone. MB
is the most memory that a side takes in its steps beside what it holds before the first. In training
ours runs a second time with ``activation_checkpointing=selective``. With ``--compile`` every side
on torch runs a second time through ``torch.compile``. Prints tables, and writes
``results/DATE-models-...json`` beside this file for each model and mode, with a chart. What is not
installed, and what gives up, is left out, and the results say so.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chart import write_chart
from model_side import CONFIG, INFERENCE_ONLY, PACKAGES, SHARES_WEIGHTS, WEIGHTS
from report import RESULTS, write_report
from turns import GaveUpError, Process

from vit_lightning.convert import convert_model
from vit_lightning.export import export_onnx
from vit_lightning.factory import create_model, load_bundle, save_model
from vit_lightning.json_file import read_json
from vit_lightning.machine_limits import matrix_limit, measured_limits
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.presets import preset
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.openmp import choose_waiting

OWN = "vit-lightning"
LIMIT = "limit"
COMPILED = ", compiled"
SELECTIVE = f"{OWN}, selective"  # the same with trainer.activation_checkpointing=selective
PAUSE = 0.2  # seconds, in which the threads of the side before stop to wait for more work
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# What is measured unless told otherwise.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"model": ["ViT-B_16"], "mode": ["inference"], "batches": [1, 8, 32]}
    | {"rounds": 7, "steps": 3},
    "cuda": {"model": ["ViT-B_16", "ViT-L_16"], "mode": ["inference", "training"], "batches": [64]}
    | {"rounds": 5, "steps": 10},
}


def write_weights(model: VisionTransformer, folder: Path, sides: list[str]) -> None:
    """The model as each side reads it."""
    (folder / CONFIG).write_text(json.dumps(model.config.to_dict()), encoding="utf-8")
    own = folder / WEIGHTS[OWN]
    save_model(model, own)
    bundle = load_bundle(own)
    for side, layout in {
        "timm": "timm",
        "transformers": "huggingface",
        "torchvision": "torchvision",
    }.items():
        if any(name.startswith(side) for name in sides):
            convert_model(bundle, folder / WEIGHTS[side], to=layout)  # type: ignore[arg-type]
    for name in INFERENCE_ONLY & set(sides):
        target = folder / WEIGHTS[name]
        if target.exists():
            continue
        if name.startswith(OWN):
            export_onnx(bundle, target)
        else:
            script = Path(__file__).with_name("timm_export.py")
            # If it fails, the sides that read it do not start, and are left out.
            subprocess.run([sys.executable, "-W", "ignore", script, folder], check=False)


def start(
    names: list[str], folder: Path, mode: str, options: argparse.Namespace
) -> dict[str, Process]:
    """A process for each side, and for each on torch one more that compiles, if that is wanted.

    Training, ours has one more, which keeps less for the backward pass, and runs in the environment
    that ``vit`` makes.
    """
    script = str(Path(__file__).with_name("model_side.py"))
    sides = {}
    for name in names:
        words = [name, str(folder), options.precision, mode, options.device]
        command = [sys.executable, "-W", "ignore", script, *words]
        environment = dict(os.environ)
        if name == OWN and mode == "training":
            choose_waiting(environment)
        begin = partial(Process, wait=False, environment=environment)
        sides[name] = begin(command)
        if options.compile and name not in INFERENCE_ONLY:
            sides[name + COMPILED] = begin([*command, "--compile"])
        if name == OWN and mode == "training":
            sides[SELECTIVE] = begin([*command, "--selective"])
    return sides


def lost(sides: dict[str, Process], batch: int | None = None) -> list[str]:
    """Which sides give up when they start, or compute so many pictures for the first time.

    First calls are slow; those that compile, which takes minutes, do it at the same time.
    """
    gone = []

    def wait(name: str) -> None:
        try:
            _ = sides[name].versions if batch is None else sides[name].receive()
        except GaveUpError:
            gone.append(name)

    compiling = [name for name in sides if name.endswith(COMPILED)]
    for name in sides:
        if batch is not None:
            sides[name].send([batch, 2])
        if name not in compiling:
            wait(name)
    for name in compiling:
        wait(name)
    if OWN in gone:
        raise GaveUpError("our own side gave up; what it said stands above")
    return gone


def in_turns(
    sides: dict[str, Process], limit: Callable[[], float], batch: int, rounds: int, steps: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of a step, the ratio of each side's to ours, and the share of the limit."""
    spent: dict[str, list[float]] = {name: [] for name in (LIMIT, *sides)}
    for _ in range(rounds):
        time.sleep(PAUSE)
        spent[LIMIT].append(limit())
        for name, process in sides.items():
            time.sleep(PAUSE)
            spent[name].append(float(np.median(process.ask([batch, steps]))))
    own, best = np.array(spent[OWN]), np.array(spent[LIMIT])
    return {
        name: {
            "ms": round(1e3 * float(np.median(seconds)), 2),
            "ours_is_times_faster": round(float(np.median(seconds / own)), 3),
            "spread": [round(float(q), 3) for q in np.quantile(seconds / own, (0.1, 0.9))],
            "of_the_limit": round(float(np.median(best / seconds)), 3),
        }
        for name, seconds in ((name, np.array(turns)) for name, turns in spent.items())
    }


def agreement(sides: dict[str, Process]) -> dict[str, float]:
    """The largest difference of a side's logits from ours, over the largest logit."""
    own = np.array(sides[OWN].ask([2]))
    shared = [name for name in sides if name in SHARES_WEIGHTS]
    return {
        name: float(np.abs(np.array(sides[name].ask([2])) - own).max() / np.abs(own).max())
        for name in shared
    }


def best_seconds(
    config: ViTConfig, batch: int, precision: str, mode: str, device: str = "cpu"
) -> float:
    """What the matrix products of a step take at the best rate of each."""
    return matrix_limit(config, batch, DTYPES[precision], 3, device).seconds(mode)


def print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """One batch size."""
    columns = f"{'ms':>10s}{'ours is':>10s}{'80 %':>18s}{'of the limit':>14s}{'MB':>8s}"
    print(f"\n{title}\n{'':28s}{columns}")
    for name, row in rows.items():
        low, high = row["spread"]
        print(
            f"{name:28s}{row['ms']:10.2f}{row['ours_is_times_faster']:9.2f}×"
            f"{low:9.2f} to {high:4.2f}{row['of_the_limit']:13.0%}{row.get('peak_mb', ''):>8}",
            flush=True,
        )


def measure(
    title: str, model: VisionTransformer, folder: Path, mode: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The figures of one model in one mode; ``folder`` holds its weights."""
    names, given_up = chosen_sides(options, mode)
    sides = start(names, folder, mode, options)

    def leave_out(gone: list[str], why: str) -> None:
        for name in gone:
            sides.pop(name).close()
            given_up[name] = why

    leave_out(lost(sides), "does not start")
    versions = {name: process.versions for name, process in sides.items()}
    differences = agreement(sides) if mode == "inference" else {}
    results = []
    for batch in options.batches:
        before = {name: process.ask([]) and process.ask([])[0] for name, process in sides.items()}
        leave_out(lost(sides, batch), f"gave up at batch {batch}")
        limit = partial(best_seconds, model.config, batch, options.precision, mode, options.device)
        rows = in_turns(sides, limit, batch, options.rounds, options.steps)
        for name, process in sides.items():
            rows[name]["peak_mb"] = round((process.ask([])[0] - before[name]) / 1e6)
        print_table(f"{title}, {mode}, {options.precision}, batch {batch}", rows)
        results.append({"batch": batch, "sides": rows})
    for process in sides.values():
        process.close()
    for name, why in given_up.items():
        print(f"{name:28s}left out: {why}")
    if differences:
        print("\nlargest difference of logits from ours, over the largest logit:")
        print("\n".join(f"{name:28s}{value:.1e}" for name, value in differences.items()))
    return {
        "model": title,
        "image_size": model.config.image_size[0],
        "precision": options.precision,
        "mode": mode,
        "device": options.device,
        "side_versions": versions,
        "left_out": given_up,
        "agreement": differences,
        "batches": results,
    }


def chosen_sides(options: argparse.Namespace, mode: str) -> tuple[list[str], dict[str, str]]:
    """Sides that can run here in this mode, ours first, and why the others cannot."""
    reasons = {}
    for name in options.sides:
        library = name.partition(", ")[0]  # whose model it is
        needed = {PACKAGES[name], PACKAGES[library]}
        if name in INFERENCE_ONLY:
            needed |= {"onnx", "onnxscript", *(("onnxruntime",) if library == OWN else ())}
        if any(importlib.util.find_spec(one.replace("-", "_")) is None for one in needed):
            reasons[name] = "not installed"
        elif name in INFERENCE_ONLY and (mode != "inference" or options.device != "cpu"):
            reasons[name] = "run here for inference on a CPU alone"
        elif name.endswith("onnxruntime") and options.precision != "fp32":
            reasons[name] = "computes an exported model in its own float32"
    return [OWN, *(name for name in options.sides if name not in {OWN, *reasons})], reasons


def configuration(name: str, size: int | None) -> ViTConfig:
    """Of a preset, or of a JSON file with the fields of ``ViTConfig``; with others' GELU."""
    path = Path(name)
    config = ViTConfig.from_dict(read_json(path)) if path.suffix == ".json" else preset(name)
    # The activation of most libraries is exact, the original's an approximation by tanh; some of
    # the original's models drop a tenth of the values, which the other libraries do not.
    return config.replace(activation="gelu", dropout=0.0, image_size=size or config.image_size)


def arguments() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=list(DEFAULTS), default="cpu")
    parser.add_argument("--model", nargs="+", help="presets, or files of a configuration (.json)")
    parser.add_argument("--size", type=int, help="pixels of a side (default: the model's)")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    parser.add_argument("--mode", nargs="+", choices=["inference", "training"])
    parser.add_argument("--compile", action="store_true", help="through torch.compile too")
    parser.add_argument("--sides", nargs="+", choices=list(PACKAGES), default=list(PACKAGES))
    parser.add_argument("--rounds", type=int, help="turns of each side")
    parser.add_argument("--steps", type=int, help="steps of a turn")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so many")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args()
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU here")
    return options


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    started = time.monotonic()
    for name in options.model:
        torch.manual_seed(0)
        model = create_model(configuration(name, options.size)).eval()
        for parameter in model.head.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        title = Path(name).stem
        limits = measured_limits(model.config, options.batches[0], options.device)
        with tempfile.TemporaryDirectory() as folder:
            sides = {side for mode in options.mode for side in chosen_sides(options, mode)[0]}
            write_weights(model, Path(folder), sorted(sides))
            for mode in options.mode:
                if options.minutes and time.monotonic() - started > 60 * options.minutes:
                    print(f"{title}, {mode}: not begun after {options.minutes:g} minutes")
                    continue
                figures = measure(title, model, Path(folder), mode, options)
                words = ["models", title, mode, options.precision]
                words += [options.device] if options.device != "cpu" else []
                path = write_report("-".join(words), figures, limits, options.results)
                print(f"chart in {write_chart(path)}", flush=True)


if __name__ == "__main__":
    main()
