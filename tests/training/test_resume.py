"""A run that is stopped and gone on with is the run that was not stopped."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from vit_lightning.data.datamodule import TrainData
from vit_lightning.errors import InputError
from vit_lightning.settings import TrainerSettings
from vit_lightning.training.callbacks import LastCheckpoint
from vit_lightning.training.task import VisionTask
from vit_lightning.training.trainer import AtomicCheckpointIO, build_trainer, quiet_lightning

STEPS = 20
VAL_EVERY = 5


class KilledError(Exception):
    pass


class KillAfter(L.Callback):
    """Ends the process' work in the middle of things, after the checkpoint of a step."""

    def __init__(self, step: int, micro_batch: int) -> None:
        self.step = step
        self.micro_batch = micro_batch

    def on_train_batch_start(
        self, trainer: L.Trainer, task: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        within = batch_idx % trainer.accumulate_grad_batches
        if trainer.global_step == self.step and within == self.micro_batch:
            raise KilledError


def _fit(
    folder: Path,
    task: VisionTask,
    data: TrainData,
    per_step: int,
    kill: L.Callback | None = None,
    start: Path | None = None,
) -> ModelCheckpoint:
    best = ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="val/accuracy",
        mode="max",
        enable_version_counter=False,
    )
    callbacks = [best, LastCheckpoint(folder / "last.ckpt", 1, VAL_EVERY)]
    settings = TrainerSettings(max_steps=STEPS, accelerator="cpu", devices=1)
    trainer = build_trainer(
        settings, precision="32", callbacks=[*callbacks, *([kill] if kill else [])]
    )
    trainer.accumulate_grad_batches = per_step
    trainer.val_check_interval = VAL_EVERY * per_step
    with quiet_lightning():
        trainer.fit(task, datamodule=data, ckpt_path=start, weights_only=True)
    assert trainer.global_step == STEPS
    return best


@pytest.mark.parametrize(
    ("workers", "micro_batch", "kill_at"),
    [(0, None, 7), (0, 4, 7), (2, None, 7), (2, 4, 7), (0, None, 5), (0, 4, 10), (0, None, 1)],
)
def test_resumed_run_is_bit_identical(
    tmp_path: Path,
    make_task: Callable[..., VisionTask],
    make_data: Callable[..., TrainData],
    workers: int,
    micro_batch: int | None,
    kill_at: int,
) -> None:
    per_step = 1 if micro_batch is None else 2
    options = {"workers": workers, "micro_batch": micro_batch}
    straight = make_task(STEPS)
    best = _fit(tmp_path / "straight", straight, make_data(STEPS, **options), per_step)

    folder = tmp_path / "stopped"
    kill = KillAfter(kill_at, per_step - 1)
    with pytest.raises(KilledError):
        _fit(folder, make_task(STEPS), make_data(STEPS, **options), per_step, kill)
    last = folder / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == kill_at

    resumed = make_task(STEPS)
    torch.manual_seed(999)  # nothing may depend on what this process has drawn
    best_again = _fit(folder, resumed, make_data(STEPS, **options), per_step, start=last)
    expected = straight.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert best_again.best_model_score == best.best_model_score
    steps = [
        torch.load(run / "best.ckpt", weights_only=True)["global_step"]
        for run in (tmp_path / "straight", folder)
    ]
    assert steps[0] == steps[1]


def test_training_changes_the_weights_and_draws(
    tmp_path: Path, make_task: Callable[..., VisionTask], make_data: Callable[..., TrainData]
) -> None:
    """The comparison above is of something: weights move, and another seed gives others."""
    tasks = [make_task(STEPS), make_task(STEPS)]
    tasks[1].seed = 4
    before = tasks[0].model.blocks[0].mlp.fc1.weight.detach().clone()
    for number, task in enumerate(tasks):
        _fit(tmp_path / str(number), task, make_data(STEPS), 1)
    first, second = (task.model.blocks[0].mlp.fc1.weight for task in tasks)
    assert not torch.equal(first, before)
    assert not torch.equal(first, second)


def test_a_resumed_run_may_cut_its_steps_otherwise(
    tmp_path: Path, make_task: Callable[..., VisionTask], make_data: Callable[..., TrainData]
) -> None:
    straight = make_task(STEPS, draws=False)
    _fit(tmp_path / "straight", straight, make_data(STEPS), 1)
    stopped = make_task(STEPS, draws=False)
    data = make_data(STEPS, micro_batch=3)
    with pytest.raises(KilledError):
        _fit(tmp_path, stopped, data, 2, KillAfter(7, 1))
    resumed = make_task(STEPS, draws=False)
    data = make_data(STEPS, micro_batch=2)
    _fit(tmp_path, resumed, data, 3, start=tmp_path / "last.ckpt")
    expected = straight.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-5, msg=key)


def test_a_run_that_was_moved_keeps_its_best(
    tmp_path: Path, make_task: Callable[..., VisionTask], make_data: Callable[..., TrainData]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with pytest.raises(KilledError):
        _fit(old, make_task(STEPS), make_data(STEPS), 1, KillAfter(7, 0))
    last = torch.load(old / "last.ckpt", weights_only=True)
    (state,) = (last["callbacks"][key] for key in last["callbacks"] if "ModelCheckpoint" in key)
    state["best_model_score"] = torch.tensor(2.0)  # nothing will be better
    state["best_k_models"] = {state["best_model_path"]: torch.tensor(2.0)}
    state["kth_value"] = torch.tensor(2.0)
    torch.save(last, old / "last.ckpt")
    old.rename(new)
    best = (new / "best.ckpt").read_bytes()
    after = _fit(new, make_task(STEPS), make_data(STEPS), 1, start=new / "last.ckpt")
    assert after.best_model_path == str(new / "best.ckpt")
    assert (new / "best.ckpt").read_bytes() == best


def test_weights_that_are_no_numbers_are_not_kept(
    tmp_path: Path, make_task: Callable[..., VisionTask], make_data: Callable[..., TrainData]
) -> None:
    class Poison(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, task: L.LightningModule) -> None:
            if trainer.global_step == 3:
                task.model.pos_embed.grad.fill_(float("nan"))

    with pytest.raises(InputError, match="the gradient's norm is nan at step 4"):
        _fit(tmp_path, make_task(STEPS), make_data(STEPS), 1, Poison())
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 3
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_a_checkpoint_is_written_beside_its_target_and_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "last.ckpt"
    target.write_bytes(b"old")

    def fail(checkpoint: object, path: Path) -> None:
        assert Path(path).parent == tmp_path
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        AtomicCheckpointIO().save_checkpoint({}, target)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert target.read_bytes() == b"old"
