"""What every benchmark writes beside its figures: date, command, machine, versions."""

import datetime
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "load": [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def versions(*others: str) -> dict[str, str]:
    """Of Python, this package, torch, numpy, Pillow and other distributions."""
    names = ("vit-lightning", "torch", "numpy", "pillow", *others)
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def write_report(name: str, figures: dict[str, Any]) -> None:
    """Write ``results/DATE-name.json`` beside this file, and say so."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    report = {
        "date": date,
        # Paths as their last part: where they lie is of no interest to others.
        "command": " ".join(["python", *(Path(word).name for word in sys.argv)]),
        "machine": machine(),
        "versions": versions(),
    }
    path = Path(__file__).with_name("results") / f"{date}-{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report | figures, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")
