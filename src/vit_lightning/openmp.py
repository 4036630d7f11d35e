"""How long the threads of an operation on the CPU wait for the next one before they sleep.

A thread that waits actively begins the next operation at once, but takes a core from whatever else
runs meanwhile, such as the processes that load pictures; one that sleeps has to be woken. How
long to wait was found by measuring (docs/performance.md, "Threads"). In long work
:mod:`vit_lightning.waiting` lets them sleep at once while others want the cores.
"""

from collections.abc import Mapping, MutableMapping

_POLICY, _ROUNDS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"

# Rounds of libgomp's waiting loop, some 2 ms; its own default is three times as long. The policy
# makes them none where there are more threads than cores, and always in other libraries.
_CHOSEN = {_POLICY: "passive", _ROUNDS: "100000"}


def choose_waiting(environment: MutableMapping[str, str]) -> None:
    """Say so to OpenMP, which reads the environment when torch is imported.

    Args:
        environment: changed in place, unless it says something of waiting already.
    """
    if environment.keys().isdisjoint(_CHOSEN):
        environment.update(_CHOSEN)


def is_fixed(environment: Mapping[str, str]) -> bool:
    """Whether somebody has said how long to wait; :func:`choose_waiting` is nobody."""
    said = {name: environment[name] for name in _CHOSEN if name in environment}
    return said not in ({}, _CHOSEN)
