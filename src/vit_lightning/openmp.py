"""How long the threads of an operation on the CPU wait for the next one before they sleep.

A thread that waits actively begins the next operation at once, but takes a core from whatever else
runs meanwhile, such as the processes that load pictures; one that sleeps has to be woken. As long
as waking takes is the right time to wait actively: whatever comes then, no more than twice the
least possible is lost (Karlin et al. 1991, competitive spinning).
"""

from collections.abc import MutableMapping

# Rounds of libgomp's waiting loop, some 0.1 ms, as waking a thread takes. Its own default is sixty
# times as long.
_ROUNDS = "5000"


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Say so to OpenMP, which reads the environment when torch is imported.

    Args:
        environment: changed in place, unless it has an ``OMP_WAIT_POLICY`` already.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "passive"  # of other libraries than libgomp
        environment.setdefault("GOMP_SPINCOUNT", _ROUNDS)
