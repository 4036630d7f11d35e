"""Sides that make batches, measured in turns: pictures a second and processor time of each."""

from typing import Any

import numpy as np
from turns import Process


def in_turns(sides: dict[str, Process], rounds: int, batches: int, size: int) -> dict[str, Any]:
    """For every side pictures a second, and of wall and processor time the ratio to the first.

    Args:
        sides: processes that answer a number of batches with wall and processor seconds.
        rounds: turns of each.
        batches: of a turn.
        size: pictures of a batch.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            spent[name].append(side.ask(batches))
    first = np.array(next(iter(spent.values())))
    rows = {}
    for name, turns in spent.items():
        seconds = np.array(turns)
        ratios = first / seconds
        wall, processor = np.median(ratios, axis=0)
        rows[name] = {
            "per_second": round(size * batches / float(np.median(seconds[:, 0])), 1),
            "ratio": round(float(wall), 2),
            "ratio_spread": [round(float(q), 2) for q in np.quantile(ratios[:, 0], (0.1, 0.9))],
            "processor_ms_per_picture": round(
                1e3 * float(np.median(seconds[:, 1])) / (size * batches), 3
            ),
            "processor_ratio": round(float(processor), 2),
        }
    return rows


def print_table(title: str, rows: dict[str, Any]) -> None:
    """One line for each side."""
    print(
        f"{title:30s}{'pictures/s':>12s}{'ratio':>8s}{'80 % of turns':>16s}"
        f"{'CPU ms each':>14s}{'ratio':>8s}"
    )
    for name, row in rows.items():
        spread = " to ".join(f"{edge:.2f}" for edge in row["ratio_spread"])
        print(
            f"{name:30s}{row['per_second']:12.1f}{row['ratio']:8.2f}{spread:>16s}"
            f"{row['processor_ms_per_picture']:14.3f}{row['processor_ratio']:8.2f}"
        )
