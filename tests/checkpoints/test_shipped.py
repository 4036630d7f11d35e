"""The weights that come with the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit_lightning.checkpoints.locate import locate_weights
from vit_lightning.checkpoints.shipped import PREFIX, shipped_names, shipped_path
from vit_lightning.cli import main
from vit_lightning.cli_options import COME_ALONG
from vit_lightning.errors import InputError
from vit_lightning.factory import create_bundle, load_bundle


def test_there_are_some_and_the_default_is_one_of_them() -> None:
    assert COME_ALONG in shipped_names()
    assert all(name.startswith(PREFIX) for name in shipped_names())


@pytest.mark.parametrize("name", shipped_names())
def test_they_are_small_and_say_what_they_are(name: str) -> None:
    located = locate_weights(name, may_fetch=False)
    assert located.source == name
    assert located.path == shipped_path(name)
    assert located.path.stat().st_size <= 12_000_000
    bundle = load_bundle(name)
    assert sum(parameter.numel() for parameter in bundle.model.parameters()) <= 6_000_000
    assert {parameter.dtype for parameter in bundle.model.parameters()} == {torch.float32}
    assert bundle.classes is not None
    assert len(bundle.classes) == bundle.model.config.num_classes
    assert not any(part.startswith("n0") for part in bundle.classes)
    assert bundle.preprocessing is not None
    assert bundle.preprocessing["mode"] == "modern"
    assert bundle.origin is not None


def test_a_training_starts_from_them_at_another_size_and_in_grey() -> None:
    bundle = create_bundle(None, COME_ALONG, num_classes=5, image_size=48, in_channels=1)
    assert bundle.model.config.grid_size == (6, 6)
    assert bundle.model(torch.zeros(1, 1, 48, 48)).tolist() == [[0.0] * 5]


def test_a_name_that_none_has() -> None:
    with pytest.raises(InputError, match=f"did you mean '{COME_ALONG}'"):
        locate_weights(f"{COME_ALONG}s")
    with pytest.raises(InputError, match="hf-hub:vit-lightning/other"):
        locate_weights("vit-lightning/other")


def test_a_file_of_that_name_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(COME_ALONG).parent.mkdir()
    Path(COME_ALONG).write_bytes(b"")
    assert locate_weights(COME_ALONG).path == Path(COME_ALONG)


def test_predict_and_attend_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    assert main(["predict", str(tmp_path / "noise.png"), "--top", "2"]) == 0
    printed = capsys.readouterr()
    classes = load_bundle(COME_ALONG).classes
    assert classes is not None
    assert sum(line.rpartition("  ")[2] in classes for line in printed.out.splitlines()) == 2
    assert f"no --weights are named: these are {COME_ALONG}" in printed.err
    figure = tmp_path / "attention.png"
    assert main(["attend", str(tmp_path / "noise.png"), "-o", str(figure)]) == 0
    assert figure.stat().st_size > 1000
    assert COME_ALONG in capsys.readouterr().err


def test_weights_that_are_named_are_not_remarked_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 50)).save(tmp_path / "black.png")
    assert main(["predict", str(tmp_path / "black.png"), "--weights", COME_ALONG]) == 0
    assert capsys.readouterr().err == ""
