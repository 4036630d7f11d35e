"""How long the threads of an operation on the CPU wait for the next one before they sleep.

A thread that waits actively begins the next operation at once, but takes a core from whatever else
runs meanwhile, such as the processes that load pictures; one that sleeps has to be woken. How
long to wait is a compromise between a machine that does nothing else and one that does, found by
measuring: docs/performance.md, "Threads".
"""

from collections.abc import MutableMapping

# Rounds of libgomp's waiting loop, some 0.6 ms. Its own default is ten times as long.
_ROUNDS = "30000"


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Say so to OpenMP, which reads the environment when torch is imported.

    Args:
        environment: changed in place, unless it has an ``OMP_WAIT_POLICY`` already.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "passive"  # of other libraries than libgomp
        environment.setdefault("GOMP_SPINCOUNT", _ROUNDS)
