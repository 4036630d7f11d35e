"""Models exported as ONNX programs, run by ONNX Runtime."""

import json
import logging
import runpy
import warnings
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
    if config.pool == "none" or not config.num_classes:
        with pytest.raises(SystemExit, match=r"x\.onnx names no pictures: it gives feat"):
            runpy.run_path(str(SERVER))["main"](str(written.path), "any.jpg")
    assert 0 <= written.difference < 1e-4
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


def test_a_model_in_training_stays_so_and_torch_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = torch.onnx.export

    def chatty(*arguments: Any, **options: Any) -> Any:
        logging.getLogger("torch.onnx.noise").error("remarks")
        warnings.warn("remarks", stacklevel=1)
        return plain(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", chatty)
    model = random_model(TINY, dropout=0.5).train()
    model.blocks[0].eval()
    export_onnx(bundle_of(model), tmp_path / "x.onnx")
    assert capfd.readouterr() == ("", "")
    assert model.training
    assert model.blocks[1].mlp.training
    assert not model.blocks[0].mlp.training
    assert logging.getLogger("torch.onnx.noise").isEnabledFor(logging.ERROR)
    assert_computes_the_same(tmp_path / "x.onnx", model.eval())


def test_a_model_that_takes_no_pictures_from_files(tmp_path: Path) -> None:
    model = random_model(EXACT, in_channels=4)
    written = export_onnx(bundle_of(model), tmp_path / "x.onnx")
    assert written.takes == "pictures: batch × 4 × 32 × 32, float32"
    about = session_of(written.path).get_modelmeta().custom_metadata_map
    assert about["preprocessing"] == "null"
    assert_computes_the_same(written.path, model)


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

    @pytest.mark.parametrize(
        ("last", "message"),
        [
            (lambda outputs: outputs * 1.01, r"computes something else: .* differ by \d\.\de-"),
            (lambda outputs: outputs * np.nan, "computes something else: .* differ by nan"),
            (lambda outputs: 1 / 0, "cannot run what torch .* It said: division by zero"),
        ],
        ids=["another", "no number", "failure"],
    )
    def test_what_the_engine_makes_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: Any, message: str
    ) -> None:
        class Session:
            """All pictures but the last of a batch are right."""

            def __init__(self, *_: Any, **__: Any) -> None:
                pass

            def run(self, _: Any, given: dict[str, Any]) -> list[Any]:
                with torch.inference_mode():
                    outputs = model(torch.from_numpy(given["pictures"])).numpy()
                if len(outputs) > 1:
                    outputs[-1] = last(outputs[-1])
                return [outputs]

        model = random_model()
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        with pytest.raises(InputError, match=message):
            export_onnx(bundle_of(model), tmp_path / "x.onnx")
        assert not list(tmp_path.iterdir())

    def test_what_torch_cannot_export(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def depends_on_values(pictures: torch.Tensor) -> torch.Tensor:
            return pictures if pictures.sum() > 0 else -pictures

        model = random_model()
        monkeypatch.setattr(model, "forward", depends_on_values)
        with pytest.raises(
            InputError, match=r"^torch .* cannot export the model: .*data-dependent"
        ):
            export_onnx(bundle_of(model), tmp_path / "x.onnx")
        assert not list(tmp_path.iterdir())

    def test_an_interruption(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(export, "_compared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_onnx(bundle_of(random_model()), tmp_path / "x.onnx")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("value", [0.0, float("nan")])
    def test_a_head_of_no_use(self, tmp_path: Path, value: float) -> None:
        model = random_model()
        for parameter in model.head.parameters():
            torch.nn.init.constant_(parameter, value)
        with pytest.raises(InputError, match="gives zeros for every picture, as before its train"):
            export_onnx(bundle_of(model), tmp_path / "x.onnx")
        assert not list(tmp_path.iterdir())

    def test_a_file_that_appears_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def another(*_: Any) -> tuple[str, float]:
            (tmp_path / "x.onnx").write_text("mine")
            return "", 0.0

        monkeypatch.setattr(export, "_compared", another)
        with pytest.raises(InputError, match=r"x\.onnx is already there"):
            export_onnx(bundle_of(random_model()), tmp_path / "x.onnx")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]

    def test_a_snapshot(self, tmp_path: Path) -> None:
        snapshot = for_inference(random_model())
        with pytest.raises(InputError, match="a snapshot for inference cannot be exported"):
            export_onnx(bundle_of(snapshot), tmp_path / "x.onnx")


def written_picture(folder: Path, width: int, height: int, mode: str = "RGB") -> Path:
    """A smooth picture that lies on its side, transparent here and there if it can be."""
    levels = np.random.default_rng(0).integers(0, 256, (9, 6, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    smooth = Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)
    (smooth if mode == "RGBA" else smooth.convert("RGB").convert(mode)).save(
        folder / "a.png", exif=exif
    )
    return folder / "a.png"


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
@pytest.mark.parametrize("image_size", [(56, 56), (27, 44), (48, 32)])
def test_the_server_of_the_docs_sees_what_the_model_does(
    tmp_path: Path, view: dict[str, Any], image_size: tuple[int, int]
) -> None:
    normalised = runpy.run_path(str(SERVER))["normalised"]
    preprocessing = Preprocessing.from_dict({"image_size": image_size, **view})
    described = json.loads(json.dumps(preprocessing.to_dict()))
    level = 1 / 255 / min(preprocessing.std)
    for size in ((123, 171), (49, 98), (83, 50), (40, 40)):
        for mode in ("RGB", "RGBA", "P", "L"):
            path = written_picture(tmp_path, *size, mode)
            found = normalised(path, described)
            assert found.dtype == np.float32
            expected = preprocessing(open_picture(path)).numpy()
            # Of the paper's values, which are not rounded, half a level is lost.
            assert np.abs(found - expected).max() < 1.6 * level, (size, mode)


def test_the_server_of_the_docs_refuses_what_it_does_not_see_as_the_model_does(
    tmp_path: Path,
) -> None:
    Image.fromarray(np.full((40, 40), 30000, np.uint16)).save(tmp_path / "a.png")
    view = Preprocessing("modern", (32, 32)).to_dict()
    with pytest.raises(SystemExit, match=r"a\.png: save the picture with 8 bits a channel"):
        runpy.run_path(str(SERVER))["normalised"](tmp_path / "a.png", view)


def test_the_server_of_the_docs_names_what_vit_predict_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = written_picture(tmp_path, 123, 171)
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
