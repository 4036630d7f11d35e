import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vit_lightning.cli import main, main_by_mode
from vit_lightning.experiment import load_experiment, parse_experiment
from vit_lightning.legacy import convert_legacy, is_legacy

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

FIRST_GENERATION: dict[str, Any] = {
    "name": "hymenoptera_pretrain",
    "model_type": "ViT-B_16",
    "pretrained_dir": "checkpoint/ViT-B_16.npz",
    "logdir": "logs",
    "img_size": 224,
    "num_classes": 1,
    "max_epochs": 25,
    "train_batch_size": 10,
    "eval_batch_size": 8,
    "learning_rate": 3e-2,
    "weight_decay": 0,
    "local_rank": -1,
}
SECOND_GENERATION: dict[str, Any] = FIRST_GENERATION | {
    "name": "cifar10_scratch",
    "dataset": "cifar10",
    "pretrained": False,
    "patch_size": 16,
    "hidden_size": 768,
    "mlp_dim": 3072,
    "num_heads": 12,
    "num_layers": 12,
    "num_workers": 4,
}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(values: dict[str, Any]) -> Path:
        path = tmp_path / "old.json"
        path.write_text(json.dumps(values))
        return path

    return write


@pytest.mark.parametrize("values", [FIRST_GENERATION, SECOND_GENERATION])
def test_both_generations_are_recognised(values: dict[str, Any]) -> None:
    assert is_legacy(values)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.json")), ids=lambda path: path.stem)
def test_todays_files_are_not_mistaken(path: Path) -> None:
    assert not is_legacy(json.loads(path.read_text(encoding="utf-8")))


def test_a_wrong_file_of_today_is_not_mistaken() -> None:
    assert not is_legacy({"name": "it", "data": {}, "img_size": 224, "model_type": "ViT-B_16"})
    assert not is_legacy({"name": "it", "max_epochs": 3, "learning_rate": 0.1})


def test_first_generation_becomes_the_same_experiment() -> None:
    text, unknown = convert_legacy(FIRST_GENERATION)
    experiment = parse_experiment(json.loads(text), "new.json")
    assert unknown == []
    assert experiment.name == "hymenoptera_pretrain"
    assert experiment.model.name == "ViT-B_16"
    assert experiment.model.weights == "checkpoint/ViT-B_16.npz"
    assert experiment.model.image_size == 224
    assert (experiment.data.name, experiment.data.root) == ("hymenoptera", "data/hymenoptera_data")
    assert (experiment.data.batch_size, experiment.data.eval_batch_size) == (10, 8)
    assert (experiment.optim.lr, experiment.optim.weight_decay) == (0.03, 0.0)
    assert (experiment.trainer.max_epochs, experiment.trainer.max_steps) == (25, None)
    assert experiment.runs_dir == "logs"


def test_second_generation_becomes_the_same_experiment() -> None:
    text, unknown = convert_legacy(SECOND_GENERATION)
    experiment = parse_experiment(json.loads(text), "new.json")
    assert unknown == []
    assert experiment.model.weights is None  # pretrained: false
    assert experiment.model.changes() == {
        "patch_size": 16,
        "embed_dim": 768,
        "mlp_dim": 3072,
        "num_heads": 12,
        "depth": 12,
    }
    assert (experiment.data.name, experiment.data.root) == ("cifar10", "data/cifar10")
    assert experiment.data.workers == 4


@pytest.mark.parametrize(
    ("dataset", "name", "root"),
    [
        ("CIFAR-100", "cifar100", "data/cifar100"),
        ("hymenoptera_data", "hymenoptera", "data/hymenoptera_data"),
    ],
)
def test_names_of_data_sets_are_understood(dataset: str, name: str, root: str) -> None:
    text, _ = convert_legacy(SECOND_GENERATION | {"dataset": dataset})
    data = parse_experiment(json.loads(text), "new.json").data
    assert (data.name, data.root) == (name, root)


def test_what_has_no_place_is_named() -> None:
    text, unknown = convert_legacy(FIRST_GENERATION | {"fp16": True, "mixup": 0.2})
    assert unknown == ["fp16", "mixup"]
    assert "mixup" not in text


@pytest.mark.parametrize(
    "command",
    [
        lambda path: main(["train", path]),
        lambda path: main(["eval", path, "--ckpt-path", "checkpoint/it.ckpt"]),
        lambda path: main_by_mode(["--mode", "train", "--expt", path]),
    ],
    ids=["train", "eval", "main.py"],
)
def test_the_answer_can_be_saved_from_the_command_line(
    command: Callable[[str], int],
    file: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = file(FIRST_GENERATION | {"fp16": True})
    assert command(str(path)) == 2
    printed = capsys.readouterr()
    saved = tmp_path / "new.json"
    saved.write_text(printed.out)
    assert load_experiment(saved).model.weights == "checkpoint/ViT-B_16.npz"
    assert printed.err.startswith(f"{path}: a flat experiment file of the predecessor.")
    assert "Without an equivalent: fp16." in printed.err


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("cifar10", {"name": "cifar10", "root": "data/cifar10"}),
        ("CIFAR-100", {"name": "cifar100", "root": "data/cifar100"}),
        ("hymenoptera_data", {"name": "hymenoptera", "root": "data/hymenoptera_data"}),
        ("Flowers", {"name": "folder", "root": "data/Flowers"}),
    ],
)
def test_data_sets_are_named_as_today(dataset: str, expected: dict[str, str]) -> None:
    text, _ = convert_legacy(SECOND_GENERATION | {"dataset": dataset})
    experiment = parse_experiment(json.loads(text), "converted")
    assert {"name": experiment.data.name, "root": experiment.data.root} == expected


def test_a_hybrids_patch_size_is_left_to_the_preset() -> None:
    text, _ = convert_legacy(SECOND_GENERATION | {"model_type": "R50-ViT-B_16"})
    experiment = parse_experiment(json.loads(text), "converted")
    assert experiment.model.name == "R50-ViT-B_16"
    assert experiment.model.patch_size is None
