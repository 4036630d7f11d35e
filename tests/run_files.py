"""Reading what a run left behind."""

import csv
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vit_lightning.factory import load_model


def read_rows(run: Path, column: str) -> dict[int, float]:
    """Step → value in metrics.csv; every step at most once."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[column]]
    values = {int(row["step"]): float(row[column]) for row in rows}
    assert len(values) == len(rows)
    return values


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_model(checkpoint).state_dict()


def read_events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events
