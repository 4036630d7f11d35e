"""What a machine is, for every record of what was computed or measured on it."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

_CPUINFO = Path("/proc/cpuinfo")

# What decides how fast products of matrices are: vectors, and units for bfloat16 and int8.
_FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("avx_ne_convert", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "sve", "sve2", "i8mm", "bf16"),
)


def describe_hardware() -> dict[str, Any]:
    """Processor, cores, threads and GPUs, as JSON.

    Returns:
        ``platform``; ``cpu``, ``cpu_capability`` (the vectors that torch uses), ``cpu_flags`` (of
        those that matter to a model; none where the system does not tell); ``cores`` of the
        machine, ``usable_cores`` of this process, ``torch_threads``, ``omp_wait_policy``,
        ``gomp_spincount``; ``gpus``, each with its memory.
    """
    told = _cpuinfo()
    flags = (told.get("flags") or told.get("Features", "")).split()
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu": told.get("model name") or platform.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT", ""),
        "gpus": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus],
    }


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """What Linux tells of the first core."""
    if not _CPUINFO.exists():
        return {}
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    lines = text.partition("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
