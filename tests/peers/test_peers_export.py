"""Models exported as ONNX programs, run by ONNX Runtime."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import ExifTags, Image

from tiny_models import CLASSES, EXACT, HYBRID, R_TI, TINY, bundle_of, random_model, random_pictures
from vit_lightning import export
from vit_lightning.cli import main
from vit_lightning.data.pictures import open_picture
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.export import export_onnx
from vit_lightning.factory import save_model
from vit_lightning.inference import for_inference
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.merging import merge_tokens
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.prediction import predict

SERVER = Path(__file__).parents[2] / "docs" / "serve_onnx.py"


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def assert_computes_the_same(path: Path, model: VisionTransformer, bound: float = 1e-5) -> None:
    """For other numbers of pictures than it was exported and checked with, too."""
    session = session_of(path)
    for count in (1, 2, 5):
        pictures = random_pictures(model.config, count)
        with torch.inference_mode():
            expected = model(pictures).numpy()
        (found,) = session.run(["outputs"], {"pictures": pictures.numpy()})
        scale = np.abs(expected).max()
        assert scale > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound * scale)


@pytest.mark.parametrize(
    "config",
    [
        EXACT,
        TINY.replace(representation_size=24, dropout=0.5),
        TINY.replace(pool="gap", class_token=True),
        EXACT.replace(pool="none", class_token=False),
        EXACT.replace(num_classes=0),
        EXACT.replace(image_size=(27, 44), patch_size=(8, 4), in_channels=1),
        R_TI,
        HYBRID,
    ],
    ids=range(8),
)
def test_the_program_computes_what_the_model_does(tmp_path: Path, config: ViTConfig) -> None:
    model = random_model(config)
    written = export_onnx(bundle_of(model), tmp_path / "new" / "x.onnx")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.onnx"]
    assert_computes_the_same(written.path, model, 1e-4 if config.resnet else 1e-5)
    assert 0 < written.difference < 1e-4
    assert written.engine == f"ONNX Runtime {onnxruntime.__version__}"
    outputs = model(random_pictures(config)).shape[1:]
    assert written.gives == f"outputs: batch × {' × '.join(map(str, outputs))}"


def test_merged_tokens_stay_merged(tmp_path: Path) -> None:
    model = merge_tokens(random_model(EXACT), 3)
    export_onnx(bundle_of(model), tmp_path / "x.onnx")
    assert_computes_the_same(tmp_path / "x.onnx", model)
    plain = merge_tokens(random_model(EXACT), 0)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_computes_the_same(tmp_path / "x.onnx", plain)


def test_a_model_in_training_stays_so(tmp_path: Path) -> None:
    model = random_model(TINY, dropout=0.5).train()
    export_onnx(bundle_of(model), tmp_path / "x.onnx")
    assert model.training
    assert_computes_the_same(tmp_path / "x.onnx", model.eval())


def test_what_travels_along(tmp_path: Path) -> None:
    view = {"mode": "crop", "mean": [0.4] * 3, "std": [0.3] * 3, "crop_fraction": 0.9}
    bundle = bundle_of(random_model(EXACT), CLASSES, view, {"run": "x"})
    export_onnx(bundle, tmp_path / "x.onnx")
    about = session_of(tmp_path / "x.onnx").get_modelmeta().custom_metadata_map
    found = {key: json.loads(value) for key, value in about.items()}
    assert found == {
        "config": json.loads(json.dumps(EXACT.to_dict())),
        "classes": list(CLASSES),
        "preprocessing": {
            **view,
            "image_size": [32, 32],
            "in_channels": 3,
            "interpolation": "bicubic",
        },
        "multi_label": False,
        "origin": {"run": "x"},
    }


def test_large_weights_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_MOST_IN_ONE", 0)
    model = random_model(EXACT)
    written = export_onnx(bundle_of(model), tmp_path / "x.onnx")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"x.onnx", "x.onnx.data"}
    assert written.megabytes == pytest.approx(sum(sizes.values()) / 1e6)
    assert_computes_the_same(tmp_path / "x.onnx", model)


class TestRefusals:
    """With the reason, and nothing left behind."""

    def test_another_result(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export, "_BOUND", 1e-12)
        with pytest.raises(InputError, match="computes something else: outputs of random pictures"):
            export_onnx(bundle_of(random_model()), tmp_path / "x.onnx")
        assert not list(tmp_path.iterdir())

    def test_what_torch_cannot_export(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def depends_on_values(pictures: torch.Tensor) -> torch.Tensor:
            return pictures if pictures.sum() > 0 else -pictures

        model = random_model()
        monkeypatch.setattr(model, "forward", depends_on_values)
        with pytest.raises(InputError, match=r"^torch .* cannot export it: .*data-dependent"):
            export_onnx(bundle_of(model), tmp_path / "x.onnx")
        assert not list(tmp_path.iterdir())

    def test_an_interruption(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(export, "_compared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_onnx(bundle_of(random_model()), tmp_path / "x.onnx")
        assert not list(tmp_path.iterdir())

    def test_a_head_of_zeros(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match="gives zeros for every picture, as before its training"
        ):
            export_onnx(bundle_of(VisionTransformer(TINY)), tmp_path / "x.onnx")

    def test_a_snapshot(self, tmp_path: Path) -> None:
        snapshot = for_inference(random_model())
        with pytest.raises(InputError, match="a snapshot for inference cannot be exported"):
            export_onnx(bundle_of(snapshot), tmp_path / "x.onnx")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """One that lies on its side."""
    levels = np.random.default_rng(0).integers(0, 256, (9, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    smooth = Image.fromarray(levels).resize((123, 171), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.png", exif=exif)
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    "view",
    [
        {"mode": "paper"},
        {"mode": "modern"},
        {"mode": "squash", "crop_fraction": 0.8, "interpolation": "bilinear"},
        {"mode": "crop", "crop_fraction": 0.875, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
        {"mode": "modern", "in_channels": 1, "mean": [0.4, 0.5, 0.6]},
    ],
    ids=range(5),
)
def test_the_server_of_the_docs_sees_what_the_model_does(
    picture: Path, view: dict[str, Any]
) -> None:
    preprocessing = Preprocessing.from_dict({"image_size": 32, **view})
    found = runpy.run_path(str(SERVER))["normalised"](picture, preprocessing.to_dict())
    assert found.dtype == np.float32
    expected = preprocessing(open_picture(picture)).numpy()
    level = 1 / 255 / min(preprocessing.std)
    # Of the paper's, whose values are not rounded, half a level is lost; else they are the same,
    # or one apart where a crop is resized alone instead of cut out of the whole.
    assert np.abs(found - expected).max() < 1.01 * level


def test_the_server_of_the_docs_names_what_vit_predict_does(
    tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, program = tmp_path / "x.safetensors", tmp_path / "x.onnx"
    view = {"mode": "modern", "mean": [0.5] * 3, "std": [0.25] * 3}
    save_model(random_model(EXACT), weights, classes=CLASSES, preprocessing=view)
    assert main(["export", str(weights), str(program)]) == 0
    assert "checked: ONNX Runtime" in capsys.readouterr().out
    runpy.run_path(str(SERVER))["main"](str(program), str(picture))
    (prediction,) = predict(weights, [picture])
    shares = zip(prediction.classes, prediction.probabilities, strict=True)
    said = ", ".join(f"{name} {share:.1%}" for name, share in shares)
    assert capsys.readouterr().out == f"{picture}: {said}\n"
