from typing import Any

import pytest

from tiny_models import TINY
from vit_lightning.experiment import Experiment
from vit_lightning.run.choices import choose

SHIPPED = {"name": None, "weights": "vit-lightning/tiny-imagenet"}


def _experiment(trainer: dict[str, Any], **parts: Any) -> Experiment:
    on_cpu = {"max_steps": 1, "accelerator": "cpu", "linear": "torch"}
    values = {"name": "choices", "data": {"name": "digits"}, "trainer": on_cpu | trainer}
    return Experiment.model_validate(values | parts)


@pytest.mark.parametrize("wanted", ["none", "selective", "full"])
def test_what_the_experiment_fixes_is_recomputed(wanted: str) -> None:
    experiment = _experiment({"activation_checkpointing": wanted})
    assert choose(experiment, TINY).activation_checkpointing == wanted


@pytest.mark.parametrize(
    ("trainer", "parts", "chosen"),
    [
        ({}, {}, "selective"),
        ({"compile": True}, {}, "none"),
        ({"linear": "onednn"}, {}, "none"),
        ({}, {"adapt": {"method": "lora"}, "model": SHIPPED}, "none"),
    ],
)
def test_activations_are_recomputed_where_that_is_all(
    trainer: dict[str, Any], parts: dict[str, Any], chosen: str
) -> None:
    assert choose(_experiment(trainer, **parts), TINY).activation_checkpointing == chosen


def test_a_gpu_keeps_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_lightning.run.choices.computes_on_cpu", lambda settings: False)
    experiment = _experiment({"accelerator": "cuda"})
    assert choose(experiment, TINY).activation_checkpointing == "none"
