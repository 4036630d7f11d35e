"""Time that is no longer where a machine has other things to do. Needs Python alone."""

import multiprocessing
import os
import time
from pathlib import Path


def processor_seconds() -> float:
    """Processor time so far of this process and of the workers it has now (Linux)."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = (
            Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        )
        ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")
