"""What could be changed, tried on this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from vit_lightning.bench.steps import Steps
from vit_lightning.hardware import usable_cores
from vit_lightning.machine_limits import matrix_rate

PAYS = 1.1
"""From this many times as many pictures a second on, a change is recommended; and if nine turns of
ten agree that there are more."""

BATCHES = {"cpu": 4, "cuda": 64}
"""A batch that is large enough to show what batches gain, by the device."""

_PRECISIONS = {"32": "bf16-mixed", "bf16-mixed": "32"}
_SLOW_PRODUCTS = 0.8  # bfloat16 that multiplies no faster than this cannot pay in a step


@dataclass(frozen=True)
class Trial:
    """A change that can be timed.

    Args:
        what: its name.
        how: what to do if it pays.
        batch: pictures of a step.
        run: a step.
    """

    what: str
    how: str
    batch: int
    run: Callable[[], object]


def trials(steps: Steps, batch: int, precision: str) -> tuple[list[Trial], dict[str, float]]:
    """The changes that are possible here, beside ``batch`` and ``precision`` as they are.

    Returns:
        Those to be timed, and those that need not be: name → how many times as fast they can be.
    """
    device = steps.device
    other = 1 if batch > 1 else BATCHES[device]
    trained = steps.mode == "training"
    how = f"trainer.micro_batch={other}" if trained else f"compute {other} at once"
    found = [_trial(steps, f"batch {other}", how, other, precision)]
    hopeless = {}
    wanted = _PRECISIONS[precision]
    products = _bfloat16_products(steps) if precision == "32" else 1.0
    if products < _SLOW_PRODUCTS:
        hopeless[wanted] = products
    else:
        setting = "trainer.precision=" if trained else "--precision "
        found.append(_trial(steps, wanted, setting + wanted, batch, wanted))
    cores = usable_cores()
    if device == "cpu" and cores != torch.get_num_threads():
        run = partial(_with_threads, cores, partial(steps.of(batch, precision), None))
        found.append(Trial(f"{cores} threads", f"OMP_NUM_THREADS={cores}", batch, run))
    if device == "cuda":
        run = partial(steps.of(batch, precision, torch.compile(steps.model)), None)
        if _can_be_compiled(run):
            found.append(Trial("compiled", "torch.compile(model) in Python", batch, run))
    return found, hopeless


def _trial(steps: Steps, what: str, how: str, batch: int, precision: str) -> Trial:
    return Trial(what, how, batch, partial(steps.of(batch, precision), None))


def _bfloat16_products(steps: Steps) -> float:
    """How many times as fast as in float32 a picture's largest product is in bfloat16."""
    config = steps.model.config
    shape = (config.num_tokens, config.embed_dim, config.mlp_dim)
    full, lower = (
        matrix_rate([shape], dtype, repeats=3, device=steps.device)[shape][1]
        for dtype in (torch.float32, torch.bfloat16)
    )
    return lower / full


def _can_be_compiled(run: Callable[[], object]) -> bool:
    """Whether the first call of a compiled model succeeds: it needs a compiler of its own."""
    try:
        run()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ImportError):
        return False
    return True


def _with_threads(count: int, run: Callable[[], object]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        run()
    finally:
        torch.set_num_threads(before)
