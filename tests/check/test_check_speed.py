"""The speeds of a data set and a model, and the advice that follows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vit_lightning.check.sources import open_source
from vit_lightning.check.throughput import _advice, measure_throughput
from vit_lightning.errors import InputError
from vit_lightning.experiment import load_experiment


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_lightning.check.throughput._SECONDS", 0.01)


def test_an_experiment_names_its_pictures(
    tiny: dict[str, Any], write: Callable[..., Path], pictures: Path
) -> None:
    source = open_source(write(tiny))
    assert [split.name for split in source.splits] == ["train", "val"]
    assert source.experiment is not None
    assert [len(split.pictures) for split in source.splits] == [10, 6]
    rates = measure_throughput(source, 1)
    assert rates is not None
    assert rates["bottleneck"] in ("pictures", "model")
    assert rates["training"] < rates["forward"]
    assert "the bottleneck is" in rates["advice"]
    with pytest.raises(InputError, match="is a folder"):
        open_source(pictures, ["optim.lr=1"])


def test_the_bottleneck_is_the_slowest_stage(
    tiny: dict[str, Any], write: Callable[..., Path]
) -> None:
    experiment = open_source(write(tiny)).experiment
    rates = {"decode_per_core": 100.0, "workers": 2, "transfer": None}
    for training, expected in ((199.0, "model"), (201.0, "pictures")):
        slowest, advice = _advice(rates | {"training": training}, experiment, "")
        assert slowest == expected
        setting = {"model": "trainer.precision", "pictures": "data.workers"}[expected]
        assert setting in advice
    assert _advice(rates | {"training": 1e4, "transfer": 5.0}, experiment, "")[0] == "transfer"
    held = load_experiment(write(tiny, data={"on_device": {}}))
    slowest, advice = _advice(rates | {"training": 1e4, "transfer": 5.0}, held, "")
    assert slowest is None
    assert "data.on_device" in advice
    assert "data.workers" in advice


def test_ways_to_faster_pictures_are_those_that_are_left(
    tiny: dict[str, Any], write: Callable[..., Path]
) -> None:
    rates = {"decode_per_core": 1.0, "workers": 1, "transfer": None, "training": 1e4}
    told = {}
    for name, data in (
        ("as it is", {}),
        ("modern", {"preprocessing": "modern"}),
        ("all", {"preprocessing": "modern", "decoding": "fast", "cache": {}}),
    ):
        _, told[name] = _advice(rates, load_experiment(write(tiny, data=data)), "")
    assert "data.cache" in told["as it is"]
    assert "data.decoding" not in told["as it is"]
    assert "data.decoding" in told["modern"]
    assert "from the second epoch on" in told["all"]
    assert "data.decoding" not in told["all"]


def test_a_model_that_cannot_be_made_leaves_the_pictures_speed(
    tiny: dict[str, Any], write: Callable[..., Path]
) -> None:
    model = {"embed_dim": None, "weights": "nowhere.npz"}
    source = open_source(write(tiny, model=tiny["model"] | model))
    rates = measure_throughput(source, 2)
    assert rates is not None
    assert (rates["bottleneck"], rates["training"]) == (None, None)
    assert rates["decode_per_core"] > 0
    assert "the model was not timed: " in rates["advice"]


def test_speed_of_pictures_of_which_some_or_none_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "ants"
    folder.mkdir()
    (folder / "0.png").write_text("no picture")
    assert measure_throughput(open_source(tmp_path), 1) is None
    Image.new("RGB", (1, 1)).save(folder / "1.png")
    rates = measure_throughput(open_source(tmp_path), 1)
    assert rates is not None
    assert rates["decode_per_core"] > 0
