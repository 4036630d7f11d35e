"""Some hundred of the mutated files, and that the fuzzer would notice what it looks for."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_readers
import pytest
from fuzz_readers import MARKER, run
from fuzz_seeds import make_seeds

from vit_lightning import InputError, load_bundle

SEEDS = {seed.kind: seed for seed in make_seeds()}
COUNT = 12 * len(SEEDS)


@pytest.mark.parametrize("kind", SEEDS)
def test_what_is_mutated_was_good(tmp_path: Path, kind: str) -> None:
    for name, data in SEEDS[kind].files.items():
        (tmp_path / name).write_bytes(data)
    assert load_bundle(tmp_path / SEEDS[kind].target).model.config.num_classes == 3


def test_mutated_files_are_refused_in_words_or_are_models(tmp_path: Path) -> None:
    report = run(COUNT, seed=2026, workers=2, keep=tmp_path)
    assert not report.findings, str(report)
    assert report.files == dict.fromkeys(SEEDS, 12)
    assert 0 < report.loaded.total() < COUNT / 2


def _raises(error: Exception) -> Callable[[Path], Any]:
    def load(path: Path) -> Any:
        raise error

    return load


def _runs(path: Path) -> Any:
    Path(MARKER).touch()
    raise InputError(str(path))


def _computes(path: Path) -> Any:
    start = time.process_time()
    while time.process_time() < start + 0.1:
        pass
    raise InputError(str(path))


@pytest.mark.parametrize(
    ("load", "problem"),
    [
        (_raises(KeyError("head")), "KeyError: 'head'"),
        (_raises(InputError("no such key")), "does not name the file"),
        (lambda path: _raises(InputError(f"{path}: {'x' * 10**5}"))(path), "a message of 100"),
        (_runs, "code of the file was executed"),
        (_computes, "s of computation"),
    ],
)
def test_harm_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], Any], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz_readers, "load_bundle", load)
    monkeypatch.setattr(fuzz_readers, "_CPU_SECONDS", 0.05)
    outcome = fuzz_readers._test_file(tmp_path, SEEDS["npz"], random.Random(0))
    assert problem in outcome.problem
    assert not outcome.loaded
