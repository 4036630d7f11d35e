"""Figures of a data set: counts, sizes, channels, EXIF. Plain JSON types throughout."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_lightning.check.collection import Collection, Entry

UPRIGHT = 1
_PERCENTILES = (0, 5, 50, 95, 100)


def class_counts(collection: Collection) -> dict[str, dict[str, int]]:
    """Split → class → pictures, the unreadable ones included; classes without pictures too."""
    return {split.name: split.counts() for split in collection.source.splits}


def imbalance(counts: dict[str, int]) -> dict[str, Any] | None:
    """The largest and smallest class that have pictures, and their ratio."""
    present = {name: count for name, count in counts.items() if count}
    if len(present) < 2:
        return None
    largest, smallest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    return {
        "largest": [largest, present[largest]],
        "smallest": [smallest, present[smallest]],
        "ratio": round(present[largest] / present[smallest], 3),
    }


def picture_statistics(entries: Sequence[Entry]) -> dict[str, Any]:
    """Sizes, aspect ratios, channels, modes and EXIF orientations of pictures.

    Mean and standard deviation are of pixels in [0, 1], every picture counting the same whatever
    its size, as each does in a training.
    """
    if not entries:
        return {"pictures": 0}
    kept = [entry.measured for entry in entries]
    width, height = np.array([one.size for one in kept], dtype=np.float64).T
    mean, square = np.mean([one.moments for one in kept], axis=0)
    sizes = Counter(f"{one.size[0]} x {one.size[1]}" for one in kept)
    return {
        "pictures": len(kept),
        "percentiles": list(_PERCENTILES),
        "width": _percentiles(width),
        "height": _percentiles(height),
        "shorter_side": _percentiles(np.minimum(width, height)),
        "aspect": [round(value, 3) for value in _percentiles(width / height)],
        "most_frequent_size": list(sizes.most_common(1)[0]),
        "mean": [round(float(value), 4) for value in mean],
        "std": [round(float(value), 4) for value in np.sqrt(np.maximum(square - mean**2, 0))],
        "modes": dict(Counter(one.mode for one in kept).most_common()),
        "exif_orientations": {
            str(key): count for key, count in sorted(Counter(o.orientation for o in kept).items())
        },
    }


def _percentiles(values: Any) -> list[float]:
    return [round(float(value), 4) for value in np.percentile(values, _PERCENTILES)]
