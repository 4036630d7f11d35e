"""How fast a model computes, beside the same model of other libraries in the same run.

    python -m benchmarks models [--model ViT-B_16] [--batches 1 8 32] [--precision fp32]
        [--mode inference] [--sides vit-lightning timm ...]

Every side is a process of its own; they take turns on the same pictures, with the same weights
where their library has a way to read them, and are compared step by step: medians of ratios, and
where 80 % of them lie. The limit, measured in the same turns, is the time of the model's dense
layers at the best rate that torch reaches by any of its ways, each run alone. Prints tables, and
writes ``results/DATE-models-...json`` beside this file. What is not installed is left out.
"""

import argparse
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_side import CLASSES, INFERENCE_ONLY, PACKAGES, SHARES_WEIGHTS, WEIGHTS
from report import write_report
from turns import Process

from vit_lightning.convert import convert_model
from vit_lightning.factory import create_model, load_bundle, save_model
from vit_lightning.machine_limits import matrix_rate, matrix_shapes, memory_bandwidth
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer

TRAINING = 3  # a backward pass costs two forward ones
OWN = "vit-lightning"
LIMIT = "limit"


def write_weights(model: VisionTransformer, folder: Path, sides: list[str]) -> None:
    """The model as each side reads it."""
    own = folder / WEIGHTS[OWN]
    save_model(model, own)
    bundle = load_bundle(own)
    for side, target in {
        "timm": "timm",
        "transformers": "huggingface",
        "torchvision": "torchvision",
    }.items():
        if side in sides:
            convert_model(bundle, folder / WEIGHTS[side], to=target)  # type: ignore[arg-type]
    if INFERENCE_ONLY & set(sides):
        pictures = torch.rand(2, 3, *model.config.image_size)
        batch = torch.export.Dim("batch", min=1, max=1024)
        torch.onnx.export(
            model,
            (pictures,),
            str(folder / WEIGHTS["onnxruntime"]),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            verbose=False,
        )


def in_turns(
    sides: dict[str, Process], limit: Callable[[], float], batch: int, rounds: int, steps: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of a step, the ratio of each side's to ours, and the share of the limit."""
    spent: dict[str, list[float]] = {name: [] for name in (LIMIT, *sides)}
    for process in sides.values():
        process.ask([batch, 2])  # first calls are slow
    for _ in range(rounds):
        spent[LIMIT].append(limit())
        for name, process in sides.items():
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


def best_seconds(config: ViTConfig, batch: int, precision: str, mode: str) -> float:
    """What the matrix products of a step take at the best rate of each."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    shapes = matrix_shapes(config, batch)
    rates = matrix_rate(shapes, dtype, repeats=3)
    times = TRAINING if mode == "training" else 1
    return sum(
        2 * times * count * math.prod(shape) / rates[shape][1] for shape, count in shapes.items()
    )


def print_table(batch: int, rows: dict[str, dict[str, Any]]) -> None:
    """One batch size."""
    print(f"\nbatch {batch}\n{'':16s}{'ms':>10s}{'ours is':>10s}{'80 %':>18s}{'of the limit':>14s}")
    for name, row in rows.items():
        low, high = row["spread"]
        print(
            f"{name:16s}{row['ms']:10.1f}{row['ours_is_times_faster']:9.2f}×"
            f"{low:9.2f} to {high:4.2f}{row['of_the_limit']:13.0%}"
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B_16", help="a preset")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--mode", choices=["inference", "training"], default="inference")
    parser.add_argument("--sides", nargs="+", choices=list(PACKAGES), default=list(PACKAGES))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    options = parser.parse_args()
    names = [OWN, *(name for name in options.sides if name != OWN and is_there(name))]
    if options.mode == "training":
        names = [name for name in names if name not in INFERENCE_ONLY]
    torch.manual_seed(0)
    # The activation of most libraries; the original's is its approximation by tanh.
    model = create_model(
        options.model, num_classes=CLASSES, image_size=options.size, activation="gelu"
    ).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    results, sides = [], {}
    with tempfile.TemporaryDirectory() as folder:
        write_weights(model, Path(folder), names)
        words = [options.model, str(options.size), options.precision, options.mode]
        script = str(Path(__file__).with_name("model_side.py"))
        for name in names:
            command = [sys.executable, "-W", "ignore", script, name, folder, *words]
            sides[name] = Process(command)
        differences = agreement(sides) if options.mode == "inference" else {}
        for batch in options.batches:
            limit = partial(best_seconds, model.config, batch, options.precision, options.mode)
            rows = in_turns(sides, limit, batch, options.rounds, options.steps)
            print_table(batch, rows)
            results.append({"batch": batch, "sides": rows})
        for process in sides.values():
            process.close()
    if differences:
        print("\nlargest difference of logits from ours, over the largest logit:")
        print("\n".join(f"{name:16s}{value:.1e}" for name, value in differences.items()))
    figures = {
        "model": options.model,
        "image_size": options.size,
        "precision": options.precision,
        "mode": options.mode,
        "memory_gb_a_second": round(memory_bandwidth() / 1e9, 1),
        "side_versions": {name: process.versions for name, process in sides.items()},
        "agreement": differences,
        "batches": results,
    }
    write_report(f"models-{options.model}-{options.mode}-{options.precision}", figures)


def is_there(side: str) -> bool:
    """Whether a side's library is installed."""
    return importlib.util.find_spec(PACKAGES[side].replace("-", "_")) is not None


if __name__ == "__main__":
    main()
