"""Memory of a data set of a million paths, with 1 loading process and with 16.

    python benchmarks/loader_memory.py [--pictures 1000000] [--workers 1 16]

For names in a list, for packed names and for packed names in a listing index: a DataLoader of so
many workers, of which each looks at all names, and the memory of all processes together (the sum
of their proportional set sizes), less that of the same with a single name. Linux only (it reads
/proc/*/smaps_rollup).
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from vit_lightning.data import listing
from vit_lightning.data.names import PackedNames

KINDS = ("list", "packed", "index")


class Names(Dataset[int]):
    """One item for each worker, which looks at every name."""

    def __init__(self, names: Sequence[str], workers: int) -> None:
        self.names = names
        self.workers = workers

    def __len__(self) -> int:
        return self.workers

    def __getitem__(self, index: int) -> int:
        return sum(len(name) for name in self.names)


def proportional_bytes(pid: int) -> int:
    """What a process uses; of what it shares, its share."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("\nPss:")[1].split()[0]) * 1024


def make(kind: str, count: int, folder: Path) -> Sequence[str]:
    """``count`` names as long as ImageNet's."""
    names = (f"train/n{i % 1000:08d}/n{i % 1000:08d}_{i:08d}.JPEG" for i in range(count))
    if kind == "list":
        return list(names)
    packed = PackedNames.pack(names)
    if kind == "packed":
        return packed
    split = listing.SplitListing(folder, packed, {"n": count}, listing.Counter(), [])
    listing._write_index(folder / "index", folder, {"train": split}, [])
    kept = listing._read_index(folder / "index", folder, {"train": folder})
    assert kept is not None
    return kept["train"].names


def total(kind: str, count: int, workers: int, method: str) -> int:
    """Bytes of all processes."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Names(make(kind, count, Path(folder)), workers)
        loader = DataLoader(
            dataset,
            batch_size=1,
            num_workers=workers,
            persistent_workers=True,
            multiprocessing_context=method,
        )
        assert len(list(loader)) == workers  # each worker has had its turn, and is still there
        children = [child.pid for child in multiprocessing.active_children() if child.pid]
        assert len(children) == workers
        return sum(proportional_bytes(pid) for pid in [os.getpid(), *children])


def measure(*arguments: object) -> int:
    """``total`` in a fresh process."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(out.split()[-1])


def main() -> None:
    """Measure all kinds, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--methods", nargs="+", default=["fork"], choices=["fork", "spawn"])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, count, workers, method = options.one
        print(total(kind, int(count), int(workers), method))
        return
    for method in options.methods:
        for kind in KINDS:
            for workers in options.workers:
                with_names = measure(kind, options.pictures, workers, method)
                without = measure(kind, 1, workers, method)
                print(
                    f"{method}, {kind}, {workers} workers: {options.pictures:,} names cost "
                    f"{(with_names - without) / 1e6:.0f} MB in all processes together",
                    flush=True,
                )


if __name__ == "__main__":
    main()
