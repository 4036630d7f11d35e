"""Torch's threads on a CPU wait actively for the next operation while nobody else wants the cores.

While the program's threads are alone, waiting actively is faster; as soon as one has to queue for
its core, the others, which wait for it in every operation, take cores that it could have. So the
time that they queue is watched. libgomp has no call to change how long its threads wait, but while
there are more of them than cores they hardly do ("The GNU OpenMP Implementation", GOMP_SPINCOUNT).
So teams of threads that do nothing make all others sleep at once, and their end lets them wait.
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import torch

from vit_lightning.hardware import usable_cores
from vit_lightning.openmp import is_fixed

_SECONDS = 2.0  # between two looks
# Of the time that threads want a core. On two cores of a shared machine up to 0.04 alone, 0.09 or
# more beside a loading process that is kept busy, 0.4 or more beside another program.
_MOST_QUEUEING = 0.05
_MOST_TEAMS = 4  # where more are needed, most cores are left to others anyway
_WORK = 1 << 16  # bytes; enough of an operation for one more thread


@contextmanager
def threads_wait_while_alone(*, on_cpu: bool) -> Iterator[None]:
    """Let torch's threads wait actively while the block runs, as long as they need not queue.

    Where the environment says how long they wait (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``), and on
    other systems than Linux, nothing is changed.

    Args:
        on_cpu: whether the block computes there; otherwise nothing is changed either.
    """
    teams = _teams_needed(torch.get_num_threads(), usable_cores())
    if not (on_cpu and teams) or sys.platform != "linux" or is_fixed(os.environ):
        yield
        return
    ended = Event()
    words = (Queueing().share, IdleTeams(teams), ended)
    watch = Thread(target=_watch, args=words, name="waiting", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


class Queueing:
    """How much of the time that this process' threads want a core they have none.

    Args:
        tasks: where Linux tells so of each.
    """

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._tasks = tasks
        self._before = self._nanoseconds()

    def share(self) -> float | None:
        """Since the last call, in [0, 1]; None where none wanted one, or Linux does not tell."""
        before, self._before = self._before, self._nanoseconds()
        spent = [
            [max(now - then, 0) for now, then in zip(times, before.get(task, (0, 0)), strict=True)]
            for task, times in self._before.items()
        ]
        ran, queued = (sum(times) for times in zip((0, 0), *spent, strict=True))
        return queued / (ran + queued) if ran + queued else None

    def _nanoseconds(self) -> dict[str, tuple[int, int]]:
        """How long each thread has had a core, and how long it has queued for one."""
        times = {}
        for path in self._tasks.glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                ran, queued, _ = path.read_text(encoding="ascii").split()
                times[path.parent.name] = int(ran), int(queued)
        return times


class IdleTeams:
    """Threads that do nothing, of which libgomp knows.

    Args:
        count: of teams. Each has as many threads as torch uses, one of them Python's.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[Thread] = []
        self._ended = Event()

    def hold(self) -> None:
        """Have them, from the return of this on."""
        if self._threads:
            return
        self._ended = Event()
        begun = [Event() for _ in range(self._count)]
        self._threads = [
            Thread(target=_idle, args=(one, self._ended), name="idle team", daemon=True)
            for one in begun
        ]
        for thread in self._threads:
            thread.start()
        for one in begun:
            one.wait()

    def release(self) -> None:
        """Have them no more."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._threads = []


def _idle(begun: Event, ended: Event) -> None:
    """Begin a team of threads, which lasts as long as the thread that began it."""
    torch.zeros(torch.get_num_threads() * _WORK, dtype=torch.uint8).add_(1)
    begun.set()
    ended.wait()


def _teams_needed(threads: int, cores: int) -> int:
    """As many idle teams as make more threads than cores.

    Returns:
        0 where threads do not meet, or are too few or more than the cores by themselves.
    """
    if threads < 2 or threads > cores:
        return 0
    count = math.ceil((cores - threads + 1) / (threads - 1))
    return count if count <= _MOST_TEAMS else 0


def _watch(
    share: Callable[[], float | None], teams: IdleTeams, ended: Event, seconds: float = _SECONDS
) -> None:
    """Hold the teams while threads queue for cores, and at first, until that is known."""
    teams.hold()
    while not ended.wait(seconds):
        queueing = share()
        if queueing is None or queueing > _MOST_QUEUEING:
            teams.hold()
        else:
            teams.release()
    teams.release()
