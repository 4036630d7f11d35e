"""A tiny experiment on pictures made here, and one finished run for all who look at runs."""

import contextlib
import copy
import io
import json
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finished_run import Finished

# Threads that wait for their next piece of work in a loop, as they do by default, slow everything
# down tenfold on a machine that has other things to do. Has to be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where an environment is made for some tests, those that are skipped there have failed."""
    report = yield
    if report.skipped and item.config.getoption("no_skips"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"
    return report


TINY_MODEL = {
    "name": None,
    "image_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_dim": 16,
}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of dark cats and bright dogs: five of each in train, three in val."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for name, brightness in (("cat", 60), ("dog", 190)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.normal(brightness, 20, (20, 24, 3)).clip(0, 255)
                picture = Image.fromarray(pixels.astype(np.uint8))
                picture.save(root / split / name / f"{number}.png")
    return root


@pytest.fixture
def tiny(tmp_path: Path, pictures: Path) -> dict[str, Any]:
    """An experiment of four steps on ``pictures``; runs and checkpoints go to ``tmp_path``."""
    return {
        "name": "tiny",
        "model": copy.deepcopy(TINY_MODEL),
        "data": {"root": str(pictures), "batch_size": 4, "eval_batch_size": 4, "workers": 0},
        "optim": {"lr": 0.1},
        "trainer": {"max_steps": 4, "val_every_steps": 2, "log_every_steps": 1},
        "loggers": ["csv"],
        "runs_dir": str(tmp_path / "runs"),
        "checkpoint_dir": str(tmp_path / "checkpoint"),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an experiment's values; the names of the parts go before changed fields."""

    def write_file(values: dict[str, Any], /, **parts: Any) -> Path:
        values = copy.deepcopy(values)
        for name, change in parts.items():
            values[name] = values[name] | change if isinstance(change, dict) else change
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(values))
        return path

    return write_file


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a tiny run; what they show is tested elsewhere."""
    monkeypatch.setattr("vit_lightning.assess.Assessment.write", lambda *_, **__: None)
    monkeypatch.setattr("vit_lightning.run.preparation.Run.draw_attention", lambda *_: None)
    monkeypatch.setattr("vit_lightning.run.conclusion.save_figure", lambda *_: None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from vit_lightning.run import train  # slow to import, and most tests can do without

    folder = tmp_path_factory.mktemp("finished")
    values = {
        "name": "finished",
        "description": "Digits, looked at from all sides.",
        # Two rows and four columns that no patch covers.
        "model": TINY_MODEL | {"image_size": [18, 20], "in_channels": 1},
        "data": {
            "name": "digits",
            "batch_size": 32,
            "eval_batch_size": 180,
            "workers": 0,
            "augmentation": {"crop": "none", "flip": False},
        },
        "optim": {"name": "adamw", "lr": 0.01},
        "trainer": {"max_steps": 4, "val_every_steps": 2, "log_every_steps": 1},
        "runs_dir": str(folder / "runs"),
        "checkpoint_dir": str(folder / "checkpoint"),
    }
    path = folder / "finished.json"
    path.write_text(json.dumps(values))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        result = train(path)
    return Finished(path, result, output.getvalue())
