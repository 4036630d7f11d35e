import platform
import subprocess
import sys
from pathlib import Path

import pytest

from vit_lightning.memory import free_memory

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


def _machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8000 kB\n"} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory_is_what_linux_calls_available(tmp_path: Path) -> None:
    assert free_memory(_machine(tmp_path, {})) == 8000 * 1024
    if platform.system() == "Linux":
        assert free_memory() > 1 << 20


@pytest.mark.parametrize("folder", ["job/step/", "job/", ""])
def test_limits_of_a_control_group_and_those_above_it_hold(tmp_path: Path, folder: str) -> None:
    top = "sys/fs/cgroup/"
    files = {
        "proc/self/cgroup": "0::/job/step\n",
        f"{top}job/step/memory.max": "max\n",
        f"{top}job/step/memory.current": "5\n",
        f"{top}{folder}memory.max": "1000000\n",
        f"{top}{folder}memory.current": "700000\n",
        f"{top}{folder}memory.stat": "anon 600000\ninactive_file 50000\nactive_file 7\n",
    }
    assert free_memory(_machine(tmp_path, files)) == 350000


@pytest.mark.parametrize("seen", ["/job", "/the/host/knows/it/as"])
def test_limits_of_the_first_version(tmp_path: Path, seen: str) -> None:
    folder = "sys/fs/cgroup/memory/" + ("job/" if seen == "/job" else "")
    files = {
        "proc/self/cgroup": f"3:cpuset:/\n2:cpu,memory:{seen}\n0::/\n",
        f"{folder}memory.limit_in_bytes": "2000",
        f"{folder}memory.usage_in_bytes": "2500",
        f"{folder}memory.stat": "inactive_file 9999\ntotal_inactive_file 600\n",
    }
    assert free_memory(_machine(tmp_path, files)) == 100
    _machine(tmp_path, {f"{folder}memory.usage_in_bytes": "2700"})
    assert free_memory(tmp_path) == 0  # more is used than allowed


def test_elsewhere_the_machines_memory_counts(tmp_path: Path) -> None:
    assert free_memory(tmp_path) > 1 << 20  # no /proc
