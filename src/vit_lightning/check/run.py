"""Look at a data set, and perhaps at another beside it."""

import os
from collections.abc import Sequence
from pathlib import Path

from vit_lightning.check.collection import collect
from vit_lightning.check.duplicates import find_pairs, find_pairs_between
from vit_lightning.check.findings import Findings, draw_conclusions
from vit_lightning.check.sources import Source, open_source
from vit_lightning.check.throughput import measure_throughput
from vit_lightning.errors import InputError


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
        InputError: there are no such pictures, or the two are, or share, one folder.
    """
    source = open_source(path, overrides)
    other_source = None if against is None else open_source(against)
    if other_source is not None:
        _refuse_same(source, other_source)
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


def _refuse_same(source: Source, other: Source) -> None:
    """A folder shows the same as itself: nobody needs to be told."""
    if source.root is None or other.root is None:
        return
    mine, others = source.root.resolve(), other.root.resolve()
    if mine.is_relative_to(others) or others.is_relative_to(mine):
        what = "is the same folder as" if mine == others else "shares a folder with"
        raise InputError(
            f"--against {other.title} {what} {source.title}: what is there twice within a data set "
            "is told without --against"
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
