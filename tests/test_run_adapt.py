"""Runs that adapt weights: what they say, what they leave, and how they go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from random_weights import randomise
from run_files import read_rows, read_weights
from vit_lightning.assess import evaluate
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.experiment import load_experiment, parse_experiment
from vit_lightning.factory import create_model, save_model
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.publish.run_card import training_section
from vit_lightning.publish.run_record import read_run
from vit_lightning.run import train
from vit_lightning.run_folder import checkpoint_step
from vit_lightning.settings import AdaptSettings
from vit_lightning.training.task import VisionTask

pytestmark = pytest.mark.usefixtures("few_figures")

Write = Callable[..., Path]
CONFIG = ViTConfig(
    image_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_dim=16, num_classes=0
)
LORA = ["adapt.method=lora", 'adapt.lora={"rank": 2, "alpha": 4, "dropout": 0.1}']


@pytest.fixture
def adapting(tmp_path: Path, tiny: dict[str, Any], write: Write) -> Path:
    """Six steps from weights, with a checkpoint after each."""
    model = create_model(CONFIG)
    randomise(model, seed=7)
    save_model(model, tmp_path / "weights.safetensors")
    tiny["model"] = {"name": None, "weights": str(tmp_path / "weights.safetensors")}
    trainer = {"max_steps": 6, "checkpoint_every_steps": 1}
    return write(tiny, trainer=trainer)


def _card(run: Path) -> str:
    config = CONFIG.replace(num_classes=2)
    return training_section(read_run(run), config, Preprocessing("paper", (16, 16), 3))


# Runs


def test_a_linear_probe_leaves_the_backbone(
    adapting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(adapting, ["adapt.method=linear"])
    output = capsys.readouterr().out
    total = sum(p.numel() for p in VisionTransformer(CONFIG.replace(num_classes=2)).parameters())
    assert f"trained    34 of {total:,} parameters (linear)\n" in output
    before = read_weights(tmp_path / "weights.safetensors")
    after = read_weights(result.run / "model.safetensors")
    assert {key for key in after if not key.startswith("head.")} == set(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert after["head.weight"].any()
    assert "| trained | the head alone (linear probe) |" in _card(result.run)


def test_a_run_that_trains_everything_says_nothing_of_it(
    adapting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(adapting, ["trainer.max_steps=1"])
    assert "trained" not in capsys.readouterr().out
    assert "| trained |" not in _card(result.run)


def test_a_run_with_low_rank_updates_goes_on_and_leaves_plain_models(
    adapting: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [*LORA, "adapt.layer_decay=0.9", "adapt.head_first_steps=2"]
    straight = train(adapting, [*settings, f"runs_dir={tmp_path / 'straight'}"])
    words = "lora of rank 2, alpha 4 on qkv proj with dropout 0.1, layer_decay 0.9"
    assert f" parameters ({words}, head_first_steps 2)\n" in capsys.readouterr().out
    original = VisionTask.on_train_batch_start

    def stop(task: VisionTask, batch: Any, batch_idx: int) -> None:
        original(task, batch, batch_idx)
        if task.global_step == 3:
            monkeypatch.setattr(VisionTask, "on_train_batch_start", original)
            raise KeyError

    monkeypatch.setattr(VisionTask, "on_train_batch_start", stop)
    with pytest.raises(KeyError):
        train(adapting, settings)
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert checkpoint_step(folder / "last.ckpt") == 3
    with pytest.raises(InputError, match=r"adapt\.lora\.rank: 2 there, 3 here"):
        train(adapting, [*settings, "adapt.lora.rank=3"], resume="auto")
    torch.manual_seed(999)  # nothing may depend on what this process has drawn
    resumed = train(adapting, settings, resume="auto")
    assert (resumed.best, resumed.final) == (straight.best, straight.final)

    plain = VisionTransformer(CONFIG.replace(num_classes=2)).state_dict().keys()
    for name in ("last.ckpt", "best.ckpt", "model.safetensors"):
        expected, found = (read_weights(result.run / name) for result in (straight, resumed))
        assert found.keys() == expected.keys() == plain
        assert all(torch.equal(found[key], expected[key]) for key in plain), name
    factors = [
        torch.load(result.run / "last.ckpt", weights_only=True)["lora"]
        for result in (straight, resumed)
    ]
    assert len(factors[0]) == 2 * 2 * 3
    assert all(torch.equal(factors[1][key], value) for key, value in factors[0].items())
    assert factors[0]["model.blocks.1.attn.proj.lora_b"].any()
    # What the head reads was other than at first when it was measured.
    assert evaluate(adapting, resumed.checkpoint).metrics == resumed.best["val"]
    card = _card(resumed.run)
    assert "LoRA of rank 2, α 4, on qkv, proj of every block, dropout 0.1, merged" in card
    assert "| head alone | for the first 2 steps |" in card
    assert "| layer decay | each layer 0.9 times the rate of the next |" in card


def test_the_rate_that_is_logged_is_the_heads(adapting: Path) -> None:
    result = train(adapting, ["adapt.method=last-1", "adapt.layer_decay=0.5"])
    rates = read_rows(result.run, "train/lr")
    assert rates[0] == pytest.approx(0.1)
    assert "| trained | the last block, the last norm and the head |" in _card(result.run)


# Settings


@pytest.mark.parametrize(
    ("adapt", "words"),
    [
        ({"method": "lin"}, r'adapt\.method: there is no method "lin": take full, linear, lora, '),
        ({"method": "last-0"}, r'adapt\.method: there is no method "last-0"'),
        ({"method": "last"}, r'adapt\.method: there is no method "last"'),
        ({"method": "last-1\n"}, r'adapt\.method: there is no method "last-1\n"'),
        ({"lora": {}}, r"adapt: lora is of method lora, and the method is full"),
        (
            {"method": "lora", "lora": {"targets": []}},
            r"adapt\.lora\.targets: tuple should have at least 1 item",
        ),
        (
            {"method": "lora", "lora": {"targets": ["qkv", "fc3"]}},
            r"adapt\.lora\.targets\.1: input should be 'qkv', 'proj', 'fc1' or 'fc2' \(got \"fc3\"",
        ),
        (
            {"method": "lora", "lora": {"targets": ["qkv", "qkv"]}},
            r"adapt\.lora: targets: each layer can be named once",
        ),
        ({"method": "lora", "lora": {"rank": 0}}, r"adapt\.lora\.rank: .* greater than 0"),
        ({"method": "linear", "layer_decay": 0.5}, r"adapt: linear trains the head alone"),
        ({"method": "linear", "head_first_steps": 2}, r"adapt: linear trains the head alone"),
        ({"layer_decay": 0.0}, r"adapt\.layer_decay: .* greater than 0"),
        ({"layer_decay": 1.1}, r"adapt\.layer_decay: .* less than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tiny: dict[str, Any], adapt: dict[str, Any], words: str
) -> None:
    tiny["model"]["weights"] = "weights.npz"
    with pytest.raises(InputError, match=words):
        parse_experiment(tiny | {"adapt": adapt}, "tiny.json")


@pytest.mark.parametrize(
    "adapt", [{"method": "linear"}, {"method": "lora"}, {"head_first_steps": 1}]
)
def test_random_weights_are_not_kept(tiny: dict[str, Any], adapt: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"with model\.weights null they are random: name weights"):
        parse_experiment(tiny | {"adapt": adapt}, "tiny.json")


def test_rates_by_layer_are_for_models_from_scratch_too(tiny: dict[str, Any]) -> None:
    experiment = parse_experiment(tiny | {"adapt": {"layer_decay": 0.8}}, "tiny.json")
    assert experiment.adapt.layer_decay == 0.8


@pytest.mark.parametrize(("method", "blocks"), [("last-12", 12), ("last-1", 1), ("linear", None)])
def test_the_number_of_blocks_is_in_the_methods_name(method: str, blocks: int | None) -> None:
    assert AdaptSettings(method=method).last_blocks == blocks


def test_more_blocks_than_there_are_and_a_rank_too_high_are_refused(adapting: Path) -> None:
    with pytest.raises(InputError, match=r"adapt\.method: last-3 .* at most last-2, or full"):
        train(adapting, ["adapt.method=last-3"])
    with pytest.raises(InputError, match=r"adapt\.lora\.rank: .* at most rank 16, got 17"):
        train(adapting, ["adapt.method=lora", "adapt.lora.rank=17"])
    assert not (adapting.parent / "runs").exists()
    assert load_experiment(adapting).adapt == AdaptSettings()
