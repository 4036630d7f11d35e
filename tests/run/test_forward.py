"""Runs whose steps are computed in halves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from run_files import read_rows, read_weights
from vit_lightning.errors import InputError
from vit_lightning.json_file import read_json, write_json
from vit_lightning.run import forward, train
from vit_lightning.training.halves import ForwardInHalves
from vit_lightning.training.task import VisionTask

pytestmark = pytest.mark.usefixtures("few_figures")

Write = Callable[..., Path]
# What draws is halved where nothing is computed again.
DRAWS = {"dropout": 0.2, "drop_path": 0.2, "depth": 2}
HALVES = ["trainer.halves=true", "trainer.activation_checkpointing=none"]


class KilledError(Exception):
    pass


@pytest.fixture
def experiment(tiny: dict[str, Any], write: Write) -> Path:
    trainer = {"max_steps": 6, "checkpoint_every_steps": 1, "accelerator": "cpu"}
    return write(tiny, model=DRAWS, trainer=trainer)


def _killed(monkeypatch: pytest.MonkeyPatch, experiment: Path, overrides: list[str]) -> Path:
    """The folder of a run that was stopped after three steps."""
    original = VisionTask.training_step

    def step(task: VisionTask, batch: Any, batch_idx: int) -> torch.Tensor:
        if task.global_step == 3:
            raise KilledError
        return original(task, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(VisionTask, "training_step", step)
        with pytest.raises(KilledError):
            train(experiment, overrides)
    (folder,) = (experiment.parent / "runs" / "tiny").iterdir()
    return folder


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_a_run_in_halves_goes_on_as_if_it_had_not_been_stopped(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    overrides = [*HALVES, f"trainer.micro_batch={micro_batch}"]
    straight = train(experiment, [f"runs_dir={tmp_path / 'straight'}", *overrides])
    folder = _killed(monkeypatch, experiment, overrides)
    assert train(experiment, overrides, resume="auto").run == folder
    expected = read_weights(straight.run / "last.ckpt")
    for key, value in read_weights(folder / "last.ckpt").items():
        assert torch.equal(value, expected[key]), key
    assert read_rows(folder, "train/loss") == read_rows(straight.run, "train/loss")


def test_halves_train_what_the_whole_does(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = ForwardInHalves.__call__

    def counted(self: ForwardInHalves, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return original(self, images)

    monkeypatch.setattr(ForwardInHalves, "__call__", counted)
    still = ["model.dropout=0", "model.drop_path=0"]
    whole = train(experiment, [*still, "trainer.halves=false"])
    assert not seen
    halved = train(experiment, [*still, "trainer.halves=true"])
    assert seen == [4] * 6  # and not the validation
    expected = read_weights(whole.run / "last.ckpt")
    for key, value in read_weights(halved.run / "last.ckpt").items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6, msg=key)
    said = {run: read_json(run / "environment.json")["halves"] for run in (whole.run, halved.run)}
    assert list(said.values()) == ["off", "on"]


@pytest.mark.parametrize("known", [True, False])
def test_a_run_goes_on_as_it_began(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Also one of a version that knew no halves."""
    keeps = ["trainer.activation_checkpointing=none"]
    monkeypatch.setattr(forward, "repays_halving", lambda *_: known)
    folder = _killed(monkeypatch, experiment, keeps)
    environment = read_json(folder / "environment.json")
    assert environment["halves"] == ("on" if known else "off")
    if not known:
        del environment["halves"]
        write_json(folder / "environment.json", environment)
    monkeypatch.setattr(forward, "repays_halving", lambda *_: not known)
    train(experiment, keeps, resume="auto")
    later = read_json(folder / "environment-from-3.json")
    assert later["halves"] == ("on" if known else "off")


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.activation_checkpointing=full"],
        ["trainer.activation_checkpointing=selective"],  # computes dropout again
        ["model.attention_dropout=0.1", "trainer.activation_checkpointing=none"],
        ["trainer.devices=2"],
    ],
)
def test_what_cannot_be_halved_is_refused_before_a_folder_is_made(
    experiment: Path, overrides: list[str]
) -> None:
    with pytest.raises(InputError, match=r"trainer\.halves: .* set it to false, or to auto"):
        train(experiment, ["trainer.halves=true", *overrides])
    assert not (experiment.parent / "runs").exists()
