"""Runs whose memory holds a part of a batch only."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from run_files import read_rows, read_weights
from vit_lightning.data.stream import StreamBatchSampler, largest_micro_batch
from vit_lightning.errors import InputError
from vit_lightning.json_file import read_json
from vit_lightning.run import micro_batch, train
from vit_lightning.training.footprint import Footprint
from vit_lightning.training.task import VisionTask

pytestmark = pytest.mark.usefixtures("few_figures")

Write = Callable[..., Path]
FULL = torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture
def experiment(tiny: dict[str, Any], write: Write) -> Path:
    """Six steps of four pictures; a momentum in bfloat16 would show how sums are rounded."""
    return write(
        tiny,
        trainer={"max_steps": 6, "micro_batch": "auto"},
        optim={"momentum_dtype": "float32"},
    )


def _fail(monkeypatch: pytest.MonkeyPatch, where: str, step: int, cuts: int) -> None:
    """Let memory be full at a step as long as it is cut into at most so many micro-batches."""

    def full(task: VisionTask) -> bool:
        return task.global_step == step and task.trainer.accumulate_grad_batches <= cuts

    if where == "update":
        original = torch.optim.SGD.step

        def update(self: torch.optim.SGD, closure: Any = None) -> Any:
            task = torch.optim.SGD.owner  # type: ignore[attr-defined]
            loss = closure()
            if full(task):
                raise FULL
            original(self)
            return loss

        monkeypatch.setattr(torch.optim.SGD, "step", update)
        start = VisionTask.on_train_batch_start

        def note(task: VisionTask, batch: Any, batch_idx: int) -> None:
            monkeypatch.setattr(torch.optim.SGD, "owner", task, raising=False)
            start(task, batch, batch_idx)

        monkeypatch.setattr(VisionTask, "on_train_batch_start", note)
        return
    hook = {
        "transfer": "on_train_batch_start",
        "forward": "training_step",
        "backward": "on_after_backward",
    }[where]
    original_hook = getattr(VisionTask, hook)

    def fail(task: VisionTask, *arguments: Any) -> Any:
        if full(task):
            raise FULL
        return original_hook(task, *arguments)

    monkeypatch.setattr(VisionTask, hook, fail)


@pytest.mark.parametrize("on_device", ["null", "{}"])
@pytest.mark.parametrize(
    ("where", "step"),
    [
        ("transfer", 4),  # just after a validation
        ("forward", 0),
        ("forward", 3),
        ("backward", 2),
        ("backward", 5),
        ("update", 0),
        ("update", 3),
    ],
)
def test_a_run_goes_on_with_smaller_micro_batches(
    experiment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    step: int,
    on_device: str,
) -> None:
    pictures = f"data.on_device={on_device}"
    straight = train(experiment, ["trainer.micro_batch=2", pictures])
    _fail(monkeypatch, where, step, cuts=1)
    result = train(experiment, [pictures])
    said = capsys.readouterr().out
    assert f"too small for 4 pictures at once: on from step {step} with 2\n" in said
    assert read_json(result.run / f"environment-from-{step}.json")["micro_batch"] == "2 of 4"
    expected = read_weights(straight.run / "last.ckpt")
    for name, value in read_weights(result.run / "last.ckpt").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)
        if step == 0:
            assert torch.equal(value, expected[name])
    for column, at in (("train/loss", range(6)), ("val/loss", (1, 3, 5))):
        rows, wanted = (read_rows(run, column) for run in (result.run, straight.run))
        assert list(rows) == list(wanted) == list(at)
        assert rows == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("workers", [2])
def test_it_halves_until_nothing_is_left_to_cut(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    _fail(monkeypatch, "backward", 3, cuts=4)
    with pytest.raises(InputError, match=r"lower trainer.micro_batch \(now 1\).*CUDA out of"):
        train(experiment, [f"data.workers={workers}"])


def test_a_fixed_number_is_not_changed(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, "forward", 3, cuts=2)
    with pytest.raises(InputError, match=r"lower trainer.micro_batch \(now 2\)"):
        train(experiment, ["trainer.micro_batch=2"])
    (run,) = experiment.parent.glob("runs/tiny/*")
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 3
    result = train(experiment, ["trainer.micro_batch=1"], resume="auto")
    assert list(read_rows(result.run, "train/loss")) == list(range(6))


def test_a_full_memory_in_validation_is_said(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(VisionTask, "validation_step", fail)
    with pytest.raises(InputError, match=r"lower data.eval_batch_size \(now 4\)"):
        train(experiment)


def _memory(monkeypatch: pytest.MonkeyPatch, pictures: float) -> None:
    """Free memory for so many pictures, with what is left to be careful."""
    monkeypatch.setattr(micro_batch, "measure_footprint", lambda *_: Footprint(0, 1000))
    monkeypatch.setattr(micro_batch, "free_memory", lambda: int(1000 * pictures))


@pytest.mark.parametrize(("held", "found"), [(100, 4), (4, 2), (1.3, 1), (0.5, 1)])
def test_free_memory_decides(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, held: float, found: int
) -> None:
    _memory(monkeypatch, held)
    result = train(experiment, ["trainer.max_steps=2"])
    assert read_json(result.run / "environment.json")["micro_batch"] == f"{found} of 4"


def test_pictures_on_the_device_take_their_part(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _memory(monkeypatch, 4 + 10 * 20 * 24 * 3 / 1000)
    result = train(experiment, ["trainer.max_steps=2", "data.on_device={}"])
    assert read_json(result.run / "environment.json")["micro_batch"] == "2 of 4"


@pytest.mark.parametrize(("now", "found"), [(100, 2), (2, 2), (1.5, 1)])
def test_a_resumed_run_is_cut_as_before(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, now: float, found: int
) -> None:
    with monkeypatch.context() as stopped:
        _memory(stopped, 4)
        stopped.setattr(VisionTask, "validation_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(experiment, ["trainer.checkpoint_every_steps=1"])
    _memory(monkeypatch, now)
    result = train(experiment, resume="auto")
    assert read_json(result.run / "environment.json")["micro_batch"] == "2 of 4"
    assert micro_batch.recorded_micro_batch(result.run) == found


@pytest.mark.parametrize("pairs", [False, True])
def test_the_largest_micro_batch_is_what_the_stream_makes_of_it(pairs: bool) -> None:
    unit = 2 if pairs else 1
    for units, limit, world_size in itertools.product(range(1, 12), range(25), (1, 2, 3)):
        if world_size > units:
            continue
        batch_size = units * unit
        found = largest_micro_batch(batch_size, limit, world_size=world_size, pairs=pairs)
        stream = StreamBatchSampler(
            5,
            batch_size=batch_size,
            num_steps=1,
            seed=0,
            world_size=world_size,
            micro_batch=found,
            pairs=pairs,
        )
        assert stream.most == found
        # The finest cut that leaves no rank without its part.
        finest = -(-units // (world_size * (units // world_size))) * unit
        assert found <= max(limit, finest)
