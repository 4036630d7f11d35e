"""Steps that take turns, so that whatever else the machine does meets all of them."""

import time
from collections.abc import Callable, Mapping

from vit_lightning.machine_limits import wait_for

LIMIT = "limit"

_FEWEST, _MOST = 3, 15  # turns
_SECONDS = 8.0  # of all turns together, once there are the fewest
_SHORTEST = 0.1  # seconds of a turn: short runs are repeated


def in_turns(
    runs: Mapping[str, Callable[[], object]], limit: Callable[[], float], device: str
) -> dict[str, list[float]]:
    """Seconds of each run in each turn.

    Args:
        runs: name → what is timed.
        limit: tells seconds by itself, in every turn too; they stand under ``LIMIT``.
        device: ``cpu`` or ``cuda``.
    """
    repeats = {name: _repeats(run, device) for name, run in runs.items()}
    turns: dict[str, list[float]] = {name: [] for name in (LIMIT, *runs)}
    start = time.perf_counter()
    for turn in range(_MOST):
        if turn >= _FEWEST and time.perf_counter() - start > _SECONDS:
            break
        turns[LIMIT].append(limit())
        for name, run in runs.items():
            turns[name].append(_seconds(run, repeats[name], device))
    return turns


def _repeats(run: Callable[[], object], device: str) -> int:
    """How often a run is repeated in a turn; the first call, which may be slow, does not count."""
    seconds = _seconds(run, 1, device)
    if seconds < 1.0:
        seconds = _seconds(run, 1, device)
    return max(1, round(_SHORTEST / seconds))


def _seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Of a run, on average over some."""
    wait_for(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    wait_for(device)
    return (time.perf_counter() - start) / repeats
