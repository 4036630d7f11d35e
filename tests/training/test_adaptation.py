"""What is trained changes, what is not stays bit for bit, also where a run goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from vit_lightning.data.datamodule import TrainData
from vit_lightning.errors import InputError
from vit_lightning.factory import load_model
from vit_lightning.models.lora import is_factor, merge_lora
from vit_lightning.settings import AdaptSettings, LoRASettings, OptimSettings, TrainerSettings
from vit_lightning.training.adaptation import layer_of, with_zero_gradients
from vit_lightning.training.callbacks import LastCheckpoint
from vit_lightning.training.task import VisionTask
from vit_lightning.training.trainer import build_trainer, quiet_lightning

STEPS = 8
MakeTask = Callable[..., VisionTask]
MakeData = Callable[..., TrainData]
ADAMW = OptimSettings(name="adamw", lr=0.01, warmup_steps=0, weight_decay=0.1)
LORA = AdaptSettings(method="lora", lora=LoRASettings(rank=2, targets=("qkv", "fc1"), dropout=0.2))
METHODS = {
    "linear": AdaptSettings(method="linear"),
    "last-1": AdaptSettings(method="last-1"),
    "lora": LORA,
    "full, decay": AdaptSettings(layer_decay=0.5),
    "full, head first": AdaptSettings(head_first_steps=4),
    "lora, head first": LORA.model_copy(update={"head_first_steps": 4}),
}


class Watch(L.Callback):
    """Calls a function with the task before every step; raises ``KeyError`` to stop a run."""

    def __init__(self, look: Callable[[VisionTask], None]) -> None:
        self.look = look

    def on_train_batch_start(
        self, trainer: L.Trainer, task: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        self.look(task)


def _fit(
    task: VisionTask,
    data: TrainData,
    last: Path | None = None,
    start: Path | None = None,
    look: Callable[[VisionTask], None] | None = None,
    precision: str = "32",
) -> VisionTask:
    callbacks: list[L.Callback] = [Watch(look)] if look else []
    callbacks += [LastCheckpoint(last, 1, STEPS)] if last else []
    settings = TrainerSettings(max_steps=STEPS, accelerator="cpu", devices=1)
    trainer = build_trainer(settings, precision=precision, callbacks=callbacks)
    trainer.val_check_interval = STEPS
    with quiet_lightning():
        trainer.fit(task, datamodule=data, ckpt_path=start, weights_only=True)
    assert trainer.global_step == STEPS
    return task


def _stop_at(step: int) -> Callable[[VisionTask], None]:
    def look(task: VisionTask) -> None:
        if task.global_step == step:
            raise KeyError

    return look


def _copied(task: VisionTask) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in task.model.state_dict().items()}


def _changed(task: VisionTask, before: dict[str, Tensor]) -> set[str]:
    return {key for key, value in task.model.state_dict().items() if not value.equal(before[key])}


# What is trained


EXPECTED: dict[str, Callable[[str], bool]] = {
    "linear": lambda key: key.startswith("head."),
    "last-1": lambda key: key.startswith(("blocks.1.", "norm.", "head.")),
    "lora": lambda key: key.startswith("head.") or is_factor(key),
    "full, decay": lambda _: True,
}


@pytest.mark.parametrize("method", EXPECTED)
def test_the_rest_stays_bit_for_bit_and_has_no_state(
    make_task: MakeTask, make_data: MakeData, method: str
) -> None:
    task = make_task(STEPS, adapt=METHODS[method])
    before, names = _copied(task), dict(task.model.named_parameters())
    trained = {key for key in before if EXPECTED[method](key)}
    assert {name for name, item in names.items() if item.requires_grad} == trained
    _fit(task, make_data(STEPS))
    assert _changed(task, before) == trained
    optimizer = task.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert set(optimizer.state) == {names[key] for key in trained}


def test_a_linear_probe_keeps_nothing_of_the_backbone_for_a_backward_pass(
    make_task: MakeTask,
) -> None:
    sizes: dict[str, list[int]] = {}
    pictures = torch.rand(6, 1, 16, 16)
    for method in ("full", "linear"):
        task = make_task(STEPS, adapt=AdaptSettings(method=method))
        task.adaptation.set_modes(0)
        kept = sizes.setdefault(method, [])

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            task(pictures).sum().backward()
    assert sizes["linear"] == [6 * 16]  # what entered the head
    assert sum(sizes["full"]) > 10_000


@pytest.mark.parametrize(
    ("adapt", "draws"),
    [
        (AdaptSettings(method="linear"), (False, False, False)),
        (AdaptSettings(method="last-1"), (False, False, True)),
        (AdaptSettings(method="last-2"), (False, True, True)),
        (LORA, (False, True, True)),
        (AdaptSettings(), (True, True, True)),
    ],
)
def test_below_what_is_trained_nothing_is_dropped(
    make_task: MakeTask,
    make_data: MakeData,
    adapt: AdaptSettings,
    draws: tuple[bool, bool, bool],
) -> None:
    seen = set()

    def look(task: VisionTask) -> None:
        model = task.model
        seen.add((model.dropout.training, *(block.mlp.dropout.training for block in model.blocks)))
        model.eval()  # as somebody who looks at it in between may leave it

    task = make_task(STEPS, adapt=adapt)
    original = task.training_step

    def step(batch: Any, batch_idx: int) -> Tensor:
        look(task)
        return original(batch, batch_idx)

    task.training_step = step
    if adapt == AdaptSettings():
        task.model.train()
        look(task)
    else:
        _fit(task, make_data(STEPS))
    assert seen == {draws}


# The head first


def test_at_first_the_head_alone_is_trained_then_everything(
    make_task: MakeTask, make_data: MakeData
) -> None:
    task = make_task(STEPS, adapt=AdaptSettings(head_first_steps=3))
    task.optim = ADAMW
    before, head = _copied(task), {"head.weight", "head.bias"}
    changes, states = [], []

    def look(task: VisionTask) -> None:
        changes.append(_changed(task, before))
        states.append(len(task.optimizers(use_pl_optimizer=False).state))

    _fit(task, make_data(STEPS), look=look)
    assert changes == [set(), *[head] * 3, *[set(before)] * (STEPS - 4)]
    assert states == [0, *[2] * 3, *[len(before)] * (STEPS - 4)]
    # Nothing of what came before is in the optimizer's state of what has waited.
    state = task.optimizers(use_pl_optimizer=False).state
    assert state[task.model.head.weight]["step"] == STEPS
    assert state[task.model.pos_embed]["step"] == STEPS - 3


def test_while_the_head_is_alone_it_is_trained_as_in_a_linear_probe(
    make_task: MakeTask, make_data: MakeData
) -> None:
    weights = []
    for adapt in (AdaptSettings(method="linear"), AdaptSettings(head_first_steps=STEPS - 1)):
        found: dict[int, Tensor] = {}

        def look(task: VisionTask, found: dict[int, Tensor] = found) -> None:
            found[task.global_step] = task.model.head.weight.detach().clone()

        _fit(make_task(STEPS, adapt=adapt), make_data(STEPS), look=look)
        weights.append(found[STEPS - 1])
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
    assert weights[0].abs().max() > 0.1


def test_zero_gradients_leave_the_loss() -> None:
    waiting = [torch.nn.Parameter(torch.full((2, 3), 1e30)), torch.nn.Parameter(torch.ones(4))]
    weight = torch.nn.Parameter(torch.tensor(3.0))
    loss = with_zero_gradients(weight * 0.1, waiting)
    loss.backward()
    assert torch.equal(loss, weight * 0.1)
    assert weight.grad == pytest.approx(0.1)
    assert all(torch.equal(item.grad, torch.zeros_like(item)) for item in waiting)


# Rates


def test_layers_are_counted_as_beit_does() -> None:
    names = {
        "patch_embed.proj.weight": 0,
        "patch_embed.backbone.stem.conv.weight": 0,
        "pos_embed": 0,
        "cls_token": 0,
        "blocks.0.norm1.bias": 1,
        "blocks.11.attn.qkv.lora_a": 12,
        "norm.weight": 13,
        "pre_logits.weight": 13,
        "head.bias": 13,
    }
    assert {name: layer_of(name, 12) for name in names} == names


def test_rates_fall_layer_by_layer_and_follow_the_schedule(
    make_task: MakeTask, make_data: MakeData
) -> None:
    task = make_task(STEPS, adapt=AdaptSettings(layer_decay=0.5))
    task.optim = OptimSettings(lr=0.8, warmup_steps=0, weight_decay=0.1)
    rates: list[dict[str, tuple[float, float]]] = []

    def look(task: VisionTask) -> None:
        names = {id(item): name for name, item in task.model.named_parameters()}
        rates.append(
            {
                names[id(item)]: (group["lr"], group["weight_decay"])
                for group in task.optimizers(use_pl_optimizer=False).param_groups
                for item in group["params"]
            }
        )

    _fit(task, make_data(STEPS), look=look)
    assert len(rates[0]) == len(list(task.model.parameters()))
    assert rates[0]["head.weight"] == pytest.approx((0.8, 0.1))
    assert rates[0]["head.bias"] == pytest.approx((0.8, 0.0))
    assert rates[0]["norm.weight"] == pytest.approx((0.8, 0.0))
    assert rates[0]["blocks.1.attn.qkv.weight"] == pytest.approx((0.4, 0.1))
    assert rates[0]["blocks.0.mlp.fc1.weight"] == pytest.approx((0.2, 0.1))
    assert rates[0]["patch_embed.proj.weight"] == pytest.approx((0.1, 0.1))
    assert rates[0]["pos_embed"] == pytest.approx((0.1, 0.0))
    for name, (rate, _) in rates[STEPS // 2].items():  # half-way down the cosine
        assert rate == pytest.approx(rates[0][name][0] / 2)


# Going on


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [3, 5])
def test_resumed_run_is_bit_identical(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData, method: str, step: int
) -> None:
    adapt = METHODS[method]
    straight = _fit(make_task(STEPS, adapt=adapt), make_data(STEPS))
    last = tmp_path / "last.ckpt"
    with pytest.raises(KeyError):
        _fit(make_task(STEPS, adapt=adapt), make_data(STEPS), last, look=_stop_at(step))
    assert torch.load(last, weights_only=True)["global_step"] == step

    # As a run does: the model in the checkpoint, its updates merged, is adapted anew.
    resumed = make_task(STEPS, adapt=AdaptSettings())
    resumed = VisionTask(
        load_model(last).train(),
        resumed.optim,
        adapt=adapt,
        total_steps=STEPS,
        batch_size=resumed.batch_size,
        seed=3,
    )
    torch.manual_seed(999)  # nothing may depend on what this process has drawn
    frozen = {name for name, item in resumed.model.named_parameters() if not item.requires_grad}
    _fit(resumed, make_data(STEPS), start=last)
    expected = straight.model.state_dict()
    assert resumed.model.state_dict().keys() == expected.keys()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert not _changed(resumed, expected)
    initial = _copied(make_task(STEPS, adapt=adapt))
    assert not frozen & _changed(resumed, initial)


# Checkpoints


def test_a_checkpoint_holds_a_plain_model_with_merged_weights(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData
) -> None:
    last = tmp_path / "last.ckpt"
    task = make_task(STEPS, adapt=LORA)
    task = _fit(task, make_data(STEPS), last)
    stored = torch.load(last, weights_only=True)
    assert not any(is_factor(key) for key in stored["state_dict"])
    assert {key for key in stored["lora"] if is_factor(key)} == {
        f"model.{name}" for name, _ in task.model.named_parameters() if is_factor(name)
    }
    task.model.eval()
    pictures = torch.rand(4, 1, 16, 16) * 2 - 1
    loaded, expected = load_model(last), task.model(pictures)
    torch.testing.assert_close(loaded(pictures), expected, rtol=1e-4, atol=1e-5)
    initial = make_task(STEPS, adapt=AdaptSettings()).model
    assert not torch.equal(loaded.blocks[0].attn.qkv.weight, initial.blocks[0].attn.qkv.weight)
    assert torch.equal(loaded.blocks[0].attn.proj.weight, initial.blocks[0].attn.proj.weight)
    merge_lora(task.model)
    assert task.model.state_dict().keys() == loaded.state_dict().keys()
    for key, value in task.model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


def test_averaged_updates_are_merged_too(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData
) -> None:
    last = tmp_path / "last.ckpt"
    reference = make_task(STEPS)
    optim = reference.optim.model_copy(update={"ema_decay": 0.5})
    task = VisionTask(
        reference.model, optim, adapt=LORA, total_steps=STEPS, batch_size=reference.batch_size
    )
    _fit(task, make_data(STEPS), last)
    pictures = torch.rand(4, 1, 16, 16) * 2 - 1
    task.eval()
    expected = task.averaged(pictures)
    torch.testing.assert_close(load_model(last)(pictures), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(task.model(pictures), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32", "bf16-true"])
def test_momentum_in_bfloat16_and_low_rank_updates(
    tmp_path: Path, make_task: MakeTask, make_data: MakeData, precision: str
) -> None:
    task = make_task(STEPS, adapt=LORA)
    task.optim = OptimSettings(lr=0.1, warmup_steps=0, momentum_dtype="bfloat16")
    _fit(task, make_data(STEPS), tmp_path / "last.ckpt", precision=precision)
    state = task.optimizers(use_pl_optimizer=False).state
    assert {item["momentum_buffer"].dtype for item in state.values()} == {torch.bfloat16}
    qkv = task.model.blocks[0].attn.qkv
    assert qkv.lora_b.any()
    weight = load_model(tmp_path / "last.ckpt").blocks[0].attn.qkv.weight
    assert torch.equal(weight, qkv.merged_weight())
    assert weight.dtype == torch.float32


# Refusals


@pytest.mark.parametrize(
    ("adapt", "words"),
    [
        (AdaptSettings(method="last-3"), r"adapt\.method: last-3 .*; take at most last-2, or full"),
        (
            AdaptSettings(method="lora", lora=LoRASettings(rank=17)),
            r"adapt\.lora\.rank: .* of qkv, 48 x 16, has at most rank 16, got 17",
        ),
        (
            AdaptSettings(head_first_steps=STEPS),
            r"adapt\.head_first_steps: .* for 8 steps leaves none of the run's 8 for the rest",
        ),
    ],
)
def test_what_does_not_go_with_the_model_is_refused(
    make_task: MakeTask, adapt: AdaptSettings, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        make_task(STEPS, adapt=adapt)
