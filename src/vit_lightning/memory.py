"""Memory: how much is free, and what a process keeps for itself."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

# As in malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3

# Files of a control group: the limit, what is used, and which line of memory.stat counts the pages
# of files that the system takes back when they are needed.
_CGROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_CGROUP_V2 = ("memory.max", "memory.current", "inactive_file")


def keep_freed_memory() -> bool:
    """Let glibc keep blocks of any size that torch frees, for its next step.

    By default blocks above 32 MiB go back to the system when they are freed, and every step gets
    them anew, page by page: for ViT-S/16 and 16 pictures 130,000 page faults in a training step, 5
    % of its time. The most memory that a process holds stays the same; it holds it until its end.

    Returns:
        Whether this system has such a setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still have without swapping, or None where nothing tells.

    On Linux what is available, and not more than the limits of the process' control groups leave;
    elsewhere the machine's memory, of which nobody says how much is used.

    Args:
        root: of the file system.
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        return min([1024 * int(line.split()[1]), *_left_by_cgroups(root)])
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no such function
        return None


def _left_by_cgroups(root: Path) -> Iterator[int]:
    """Bytes left by each limit that holds for this process, of both versions of control groups."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names = _CGROUP_V1 if controllers else _CGROUP_V2
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = top / path.lstrip("/")
        # A limit holds for the groups below it too. In a container the path may be the host's, and
        # what is mounted is the group itself.
        for folder in (group, *group.parents):
            yield from _left_by_cgroup(folder, *names)
            if folder == top:
                break


def _left_by_cgroup(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    if not (most.isdecimal() and used.isdecimal()):  # no such file, or "max"
        return
    pages = [line.split() for line in _text(folder / "memory.stat").splitlines()]
    again = sum(int(count) for name, count in pages if name == reclaimable)
    yield max(int(most) - max(int(used) - again, 0), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
