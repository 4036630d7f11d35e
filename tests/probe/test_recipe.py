"""Rules of thumb, each where it applies; and that what they say can be trained."""

import numpy as np
import pytest

from vit_lightning.data.pictures import Labels
from vit_lightning.experiment import Experiment, parse_experiment, short_values
from vit_lightning.probe.recipe import recommend
from vit_lightning.probe.subject import advised

VALUES = {
    "name": "mine",
    "model": {"name": None, "weights": "w.npz"},
    "data": {"root": "pictures", "batch_size": 7, "sampling": "balanced", "val_fraction": 0.3},
    "optim": {"name": "adamw", "weight_decay": 0.1},
    "trainer": {"max_epochs": 3, "val_every_epochs": 1, "patience": 2, "accelerator": "cpu"},
    "seed": 5,
}


def _settings(counts: list[int], mode: str = "modern", *, several: bool = False) -> dict[str, str]:
    labels: Labels = np.repeat(np.arange(len(counts)), counts)
    if several:
        labels = np.eye(len(counts), dtype=np.uint8)[labels]
    advice = recommend(labels, len(counts), mode, 0)  # type: ignore[arg-type]  # one of the modes
    assert all(each.reason for each in advice)
    pairs = [each.setting.split("=") for each in advice]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(
    ("counts", "method"),
    [([1, 1], "linear"), ([9, 9], "linear"), ([10, 99], "lora"), ([100, 100], "full")],
)
def test_more_pictures_change_more_weights(counts: list[int], method: str) -> None:
    assert _settings(counts)["adapt.method"] == method


def test_lengths_grow_with_the_set_and_have_ends() -> None:
    steps = [int(_settings([n, n])["trainer.max_steps"]) for n in (1, 50, 400, 5000)]
    assert steps == sorted(steps)
    assert steps[0] == 200
    assert int(_settings([400_000, 400_000])["trainer.max_steps"]) == 20_000
    assert _settings([20_000, 20_000])["data.batch_size"] == "128"


def test_crops_and_balance_only_where_there_is_a_reason() -> None:
    area = "data.augmentation.min_crop_area"
    assert _settings([50, 50])[area] == "0.35"
    assert area not in _settings([50, 50], "paper")
    assert area not in _settings([500, 500])
    assert _settings([500, 500], several=True)[area] == "0.5"
    assert _settings([10, 50])["data.sampling"] == "balanced"
    assert "data.sampling" not in _settings([10, 49])
    assert "data.sampling" not in _settings([10, 50], several=True)


def test_pictures_that_cannot_be_read_are_left_out_again() -> None:
    labels = np.arange(40) % 2
    settings = [[advice.setting for advice in recommend(labels, 2, "modern", n)] for n in (0, 2)]
    assert settings[1] == [*settings[0], "data.on_bad_image=skip"]


@pytest.mark.parametrize("count", [1, 50, 500])
def test_a_recipe_replaces_what_it_is_about_and_nothing_else(count: int) -> None:
    experiment = parse_experiment(VALUES, "mine")
    labels = np.arange(2 * count) % 2
    settings = [advice.setting for advice in recommend(labels, 2, "modern", 3)]
    found = advised(experiment, settings)
    values = short_values(found)
    assert isinstance(found, Experiment)
    assert found.trainer.max_epochs is None
    assert found.trainer.patience is None
    assert (found.trainer.accelerator, found.seed) == ("cpu", 5)
    assert found.data.batch_size == 32
    assert found.data.sampling == "uniform"
    assert found.data.val_fraction == 0.3
    assert found.optim.weight_decay == 0
    assert found.model == experiment.model
    assert parse_experiment(values, "again") == found
