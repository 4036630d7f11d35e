"""Measure a model on this machine: its speed, the limit, the parts, and what would be faster."""

import platform
import sys
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from vit_lightning import __version__
from vit_lightning.bench.parts import seconds_of_parts
from vit_lightning.bench.steps import DTYPES, Steps, said_plainly
from vit_lightning.bench.trials import BATCHES, Trial, trials
from vit_lightning.bench.turns import LIMIT, in_turns
from vit_lightning.errors import InputError
from vit_lightning.factory import create_model, load_model
from vit_lightning.hardware import describe_hardware
from vit_lightning.machine_limits import matrix_limit, memory_bandwidth
from vit_lightning.memory import keep_freed_memory
from vit_lightning.models.presets import preset_name
from vit_lightning.models.vit import VisionTransformer

DEFAULT_MODEL = "ViT-B_16"

_NOW = "now"
_PART_STEPS = 2


@dataclass(frozen=True)
class Request:
    """What shall be measured.

    Args:
        model: a preset's name; None for the default one, or with ``weights``.
        weights: as for :func:`vit_lightning.load_model`; None for fresh ones.
        image_size: pixels of a side; None for the model's own.
        batch: pictures of a step; None for what suits the device.
        mode: ``inference`` or ``training``.
        precision: ``32`` or ``bf16-mixed``; None for what suits the device.
    """

    model: str | None = None
    weights: str | None = None
    image_size: int | None = None
    batch: int | None = None
    mode: str = "inference"
    precision: str | None = None


def bench(request: Request) -> dict[str, Any]:
    """Measure; tells on stderr what it is at.

    Returns:
        Plain JSON types: ``model``, ``image_size``, ``batch``, ``mode``, ``precision``,
        ``linear`` (what computes the dense layers), ``device``, ``hardware``, ``versions``;
        ``images_a_second`` and ``milliseconds_a_picture`` (each the median over the turns, the
        slowest and the fastest); ``limit``; ``of_the_limit``; ``parts`` (shares of a step's time
        that sum to 1); ``trials`` (of each change how many times as many pictures a second it
        gives).

    Raises:
        InputError: no such model or weights, a size or batch that cannot be, too little memory.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = BATCHES[device] if request.batch is None else request.batch
    if batch < 1:
        raise InputError(f"--batch: at least one picture, got {batch}")
    with_units = device == "cuda" and torch.cuda.is_bf16_supported(False)
    precision = request.precision or ("bf16-mixed" if with_units else "32")
    torch.manual_seed(0)
    if device == "cpu":
        keep_freed_memory()  # as every run does
    with said_plainly(batch, device):
        model = _model(request).to(device)
        steps = Steps(model, request.mode, device)
        _progress("what computes the dense layers fastest")
        backend = steps.backend(precision)
        with steps.trained_by(backend):
            measured = _measure(steps, batch, precision)
        _progress("")
    return {
        "model": request.weights or request.model or DEFAULT_MODEL,
        "image_size": list(model.config.image_size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "batch": batch,
        "mode": request.mode,
        "precision": precision,
        "linear": backend,
        "device": device,
        "hardware": describe_hardware(),
        "versions": {
            "vit-lightning": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **measured,
    }


def _model(request: Request) -> VisionTransformer:
    if request.weights is not None:
        _progress("reading the weights")
        return load_model(request.weights, request.image_size)
    name = preset_name(request.model or DEFAULT_MODEL)
    _progress("making the model")
    return create_model(name, image_size=request.image_size)


def _measure(steps: Steps, batch: int, precision: str) -> dict[str, Any]:
    """All that is timed."""
    config, device = steps.model.config, steps.device
    network, now = steps.network(precision), steps.of(batch, precision)
    _progress("what can be changed here")
    changes, hopeless = trials(steps, batch, precision)
    _progress(f"{steps.mode} in turns: {', '.join([_NOW, *(trial.what for trial in changes)])}")
    runs = {_NOW: partial(now, None)} | {trial.what: trial.run for trial in changes}
    limits = []

    def limit() -> float:
        limits.append(matrix_limit(config, batch, DTYPES[precision], repeats=1, device=device))
        return limits[-1].seconds(steps.mode)

    turns = in_turns(runs, limit, device)
    _progress("where the time goes")
    parts = [seconds_of_parts(network, now, device) for _ in range(_PART_STEPS)]
    total = sum(sum(seconds.values()) for seconds in parts)
    best = max(limits, key=lambda measured: measured.rate)
    return {
        **_speed(turns[_NOW], batch),
        "limit": {
            "matrix": best.to_dict(),
            "memory_gb_a_second": round(memory_bandwidth(3, device) / 1e9, 1),
        },
        "of_the_limit": round(_ratio(turns[LIMIT], turns[_NOW])[0], 3),
        "parts": {
            part: round(sum(seconds[part] for seconds in parts) / total, 4) for part in parts[0]
        },
        "trials": [
            *(_outcome(trial, turns, batch) for trial in changes),
            *({"what": what, "times": round(times, 2)} for what, times in hopeless.items()),
        ],
    }


def _speed(seconds: list[float], batch: int) -> dict[str, Any]:
    """The median, and in brackets of the list behind it the slowest and the fastest."""
    slowest_first = sorted(seconds, reverse=True)
    chosen = [median(seconds), slowest_first[0], slowest_first[-1]]
    return {
        "turns": len(seconds),
        "images_a_second": [round(batch / value, 2) for value in chosen],
        "milliseconds_a_picture": [round(1e3 * value / batch, 2) for value in chosen],
    }


def _outcome(trial: Trial, turns: dict[str, list[float]], batch: int) -> dict[str, Any]:
    times, low, high = _ratio(turns[_NOW], turns[trial.what])
    factor = trial.batch / batch
    return {
        "what": trial.what,
        "how": trial.how,
        "batch": trial.batch,
        "times": round(times * factor, 2),
        "spread": [round(low * factor, 2), round(high * factor, 2)],
    }


def _ratio(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Turn by turn: the median, and between what 80 % of the turns lie."""
    low, middle, high = np.quantile(np.divide(one, other), (0.1, 0.5, 0.9))
    return float(middle), float(low), float(high)


def _progress(text: str) -> None:
    """Tell on stderr what is being measured; on a terminal in one line, which "" takes away."""
    if sys.stderr.isatty():
        line = f"measuring: {text} ..." if text else ""
        print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
    elif text:
        print(f"measuring: {text}", file=sys.stderr, flush=True)
