"""Mutated weights files for the readers: each is refused with an InputError, or is a model.

    python tests/fuzz/fuzz_readers.py --count 20000 --seed 0

Worker processes make the files, load them under a limit of memory and time, and look for
executed code. What is found is kept with the file that does it; the exit code is then 1.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random

# A worker's threads have nothing to do but wait. Has to be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).parents[1]))  # hostile_pickles

import torch
from fuzz_mutations import mutate
from fuzz_seeds import Seed, make_seeds
from fuzz_tensors import MARKER

from vit_lightning import InputError, ModelBundle, load_bundle
from vit_lightning.data.transforms import Preprocessing

_MIB = 1 << 20
_ADDRESSES = 2048 * _MIB  # that a worker may have beyond those it begins with
_MEMORY = 256 * _MIB  # resident, that reading a file may take; they have some 100 kB
_CPU_SECONDS = 5.0
_WALL_SECONDS = 60.0  # other programs may run beside
_MOST_WORDS = 5000


@dataclass(frozen=True)
class Outcome:
    """What became of one mutated file: loaded, refused, or a finding if ``problem`` is not ""."""

    loaded: bool
    problem: str = ""
    peak: int = 0


@dataclass
class Report:
    """Counts for each kind of file, and what was found."""

    files: Counter[str] = field(default_factory=Counter)
    loaded: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    peak: int = 0

    def __str__(self) -> str:
        lines = [f"{'kind':<26} {'files':>7} {'loaded':>7} {'refused':>7}"]
        for kind in self.files:
            refused = self.files[kind] - self.loaded[kind]
            lines.append(f"{kind:<26} {self.files[kind]:>7} {self.loaded[kind]:>7} {refused:>7}")
        files, loaded = self.files.total(), self.loaded.total()
        lines.append(f"{'all':<26} {files:>7} {loaded:>7} {files - loaded:>7}")
        lines.append(f"most memory that reading a file added: {self.peak / _MIB:.0f} MiB")
        lines.append(f"findings: {len(self.findings)}")
        return "\n".join([*lines, *self.findings])


def run(count: int, seed: int, workers: int, keep: Path) -> Report:
    """Mutate and load ``count`` files; what does harm is kept under ``keep``."""
    seeds = make_seeds()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        crew = [_Worker(Path(folder) / str(number), seeds, seed) for number in range(workers)]
        try:
            for index, worker, outcome in _work(crew, count):
                kind = seeds[index % len(seeds)].kind
                report.files[kind] += 1
                report.loaded[kind] += outcome.loaded
                report.peak = max(report.peak, outcome.peak)
                if outcome.problem:
                    shutil.copytree(worker.case, keep / str(index), dirs_exist_ok=True)
                    report.findings.append(f"{keep / str(index)} ({kind}): {outcome.problem}")
        finally:
            for worker in crew:
                worker.end()
    return report


class _Worker:
    """A process that tests files, one after the other, and is started anew when it dies."""

    def __init__(self, home: Path, seeds: Sequence[Seed], seed: int):
        self.home, self.case = home, home / "case"
        self._arguments = (home, seeds, seed)
        self.index = -1
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_test_files, args=(theirs, *self._arguments))
        self._process.start()
        theirs.close()

    def begin(self, index: int) -> None:
        """Give it its next file; a new process if the last one took it to the grave."""
        if not self._process.is_alive():
            self._start()
        self.index, self._since = index, time.monotonic()
        self.pipe.send(index)

    def outcome(self) -> Outcome | None:
        """What it says, or what its silence means; None while it works."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            self._process.join(5.0)
            self.end()
            return Outcome(False, f"the process died with exit code {self._process.exitcode}")
        if time.monotonic() - self._since < _WALL_SECONDS:
            return None
        self.end()
        return Outcome(False, f"no answer for {_WALL_SECONDS:.0f} s")

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _work(crew: Sequence[_Worker], count: int) -> Iterator[tuple[int, _Worker, Outcome]]:
    indices = iter(range(count))
    busy: list[_Worker] = []
    for worker, index in zip(crew, indices, strict=False):
        worker.begin(index)
        busy.append(worker)
    while busy:
        wait([worker.pipe for worker in busy], timeout=1.0)
        for worker in list(busy):
            outcome = worker.outcome()
            if outcome is None:
                continue
            yield worker.index, worker, outcome
            following = next(indices, None)
            if following is None:
                busy.remove(worker)
            else:
                worker.begin(following)


def _test_files(pipe: Connection, home: Path, seeds: Sequence[Seed], seed: int) -> None:
    """The life of a worker."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    home.mkdir(exist_ok=True)
    os.chdir(home)  # where a gadget leaves its marker
    os.environ["HF_HUB_OFFLINE"] = "1"
    _write(home / "case", seeds[0].files)
    load_bundle(home / "case" / seeds[0].target)  # whatever is imported late, is now
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESSES, size + _ADDRESSES))
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            return
        pipe.send(_test_file(home, seeds[index % len(seeds)], Random(f"{seed}:{index}")))


def _test_file(home: Path, seed: Seed, rng: Random) -> Outcome:
    try:
        files, changes = mutate(seed, rng)
    except Exception:
        return Outcome(False, f"the fuzzer itself failed: {traceback.format_exc()}")
    case = home / "case"
    _write(case, files)
    before, start = _peak(), time.process_time()
    loaded, problem = _load(case / seed.target)
    spent, grown = time.process_time() - start, _peak() - before
    if (home / MARKER).exists():
        (home / MARKER).unlink()
        problem = f"{problem}\ncode of the file was executed"
    if spent > _CPU_SECONDS:
        problem = f"{problem}\n{spent:.1f} s of computation"
    if grown > _MEMORY:
        problem = f"{problem}\n{grown / _MIB:.0f} MiB of memory"
    return Outcome(loaded, problem and f"[{changes}] {problem.strip()}", grown)


def _load(path: Path) -> tuple[bool, str]:
    """Whether it loads, and what is wrong with how it does or does not."""
    try:
        bundle = load_bundle(path)
    except InputError as error:
        return False, _wrong_words(path, str(error))
    except BaseException:
        return False, traceback.format_exc(limit=-6)
    try:
        return True, _wrong_model(bundle)
    except Exception:
        return True, traceback.format_exc(limit=-6)


def _wrong_words(path: Path, words: str) -> str:
    if str(path) not in words:
        return f"the message does not name the file: {words}"
    if len(words) > _MOST_WORDS:
        return f"a message of {len(words)} characters: {words[:300]}"
    return ""


def _wrong_model(bundle: ModelBundle) -> str:
    """What no model that was loaded may be; also what users would stumble over next."""
    for key, tensor in bundle.model.state_dict().items():
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            return f"{key} is {tensor.dtype} on {tensor.device}"
        if not torch.isfinite(tensor).all():
            return f"{key} is not finite"
    json.dumps([bundle.classes, bundle.origin], allow_nan=False)
    str(bundle.report).encode()
    " ".join(bundle.classes or ()).encode()
    if bundle.preprocessing is not None:
        config = bundle.model.config
        size = {"image_size": config.image_size, "in_channels": config.in_channels}
        try:
            Preprocessing.from_dict({**bundle.preprocessing, **size})
        except InputError:
            return ""
    return ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="mutated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=Path, default=None, help="a folder for what is found")
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    start = time.monotonic()
    report = run(options.count, options.seed, options.workers, keep)
    print(report)
    print(f"{options.count / (time.monotonic() - start):.0f} files/s")
    return bool(report.findings)


if __name__ == "__main__":
    sys.exit(main())
