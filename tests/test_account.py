from typing import Any

import pytest

from tiny_models import TINY
from vit_lightning.account import say_plan
from vit_lightning.assemble import plan_steps
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.experiment import parse_experiment
from vit_lightning.factory import create_bundle

USUAL: dict[str, Any] = {"name": "it", "data": {"root": "p"}, "trainer": {"max_steps": 2}}


def said(capsys: pytest.CaptureFixture[str], **parts: Any) -> str:
    experiment = parse_experiment(USUAL | parts, "it.json")
    bundle = create_bundle(TINY)
    plan = plan_steps(experiment, 40)
    say_plan(experiment, plan, "32", bundle, Preprocessing("modern", (32, 32)), [])
    return capsys.readouterr().out


def test_the_usual_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, optim={"warmup_steps": 0})
    assert "augmented  crop modern, flip\nlength" in text
    assert "training picture" not in text


def test_what_is_unusual_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    data = {
        "root": "p",
        "batch_size": 100,
        "decoding": "fast",
        "cache": {"shorter_side": 64},
        "sampling": "balanced",
        "augmentation": {"bundle": "deit", "flip": False, "mixup": 0.0, "repeats": 1},
    }
    optim = {"warmup_steps": 0, "loss": "focal", "label_smoothing": 0.1}
    text = said(capsys, data=data, optim=optim)
    assert (
        "augmented  crop modern, randaugment (magnitude 9.0, magnitude_std 0.5, levels "
        "increasing), erasing 0.25, cutmix 1.0\n"
    ) in text
    unusual = text[text.index("cutmix 1.0") :].splitlines()[1]
    for word in ("decoding fast", "cache (shorter_side 64)", "sampling balanced", "loss focal"):
        assert word in unusual
    assert "label_smoothing 0.1" in unusual
    assert "a batch of 100 pictures holds every training picture 2.5 times" in text
