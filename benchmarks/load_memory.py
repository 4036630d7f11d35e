"""Peak memory of loading a model, over that of the imported package.

    python benchmarks/load_memory.py [PRESET] [--suffix .npz]

Writes a randomly initialised PRESET (default ViT-H_14) into a temporary folder, loads it in a
fresh process and prints that process's peak resident memory, less what it had after the imports,
in multiples of the weights. Linux only (it reads /proc/self/status). Needs the size of the weights
on disk and twice that in memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vit_lightning.factory import create_model, save_model

_LOAD = """
import sys
import time
from pathlib import Path
import vit_lightning.factory as factory

def memory(field):
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) * 1024

before = memory("VmRSS")
start = time.perf_counter()
model = factory.load_model(sys.argv[1])
seconds = time.perf_counter() - start
weights = sum(p.nbytes for p in model.parameters())
print(weights, memory("VmHWM") - before, before, seconds)
"""


def measure(path: Path) -> tuple[int, int, int, float]:
    """Bytes of the weights, peak bytes above the imports, bytes after the imports, seconds."""
    command = [sys.executable, "-c", _LOAD, str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(out[0]), int(out[1]), int(out[2]), float(out[3])


def main() -> None:
    """Write, load, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="ViT-H_14")
    parser.add_argument("--suffix", choices=(".npz", ".safetensors"), default=".npz")
    arguments = parser.parse_args()
    name, suffix = arguments.preset, arguments.suffix

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"weights{suffix}"
        start = time.perf_counter()
        save_model(create_model(name), path)
        print(f"{name}: made and written to {path.name} in {time.perf_counter() - start:.1f} s")
        weights, above, before, seconds = measure(path)
    mib = 1 << 20
    print(f"weights {weights / mib:.0f} MiB, imported baseline {before / mib:.0f} MiB")
    print(f"peak above the baseline {above / mib:.0f} MiB = {above / weights:.3f} × the weights")
    print(f"loaded in {seconds:.1f} s")


if __name__ == "__main__":
    main()
