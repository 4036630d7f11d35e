"""Processes that take turns, so that all of them meet the same weather. Needs Python alone."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

PREFETCHED = 2  # batches of each loading process that lie ready
COLD = 12  # batches until memory that the system took from a waiting process is back


class GaveUpError(SystemExit):
    """A side has ended by itself."""


class Process:
    """A process that answers lines of JSON, each with one; its first tells its versions.

    Args:
        command: that starts it.
        wait: until it has told them; otherwise ``versions`` waits, when it is first read.
        environment: of its variables; by default those of this process.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        wait: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if wait:
            _ = self.versions

    @cached_property
    def versions(self) -> dict[str, str]:
        """What it told first."""
        told: dict[str, str] = self.receive()
        return told

    def ask(self, question: Any) -> Any:
        """Its answer, when it has one."""
        self.send(question)
        return self.receive()

    def send(self, question: Any) -> None:
        """Ask without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def receive(self) -> Any:
        """The answer to what was sent.

        Raises:
            GaveUpError: the process has ended; what it said stands on stderr.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise GaveUpError("a side gave up; what it said stands above")
        return json.loads(line)


def answer(versions: dict[str, str], answer_to: Any) -> None:
    """Be such a process, until the input ends.

    Args:
        versions: of what matters here.
        answer_to: question → answer.
    """
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer_to(json.loads(line))), flush=True)


def seconds_of(batches: Iterator[Any], workers: int, count: int) -> tuple[float, float]:
    """Wall and processor seconds of ``count`` batches, after those that lay ready."""
    for _ in range(COLD + PREFETCHED * workers):
        next(batches)
    wall, processor = time.perf_counter(), processor_seconds()
    for _ in range(count):
        next(batches)
    return time.perf_counter() - wall, processor_seconds() - processor


def processor_seconds() -> float:
    """Processor time so far of this process and of the workers it has now (Linux)."""
    ticks = 0
    for child in multiprocessing.active_children():
        stat = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8")
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")
