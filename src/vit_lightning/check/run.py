"""Look at a data set, and perhaps at another beside it."""

import os
from collections.abc import Sequence
from pathlib import Path

from vit_lightning.check.collection import collect
from vit_lightning.check.duplicates import find_pairs, find_pairs_between
from vit_lightning.check.findings import Findings, draw_conclusions
from vit_lightning.check.sources import open_source
from vit_lightning.check.throughput import measure_throughput


def check_data(
    path: Path,
    against: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    workers: int | None = None,
    speed: bool = True,
) -> Findings:
    """Read a data set and tell what is wrong with it.

    Args:
        path: a folder of pictures by class, with or without splits, or an experiment file.
        against: another such, in which the pictures of the first are looked for.
        overrides: for an experiment file at ``path``.
        workers: processes that read; None for one per core, 0 for none but this.
        speed: measure how fast pictures, and an experiment's model, can be.

    Raises:
        InputError: there are no such pictures.
    """
    source = open_source(path, overrides)
    other_source = None if against is None else open_source(against)
    count = _cores() if workers is None else workers
    collection = collect(source, count)
    pairs = find_pairs(collection)
    other, between = None, []
    if other_source is not None:
        other = collect(other_source, count)
        between = find_pairs_between(collection, other)
    throughput = None
    if speed:
        settings = source.experiment
        used = None if settings is None else settings.data.workers
        throughput = measure_throughput(source, count if used is None else used)
    return draw_conclusions(collection, pairs, other, between, throughput)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
