import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from vit_lightning.data.datamodule import TrainData
from vit_lightning.errors import InputError
from vit_lightning.factory import create_model, load_model
from vit_lightning.settings import OptimSettings, TrainerSettings
from vit_lightning.training.task import VisionTask
from vit_lightning.training.trainer import build_trainer, quiet_lightning

REFERENCE = Path(__file__).parents[1] / "reference"
TRAJECTORY = np.load(REFERENCE / "finetune_trajectory.npz")
RECIPES = json.loads((REFERENCE / "finetune_trajectory.json").read_text())


@pytest.fixture(autouse=True)
def _quiet() -> object:
    with quiet_lightning():
        yield


class Recorder(L.Callback):
    """Keeps the loss before each update and the head after it."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.heads: list[tuple[Tensor, Tensor]] = []
        self.norms: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, task: VisionTask, outputs: dict, batch: object, batch_idx: int
    ) -> None:
        self.losses.append(outputs["loss"].item())
        head = task.model.head
        self.heads.append((head.weight.detach().T.clone(), head.bias.detach().clone()))
        self.norms.append(float(task._grad_norm))


@pytest.mark.parametrize("tag", sorted(RECIPES))
def test_five_steps_are_the_originals(tag: str, tmp_path: Path) -> None:
    recipe = RECIPES[tag]
    source = load_model(REFERENCE / recipe["source"])
    model = create_model(
        source.config, weights=REFERENCE / recipe["source"], num_classes=recipe["num_classes"]
    )
    settings = OptimSettings(
        lr=recipe["base_lr"],
        decay=recipe["decay"],
        warmup_steps=recipe["warmup_steps"],
        momentum=recipe["momentum"],
        momentum_dtype=recipe["accumulator_dtype"],
        clip_norm=recipe["clip_global_norm"],
    )
    task = VisionTask(model, settings, total_steps=recipe["total_steps"])
    images = torch.from_numpy(TRAJECTORY["input"]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(TRAJECTORY["labels"]).long()
    batches = DataLoader(TensorDataset(images, labels), batch_size=len(images))
    recorder = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=recipe["steps_run"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder],
    )
    trainer.fit(task, batches, batches)

    np.testing.assert_allclose(recorder.losses, TRAJECTORY[f"{tag}/loss"], atol=5e-5)
    np.testing.assert_allclose(recorder.norms, TRAJECTORY[f"{tag}/grad_norm"], rtol=1e-4)
    for (kernel, bias), expected_kernel, expected_bias in zip(
        recorder.heads,
        TRAJECTORY[f"{tag}/head_kernel"],
        TRAJECTORY[f"{tag}/head_bias"],
        strict=True,
    ):
        np.testing.assert_allclose(kernel, expected_kernel, atol=1e-5)
        np.testing.assert_allclose(bias, expected_bias, atol=1e-5)
    with torch.inference_mode():
        logits = task.eval()(images)
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert loss == pytest.approx(float(TRAJECTORY[f"{tag}/loss_after_last_step"]), abs=5e-5)
    prefix = f"{tag}/final/"
    final = {key.removeprefix(prefix): TRAJECTORY[key] for key in TRAJECTORY if prefix in key}
    assert bool(final) == (recipe["decay"] == "cosine")
    if final:
        np.savez(tmp_path / "final.npz", **final)
        expected = load_model(tmp_path / "final.npz").state_dict()
        # A momentum near the middle of two bfloat16 numbers may round the other way here.
        atol = 1e-5 if recipe["accumulator_dtype"] == "float32" else 2e-4
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0.0, atol=atol)


def _fit(task: VisionTask, data: TrainData, per_step: int) -> dict[str, Tensor]:
    trainer = build_trainer(
        TrainerSettings(max_steps=4, accelerator="cpu", devices=1, log_every_steps=1),
        precision="32",
    )
    trainer.accumulate_grad_batches = per_step
    trainer.fit(task, datamodule=data)
    return {key: value.detach() for key, value in task.model.state_dict().items()}


def test_micro_batches_change_the_rounding_alone(
    make_task: Callable[..., VisionTask], make_data: Callable[..., TrainData]
) -> None:
    weights = []
    for micro_batch, per_step in ((None, 1), (4, 2), (1, 6)):
        task = make_task(4, draws=False)
        data = make_data(4, micro_batch=micro_batch)
        assert data.stream(0, 1).micro_batches_per_step == per_step
        weights.append(_fit(task, data, per_step))
    for other in weights[1:]:
        for key, value in weights[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-5)


def test_logged_values_are_those_of_the_whole_step(
    make_task: Callable[..., VisionTask], make_data: Callable[..., TrainData]
) -> None:
    logged: list[dict[str, float]] = []
    for micro_batch, per_step in ((None, 1), (4, 2)):
        task = make_task(1, draws=False)
        task._log_step = logged.append  # type: ignore[method-assign]
        task._sums = torch.full((3,), 9.0)  # of a step that was broken off
        _fit(task, make_data(1, micro_batch=micro_batch), per_step)
    assert len(logged) == 2
    assert logged[0]["train/loss"] == pytest.approx(np.log(3), abs=1e-6)  # a head of zeros
    assert logged[0]["train/lr"] == 0.0
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)


def test_divergence_is_said(
    make_task: Callable[..., VisionTask], make_data: Callable[..., TrainData]
) -> None:
    task = make_task(2)
    task.model.pos_embed.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"the training has diverged\. Lower optim\.lr"):
        _fit(task, make_data(2), 1)


def test_validation_is_exact_over_uneven_batches(
    make_task: Callable[..., VisionTask], make_data: Callable[..., TrainData]
) -> None:
    task, data = make_task(2), make_data(2)
    torch.nn.init.normal_(task.model.head.weight)
    trainer = build_trainer(
        TrainerSettings(max_steps=2, accelerator="cpu", devices=1), precision="32"
    )
    (metrics,) = trainer.validate(task, datamodule=data, verbose=False)
    pictures, labels = data.splits.val, torch.from_numpy(data.splits.val.labels)
    images = [data.preprocessing(pictures.load(index)) for index in range(len(pictures))]
    with torch.inference_mode():
        logits = task.eval()(torch.stack(images))
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    assert len(labels) == 11
    assert metrics["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["val/accuracy"] == pytest.approx(accuracy, rel=1e-5)


class Targets(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Pictures of noise with targets of any kind."""

    def __init__(self, targets: Tensor) -> None:
        self.images = torch.rand(
            (len(targets), 1, 16, 16), generator=torch.Generator().manual_seed(5)
        )
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.targets[index]


