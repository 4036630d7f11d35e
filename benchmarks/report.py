"""What every benchmark writes beside its figures: date, command, machine, versions."""

import datetime
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vit_lightning
from vit_lightning.experiment import Experiment, short_values
from vit_lightning.hardware import describe_hardware
from vit_lightning.json_file import write_json
from vit_lightning.machine_limits import measured_limits
from vit_lightning.models.presets import preset

RESULTS = Path(__file__).with_name("results")


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    load = [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else []
    return describe_hardware() | {"load": load}


def versions(*others: str) -> dict[str, str]:
    """Of Python, this package, torch, numpy, Pillow and other distributions."""
    names = ("torch", "numpy", "pillow", *others)
    own = {"python": platform.python_version(), "vit-lightning": vit_lightning.__version__}
    return own | {name: version(name) for name in names}


def told(experiment: Experiment) -> dict[str, Any]:
    """The settings of an experiment; where its pictures lie is of no interest to others."""
    values = short_values(experiment)
    for name in ("description", "expected", "runs_dir", "checkpoint_dir"):
        values.pop(name, None)
    if "root" in values["data"]:
        values["data"]["root"] = Path(values["data"]["root"]).name
    return values


def write_report(
    name: str,
    figures: dict[str, Any],
    limits: dict[str, Any] | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Write ``results/DATE-name.json``, and say so.

    Args:
        name: of the benchmark and of what it was run on.
        figures: its own.
        limits: of the machine; by default they are measured, on products of ViT-B/16's shapes.
        folder: to write to.

    Returns:
        The file.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        # Paths as their last part: where they lie is of no interest to others.
        "command": " ".join(["python", *(Path(word).name for word in sys.argv)]),
        "machine": machine(),
        "versions": versions(),
        "limits": limits or measured_limits(preset("ViT-B_16"), batch=1),
    }
    path = folder / f"{date}-{name}.json"
    write_json(path, report | figures)
    print(f"\nwritten to {path}")
    return path
