"""Going on with a run that was stopped, through the doors that users take."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from run_files import read_events, read_rows, read_weights
from vit_lightning.cli import main
from vit_lightning.errors import InputError
from vit_lightning.run import train
from vit_lightning.run_folder import checkpoint_step
from vit_lightning.training.task import VisionTask

pytestmark = pytest.mark.usefixtures("few_figures")

Write = Callable[..., Path]


class KilledError(Exception):
    pass


def _kill_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """Stop the next run after ``step`` optimizer steps, in the middle of the following one."""
    original = VisionTask.on_train_batch_start

    def stop(task: VisionTask, batch: Any, batch_idx: int) -> None:
        original(task, batch, batch_idx)
        if task.global_step == step:
            monkeypatch.setattr(VisionTask, "on_train_batch_start", original)
            raise error

    monkeypatch.setattr(VisionTask, "on_train_batch_start", stop)


@pytest.fixture
def longer(tiny: dict[str, Any], write: Write) -> Path:
    """Six steps of a model that draws, with a checkpoint after each."""
    return write(
        tiny,
        model={"dropout": 0.2, "drop_path": 0.2, "depth": 2},
        trainer={"max_steps": 6, "checkpoint_every_steps": 1},
        loggers=["csv", "tensorboard"],
    )


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_lightning.training.callbacks.add_figure", lambda *_: None)


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize(
    ("step", "on_device"),
    [(3, "null"), (4, "null"), (3, "{}")],  # between two validations, and just after one
)
def test_resumed_run_is_the_one_that_was_not_stopped(
    longer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, on_device: str
) -> None:
    pictures = [f"data.on_device={on_device}", "data.augmentation.randaugment={}"]
    straight = train(longer, [f"runs_dir={tmp_path / 'straight'}", *pictures])
    _kill_at(monkeypatch, step, KilledError())
    with pytest.raises(KilledError):
        train(longer, pictures)
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert checkpoint_step(folder / "last.ckpt") == step
    assert not (folder / "result.json").exists()

    torch.manual_seed(999)  # nothing may depend on what this process has drawn
    resumed = train(longer, pictures, resume="auto")
    assert resumed.run == folder
    for name in ("last.ckpt", "best.ckpt"):
        expected = read_weights(straight.run / name)
        for key, value in read_weights(folder / name).items():
            assert torch.equal(value, expected[key]), (name, key)
    assert (resumed.best, resumed.final) == (straight.best, straight.final)
    assert (resumed.best_step, resumed.final_step) == (straight.best_step, 6)
    for column in ("train/loss", "train/lr", "val/loss", "val/accuracy"):
        assert read_rows(folder, column) == read_rows(straight.run, column)
    steps = [event.step for event in read_events(folder).Scalars("train/loss")]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert (folder / f"environment-from-{step}.json").exists()
    with pytest.raises(InputError, match="this run is finished"):
        train(longer, pictures, resume=str(folder))


@pytest.mark.usefixtures("_no_pictures")
def test_averaged_weights_are_resumed_and_are_the_model(
    longer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    overrides = ["optim.ema_decay=0.9"]
    straight = train(longer, [f"runs_dir={tmp_path / 'straight'}", *overrides])
    assert "; averaged weights: val accuracy" in capsys.readouterr().err
    _kill_at(monkeypatch, 3, KilledError())
    with pytest.raises(KilledError):
        train(longer, overrides)
    resumed = train(longer, overrides, resume="auto")
    weights, expected = (read_weights(run / "last.ckpt") for run in (resumed.run, straight.run))
    assert weights.keys() == expected.keys()
    for key, value in weights.items():
        assert torch.equal(value, expected[key]), key
    assert read_rows(resumed.run, "val/ema_loss") == read_rows(straight.run, "val/ema_loss")

    kept = torch.load(resumed.run / "last.ckpt", weights_only=True)["state_dict"]
    for key, value in weights.items():
        assert torch.equal(value, kept[f"averaged.{key}"])
    assert not torch.equal(kept["averaged.head.weight"], kept["model.head.weight"])
    loss = read_rows(resumed.run, "val/ema_loss")[5]
    assert resumed.final["val"].loss == pytest.approx(loss, rel=1e-5)


def test_pictures_of_a_resumed_run_are_all_there(
    longer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = np.zeros((8, 8, 3), dtype=np.uint8)
    monkeypatch.setattr("vit_lightning.training.loggers.figure_array", lambda _: small)
    _kill_at(monkeypatch, 4, KilledError())
    with pytest.raises(KilledError):
        train(longer)
    events = read_events(train(longer, resume="auto").run)
    assert [event.step for event in events.Images("val/attention")] == [1, 3, 5]
    assert [event.step for event in events.Images("train/batch")] == [0]


def test_run_that_was_stopped_before_its_report_is_concluded(
    longer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as stopped:
        stopped.setattr("vit_lightning.run.conclusion._write_reports", stop)
        with pytest.raises(KilledError):
            train(longer)
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    table = (folder / "metrics.csv").read_text()
    result = train(longer, resume="auto")
    assert (result.run, result.final_step) == (folder, 6)
    assert (folder / "result.json").exists()
    assert list(read_rows(folder, "train/loss")) == [0, 1, 2, 3, 4, 5]
    assert len((folder / "metrics.csv").read_text().splitlines()) == len(table.splitlines())


def test_other_settings_are_not_gone_on_with(
    longer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_at(monkeypatch, 1, KilledError())
    with pytest.raises(KilledError):
        train(longer)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"optim\.lr: 0\.1 there, 0\.2 here\n"):
        train(longer, ["optim.lr=0.2", "data.workers=0"], resume="auto")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("_no_pictures")
def test_auto_starts_anew_where_nothing_is_unfinished(
    longer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        assert main(["train", str(longer), "--resume", "auto", "trainer.max_steps=1"]) == 0
        assert ", from step" not in capsys.readouterr().out
        assert len(list((longer.parent / "runs" / "tiny").iterdir())) == number


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Lightning ignores further interrupts once it has seen one; the next test shall not."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_no_pictures", "_interruptible")
@pytest.mark.parametrize("step", [0, 3])
def test_ctrl_c_says_how_to_go_on(
    longer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
) -> None:
    _kill_at(monkeypatch, step, KeyboardInterrupt())
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(longer)])
    assert stopped.value.code == 130
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    last_line = capsys.readouterr().out.splitlines()[-1]
    if step:
        assert last_line == (
            f"stopped; {folder / 'last.ckpt'} holds step 3. Go on with the same command and "
            f"--resume {folder}"
        )
    else:
        assert last_line == "stopped before the first checkpoint: there is nothing to go on from"


def test_other_pictures_are_refused(
    longer: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    place = [f"data.root={root}"]
    _kill_at(monkeypatch, 3, KilledError())
    with pytest.raises(KilledError):
        train(longer, place)
    for split in ("train", "val"):
        (root / split / "cat").rename(root / split / "wolf")  # now after the dogs
    with pytest.raises(InputError, match=r"have changed since this run was started.*classes"):
        train(longer, place, resume="auto")
