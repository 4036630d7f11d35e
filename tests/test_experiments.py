"""Every experiment file that ships says what it is, and can be built."""

import json
import math
from pathlib import Path

import pytest
import torch

from vit_lightning.assemble import plan_steps
from vit_lightning.checkpoints.shipped import PREFIX
from vit_lightning.checkpoints.weights import open_weights
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.experiment import Experiment, load_experiment
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.presets import preset
from vit_lightning.models.vit import VisionTransformer

FOLDER = Path(__file__).parents[1] / "experiments"
FILES = sorted(path for path in FOLDER.glob("*.json") if path.name != "schema.json")
# Training pictures and classes of the data sets whose sizes are known.
SIZES = {
    "hymenoptera": (244, 2),
    "cifar10": (49_000, 10),
    "cifar100": (49_000, 100),
    "digits": (1438, 10),
    "folder": (100, 3),
}
TINY_IMAGENET = (99_500, 199)  # without the bees


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def _size(experiment: Experiment) -> tuple[int, int]:
    is_tiny_imagenet = experiment.data.root == "data/tiny-imagenet-200"
    return TINY_IMAGENET if is_tiny_imagenet else SIZES[experiment.data.name]


def _config(experiment: Experiment) -> ViTConfig:
    model = experiment.model
    if str(model.weights).startswith(PREFIX):
        base = open_weights(str(model.weights)).config
    else:
        base = ViTConfig() if model.name is None else preset(model.name)
    sizes = {"image_size": model.image_size, "in_channels": model.in_channels}
    given = {name: value for name, value in sizes.items() if value is not None}
    return base.replace(num_classes=_size(experiment)[1], **given, **model.changes())


def test_it_is_described(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert experiment.schema_ == "./schema.json"
    assert len(experiment.description) > 20
    assert len(experiment.expected) > 20


def test_its_model_can_be_built_and_trained(path: Path) -> None:
    experiment = load_experiment(path)
    with torch.device("meta"):
        model = VisionTransformer(_config(experiment))
        pictures = torch.empty(2, model.config.in_channels, *model.config.image_size)
        model(pictures).sum().backward()
    assert model.config.num_tokens > 4
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_its_recipe_fits_its_data(path: Path) -> None:
    experiment = load_experiment(path)
    size, _ = _size(experiment)
    plan = plan_steps(experiment, size)
    assert plan.warmup_steps < plan.total_steps
    assert 2 <= math.ceil(plan.total_steps / plan.val_every_steps) <= 50, "validations"
    config, data = _config(experiment), experiment.data
    Preprocessing(data.preprocessing or "paper", config.image_size, config.in_channels)


def test_it_survives_the_run_folder(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    (tmp_path / "experiment.json").write_text(experiment.to_json(), encoding="utf-8")
    assert load_experiment(tmp_path / "experiment.json") == experiment


def test_every_data_set_and_model_named_in_the_docs_has_one() -> None:
    experiments = [load_experiment(path) for path in FILES]
    assert {experiment.data.name for experiment in experiments} == set(SIZES)
    hymenoptera = [item for item in experiments if item.data.name == "hymenoptera"]
    for name in ("ViT-B_16", "ViT-B_32", "R50+ViT-B_16"):
        weights = {item.model.weights for item in hymenoptera if item.model.name == name}
        assert weights == {None, f"imagenet21k/{name}"}


def test_hymenoptera_pretrain_keeps_the_settings_users_know() -> None:
    values = json.loads((FOLDER / "hymenoptera_pretrain.json").read_text(encoding="utf-8"))
    assert values["model"] == {
        "name": "ViT-B_16",
        "weights": "imagenet21k/ViT-B_16",
        "image_size": 224,
    }
    assert values["data"]["root"] == "data/hymenoptera_data"
    assert values["data"]["batch_size"] == 10
    assert values["optim"]["lr"] == 0.03
    assert values["trainer"]["max_epochs"] == 25
