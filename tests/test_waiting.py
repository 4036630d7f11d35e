import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from vit_lightning.assess import evaluate
from vit_lightning.hardware import usable_cores
from vit_lightning.openmp import choose_waiting
from vit_lightning.run import train
from vit_lightning.waiting import IdleTeams, Queueing, _teams_needed, _watch

# The processor time of half a second after an operation, in which a thread that waits for ever, as
# it is told to here, is busy all the time, and one that sleeps is not.
_TIME_OF_WAITING = """
import os, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # before libgomp counts the cores
import torch
from vit_lightning.waiting import IdleTeams

def waited():
    torch.ones(1 << 21).add_(1)
    before = time.process_time()
    time.sleep(0.5)
    return time.process_time() - before

if "libgomp" not in open("/proc/self/maps").read():
    raise SystemExit("another OpenMP")
torch.set_num_threads(2)
teams = IdleTeams()
seconds = [waited()]
count = len(os.listdir("/proc/self/task"))
for _ in range(2):
    teams.hold()
    teams.hold()
    seconds.append(waited())
    teams.release()
    teams.release()
    while len(os.listdir("/proc/self/task")) > count:
        time.sleep(0.01)
    seconds.append(waited())
print(*seconds)
"""


two_cores = pytest.mark.skipif(
    sys.platform != "linux" or usable_cores() < 2, reason="needs Linux and two cores"
)


@two_cores
def test_threads_sleep_while_there_are_idle_teams() -> None:
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000000000000"}
    done = subprocess.run(
        [sys.executable, "-c", _TIME_OF_WAITING],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    if "another OpenMP" in done.stderr:
        pytest.skip("torch is built with another OpenMP than libgomp")
    assert done.returncode == 0, done.stderr
    alone, *turns = map(float, done.stdout.split())
    held, released = turns[::2], turns[1::2]
    assert min(alone, *released) > 2 * max(held)
    assert max(held) < 0.1


@pytest.mark.parametrize(
    ("threads", "cores", "teams"),
    [
        (2, 2, 1),
        (16, 16, 1),
        (8, 16, 2),
        (2, 4, 3),
        (2, 17, 16),
        (1, 1, 0),  # nothing meets
        (1, 8, 0),
        (2, 18, 0),  # most cores are left to others
        (3, 2, 0),  # more than the cores already
    ],
)
def test_teams_make_more_threads_than_cores(threads: int, cores: int, teams: int) -> None:
    assert _teams_needed(threads, cores) == teams
    if teams:
        assert threads + teams * (threads - 1) > cores


def _tell(tasks: Path, times: dict[str, tuple[int, int]]) -> None:
    for name, (ran, queued) in times.items():
        (tasks / name).mkdir(exist_ok=True)
        (tasks / name / "schedstat").write_text(f"{ran} {queued} 9\n", encoding="ascii")


def test_queueing_is_counted_since_the_last_look(tmp_path: Path) -> None:
    second = 10**9
    _tell(tmp_path, {"1": (5 * second, 7 * second), "2": (0, 0)})
    queueing = Queueing(tmp_path)
    assert queueing.share() is None
    _tell(tmp_path, {"1": (6 * second, 8 * second), "2": (9 * second // 10, second // 10)})
    assert queueing.share() == pytest.approx(0.5)  # of the thread that queues most
    (tmp_path / "1" / "schedstat").unlink()  # it has ended, and a third one begun
    _tell(tmp_path, {"2": (19 * second // 10, second // 10), "3": (second // 4, 3 * second // 4)})
    assert queueing.share() == pytest.approx(0.75)
    _tell(tmp_path, {"3": (second // 4, second)})  # too little time to tell from
    assert queueing.share() is None
    assert Queueing(tmp_path / "nowhere").share() is None


# Two threads that need no lock of Python's on one core: each has half of it, or less.
_QUEUE = """
import hashlib, os, threading, time
from vit_lightning.waiting import Queueing

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
for _ in range(2):
    work = ("sha256", b"", b"", 2**31 - 1)
    threading.Thread(target=hashlib.pbkdf2_hmac, args=work, daemon=True).start()
queueing, share, end = Queueing(), None, time.monotonic() + 60
while share is None and time.monotonic() < end:
    time.sleep(2)
    share = queueing.share()
print(share, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux tells it")
def test_linux_tells_of_queueing_where_two_want_one_core() -> None:
    command = [sys.executable, "-c", _QUEUE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.2


class _Told(IdleTeams):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.held = False
        self.states: list[bool] = []

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False


def _states(shares: Iterable[float | None]) -> list[bool]:
    """Whether the teams were held before each look, and at the end."""
    teams, ended, left = _Told(), threading.Event(), iter(shares)

    def share() -> float | None:
        teams.states.append(teams.held)
        try:
            return next(left)
        except StopIteration:
            ended.set()
            return None

    _watch(share, teams, ended, seconds=0.001)
    return [*teams.states, teams.held]


def test_threads_wait_actively_as_long_as_they_need_not_queue() -> None:
    assert _states([]) == [True, False]
    told = [0.02, None, 0.5, 0.3, None, 0.0]
    assert _states(told) == [True, False, False, True, True, True, False, False]


def test_what_the_system_refuses_leaves_nothing_behind() -> None:
    teams, ended = _Told(), threading.Event()

    def refused() -> float:
        raise OSError("too many open files")

    _watch(refused, teams, ended, seconds=0.001)
    assert not teams.held


# What runs beside the block: the watch, the idle team it begins with, and what is left afterwards.
_THREADS = """
import sys, threading, time
from vit_lightning.waiting import threads_wait_while_alone

with threads_wait_while_alone(on_cpu=sys.argv[1] == "cpu"):
    end = time.monotonic() + 20
    names = {thread.name for thread in threading.enumerate()}
    while "idle team" not in names and time.monotonic() < end and sys.argv[2] == "wait":
        names = {thread.name for thread in threading.enumerate()}
        time.sleep(0.01)
print("waiting" in names, "idle team" in names, threading.active_count())
"""


def _begun(device: str, environment: dict[str, str], wait: str = "no") -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-c", _THREADS, device, wait]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=clean | environment
    )
    return done.stdout.strip()


@two_cores
def test_it_is_left_alone_where_somebody_has_said_how_long_and_elsewhere() -> None:
    ours: dict[str, str] = {"OMP_NUM_THREADS": str(usable_cores())}
    choose_waiting(ours)
    assert _begun("cpu", ours, "wait") == "True True 1"
    assert _begun("cuda", ours) == "False False 1"
    assert _begun("cpu", ours | {"GOMP_SPINCOUNT": "7"}) == "False False 1"


@two_cores
@pytest.mark.usefixtures("few_figures")
def test_runs_are_watched(
    write: Callable[..., Path], tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []
    hold = IdleTeams.hold

    def noted(teams: IdleTeams) -> None:
        began.append("teams")
        hold(teams)

    monkeypatch.setattr(IdleTeams, "hold", noted)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    experiment = write(tiny, data={"workers": 1})
    checkpoint = train(experiment).checkpoint
    assert began
    began.clear()
    evaluate(experiment, checkpoint, "val")
    assert began
    assert "waiting" not in {thread.name for thread in threading.enumerate()}
