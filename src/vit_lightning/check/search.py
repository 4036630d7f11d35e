"""Which of many descriptions are near to which of many others."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.threads import in_threads

_ROWS, _COLUMNS = 1024, 8192
_MOST_HITS = 1 << 18  # of a block: more are cut to the best of each row

Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]  # row, target, similarity


def search(
    queries: Callable[[slice], Tensor],
    owners: NDArray[np.int64],
    targets: Tensor,
    *,
    floor: float,
    most: int,
    same: bool,
    update: Callable[[int], None],
) -> Hits:
    """For each owner of queries the targets that are most similar to one of its queries.

    All are compared with all, by blocked matrix products.

    Args:
        queries: gives a slice of (M, D) of unit length; all at once may be too many.
        owners: (M,) to whom they belong, ascending.
        targets: (N, D) of unit length.
        floor: similarity in [-1, 1] that counts.
        most: targets for each owner.
        same: owners and targets are the same pictures; nobody is similar to himself.
        update: called with the number of queries that are done.

    Returns:
        (row of the queries, index in ``targets``, similarity) of each.
    """

    def hits_of(start: int) -> Hits:
        block = queries(slice(start, start + _ROWS))
        hits = [
            _block_hits(block, targets[first : first + _COLUMNS], floor, most, (start, first))
            for first in range(0, len(targets), _COLUMNS)
        ]
        rows, columns, values = (np.concatenate(part) for part in zip(*hits, strict=True))
        if same:
            others = owners[rows] != columns
            rows, columns, values = rows[others], columns[others], values[others]
        return _best((rows, columns, values), owners, most)

    found: list[Hits] = []
    starts = range(0, len(owners), _ROWS)
    for start, hits in zip(starts, in_threads(hits_of, starts), strict=True):
        found.append(hits)
        update(min(_ROWS, len(owners) - start))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    rows, columns, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return _best((rows, columns, values), owners, most)  # an owner may lie across two blocks


def _block_hits(
    queries: Tensor, targets: Tensor, floor: float, most: int, origin: tuple[int, int]
) -> Hits:
    similarity = queries @ targets.T
    near = (similarity > floor).nonzero()
    if len(near) > _MOST_HITS:
        values, columns = similarity.topk(min(most + 1, similarity.shape[1]), dim=1)
        rows = torch.arange(len(similarity))[:, None].expand_as(columns)
        kept = values > floor
        near = torch.stack([rows[kept], columns[kept]], dim=1)
    values = similarity[near[:, 0], near[:, 1]]
    return near[:, 0].numpy() + origin[0], near[:, 1].numpy() + origin[1], values.numpy()


def _best(hits: Hits, owners: NDArray[np.int64], most: int) -> Hits:
    """The best query for each pair of owner and target, then the best targets of each owner."""
    rows, columns, values = hits
    order = np.lexsort((-values, columns, owners[rows]))
    rows, columns, values = rows[order], columns[order], values[order]
    pairs = np.stack([owners[rows], columns])
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    rows, columns, values = rows[first], columns[first], values[first]
    order = np.lexsort((-values, owners[rows]))
    rows, columns, values = rows[order], columns[order], values[order]
    owner = owners[rows]
    begins = np.searchsorted(owner, owner)  # where each owner's hits begin
    kept = np.arange(len(rows)) - begins < most
    return rows[kept], columns[kept], values[kept]
