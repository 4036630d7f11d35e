"""Torch's threads on a CPU wait actively for the next operation while nobody else wants the cores.

While the program's threads are alone, waiting actively is faster; as soon as one has to queue for
its core, the others, which wait for it in every operation, take cores that it could have. So the
time that they queue is watched. libgomp has no call to change how long its threads wait, but while
there are more of them than cores they hardly wait actively ("The GNU OpenMP Implementation",
GOMP_SPINCOUNT). So teams of threads that do nothing make all others sleep at once, and their end
lets them wait again.
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
# Of the time that a thread wants a core. On two cores of a shared machine 0.01 to 0.03 alone,
# 0.1 or more beside a loading process that is kept busy, 0.4 beside another program.
_MOST_QUEUEING = 0.05
_LEAST = 500_000_000  # nanoseconds; a thread that wants a core for less says nothing
_MOST_TEAMS = 16  # where more are needed, most cores are left to others anyway
_WORK = 1 << 16  # bytes; enough of an operation for one more thread


@contextmanager
def threads_wait_while_alone(*, on_cpu: bool) -> Iterator[None]:
    """Let torch's threads wait actively while the block runs, as long as they need not queue.

    Where the environment says how long they wait (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``), and on
    other systems than Linux, nothing is changed.

    Args:
        on_cpu: whether the block computes there; otherwise nothing is changed either.
    """
    if not on_cpu or sys.platform != "linux" or is_fixed(os.environ):
        yield
        return
    ended = Event()
    arguments = (Queueing().share, IdleTeams(), ended)
    watch = Thread(target=_watch, args=arguments, name="waiting", daemon=True)
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
        """Of the thread that queues most, since the last call, in [0, 1].

        Returns:
            None where no thread has wanted a core for half a second, or Linux does not tell.
        """
        before, self._before = self._before, self._nanoseconds()
        shares = []
        for task, (ran, queued) in self._before.items():
            ran_before, queued_before = before.get(task, (0, 0))
            queued -= queued_before
            if (wanted := ran - ran_before + queued) >= _LEAST:
                shares.append(queued / wanted)
        return max(shares, default=None)

    def _nanoseconds(self) -> dict[str, tuple[int, int]]:
        """How long each thread has had a core, and how long it has queued for one."""
        times = {}
        for path in self._tasks.glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                ran, queued, _ = path.read_text(encoding="ascii").split()
                times[path.parent.name] = int(ran), int(queued)
        return times


class IdleTeams:
    """Threads that do nothing, of which libgomp knows, so many that they are more than the cores.

    Each team has as many as torch uses, one of them Python's.
    """

    def __init__(self) -> None:
        self._threads: list[Thread] = []
        self._ended = Event()

    def hold(self) -> None:
        """Begin them, unless they have begun; they are there when this returns.

        Raises:
            RuntimeError: the system has no more threads.
        """
        if self._threads:
            return
        self._ended = Event()
        for _ in range(_teams_needed(torch.get_num_threads(), usable_cores())):
            begun = Event()
            thread = Thread(target=_idle, args=(begun, self._ended), name="idle team", daemon=True)
            thread.start()
            self._threads.append(thread)
            begun.wait()

    def release(self) -> None:
        """End them; they are gone a few milliseconds later."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._threads = []


def _idle(begun: Event, ended: Event) -> None:
    """Begin a team of threads, which lasts as long as the thread that began it."""
    try:
        torch.zeros(torch.get_num_threads() * _WORK, dtype=torch.uint8).add_(1)
    finally:
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
    """Hold the teams while threads queue for cores, and at first, until that is known.

    Where there is nothing to tell from, such as while a run waits for pictures, it stays as it is.
    """
    try:
        teams.hold()
        while not ended.wait(seconds):
            queueing = share()
            if queueing is not None and queueing > _MOST_QUEUEING:
                teams.hold()
            elif queueing is not None:
                teams.release()
    except (OSError, RuntimeError):  # no more files or threads: the run itself will tell
        pass
    finally:
        teams.release()
