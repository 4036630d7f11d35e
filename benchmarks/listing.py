"""Seconds until a data set of a million pictures is ready, without and with its index.

    python benchmarks/listing.py [--pictures 1000000] [--classes 1000] [--folder /tmp]

Makes a tree of empty files (they are listed, never decoded) in a temporary folder, opens it in
fresh processes and prints what each took, imports left out: the first time, without an index;
again, with it; and after one more file has come. The files have just been made, so the system
knows the folders: on a disk that has yet to be read, or over a network, the first time is longer.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_OPEN = """
import sys
import time
from pathlib import Path
from vit_lightning.data.sources import open_dataset

start, cpu = time.perf_counter(), time.process_time()
splits = open_dataset("folder", Path(sys.argv[1]), val_fraction=float(sys.argv[2]) or None, seed=0)
ready, used = time.perf_counter(), time.process_time()
splits.fingerprint()
print(len(splits.train), len(splits.val), ready - start, used - cpu, time.perf_counter() - ready)
"""


def generate(root: Path, pictures: int, classes: int, splits: tuple[str, ...]) -> None:
    """Empty files with names as long as ImageNet's."""
    each = pictures // (classes * len(splits))
    for split in splits:
        for label in range(classes):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            opened = os.open(folder, os.O_RDONLY)
            for number in range(each):
                name = f"n{label:08d}_{number:08d}.JPEG"
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=opened))
            os.close(opened)


def measure(root: Path, cache: Path, val_fraction: float, what: str) -> None:
    """Open the data set in a fresh process, and print what it took."""
    command = [sys.executable, "-c", _OPEN, str(root), str(val_fraction)]
    environment = os.environ | {"VIT_LIGHTNING_CACHE": str(cache)}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    train, val, ready, cpu, digest = out.stdout.split()
    print(
        f"{what}: {int(train):,} + {int(val):,} pictures ready in {float(ready):.2f} s "
        f"({float(cpu):.2f} s of processor time), their digest in {float(digest):.2f} s more",
        flush=True,
    )


def main() -> None:
    """Generate, open, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="where the files are made")
    arguments = parser.parse_args()
    for splits, val_fraction in ((("train", "val"), 0.0), (("",), 0.1)):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            root, cache = Path(folder) / "pictures", Path(folder) / "cache"
            start = time.perf_counter()
            generate(root, arguments.pictures, arguments.classes, splits)
            layout = "train and val" if val_fraction == 0 else "a tenth held out"
            print(f"{layout}: made in {time.perf_counter() - start:.0f} s", flush=True)
            measure(root, cache, val_fraction, "  without an index")
            for index in cache.rglob("*.listing"):
                print(f"  the index takes {index.stat().st_size / 1e6:.0f} MB")
            measure(root, cache, val_fraction, "  with the index")
            next(root.rglob("n*0")).joinpath("one more.JPEG").touch()
            measure(root, cache, val_fraction, "  after a change")
            measure(root, cache, val_fraction, "  again")


if __name__ == "__main__":
    main()
