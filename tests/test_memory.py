import platform
import subprocess
import sys

import pytest

# Page faults of taking and giving back 100 MB ten times.
_FAULTS = """
import resource, sys, torch
from vit_lightning.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):  # until the heap has found its shape
    torch.ones(25_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(choice: str) -> int:
    command = [sys.executable, "-c", _FAULTS, choice]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again() -> None:
    # Not none: where the heap cannot grow further, a few blocks still come from elsewhere.
    assert _faults("keep") < _faults("leave") / 2