SOFT = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6], [0.2, 0.2, 0.6]] * 2)
HOT = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]])


def _gradients(task: VisionTask, targets: Tensor, per_step: int) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}

    class Keep(L.Callback):
        def on_before_optimizer_step(self, *_: object) -> None:
            for name, parameter in task.model.named_parameters():
                kept[name] = parameter.grad.clone()

    torch.nn.init.normal_(task.model.head.weight)
    trainer = build_trainer(
        TrainerSettings(max_steps=1, accelerator="cpu", devices=1, log_every_steps=1),
        precision="32",
        callbacks=[Keep()],
    )
    trainer.accumulate_grad_batches = per_step
    labels = targets if task.multi_label or targets.ndim == 1 else targets.argmax(dim=1)
    batches = DataLoader(Targets(targets), batch_size=len(targets) // per_step)
    trainer.fit(task, batches, DataLoader(Targets(labels)))
    return kept


@pytest.mark.parametrize(
    ("targets", "multi_label", "settings"),
    [
        (SOFT, False, {"label_smoothing": 0.1}),
        (SOFT, False, {"loss": "binary_cross_entropy"}),
        (SOFT.argmax(1), False, {"loss": "focal"}),
        (SOFT.argmax(1), False, {"class_weights": "balanced"}),
        (HOT, True, {"class_weights": {"a": 4.0}}),
        (HOT, True, {"loss": "focal"}),
    ],
)
def test_micro_batches_change_no_gradient_of_any_loss(
    make_task: Callable[..., VisionTask],
    targets: Tensor,
    multi_label: bool,
    settings: dict[str, object],
) -> None:
    gradients = []
    for per_step in (1, 3):
        task = VisionTask(
            make_task(1, draws=False).model,
            OptimSettings(lr=0.1, clip_norm=None, **settings),
            total_steps=1,
            batch_size=len(targets),
            classes=("a", "b", "c"),
            class_counts=(1, 2, 3),
            multi_label=multi_label,
        )
        gradients.append(_gradients(task, targets, per_step))
    whole, cut = gradients
    assert whole.keys() == cut.keys()
    assert any(bool(value.any()) for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-4, atol=1e-6)


def test_validation_of_several_labels(make_task: Callable[..., VisionTask]) -> None:
    task = make_task(1, multi_label=True, classes=("a", "b", "c"))
    assert task.score_name == "val/mean_average_precision"
    torch.nn.init.normal_(task.model.head.weight)
    trainer = build_trainer(
        TrainerSettings(max_steps=1, accelerator="cpu", devices=1), precision="32"
    )
    data = Targets(HOT.to(torch.uint8))
    (metrics,) = trainer.validate(task, DataLoader(data, batch_size=4), verbose=False)
    with torch.inference_mode():
        logits = task.eval()(data.images).double().numpy()
    p, hot = 1 / (1 + np.exp(-logits)), HOT.numpy()
    loss = -(hot * np.log(p) + (1 - hot) * np.log(1 - p)).sum(1).mean()
    assert metrics["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["val/accuracy"] == pytest.approx(((p >= 0.5) == hot).all(1).mean())
    expected = average_precision_score(hot, logits)
    assert 0 < expected < 1
    assert metrics["val/mean_average_precision"] == pytest.approx(expected, rel=1e-5)
