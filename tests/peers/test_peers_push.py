"""What is published, loaded by timm and by transformers, and by the code that its card shows."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hub_server import FileServer, hub_at
from random_weights import randomise
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.factory import load_bundle, save_model
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.publish.push import push

TINY = ViTConfig(
    image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_dim=40, num_classes=3
)
TIMM_STEM = ResNetConfig((), norm_eps=1e-5, weight_eps=1e-8, eps_under_root=True)
CLASSES = ("ant", "bee: <b>", "---")
REPO = "someone/tiny"


@pytest.fixture
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a small model, whose configuration differs as the parameter says."""
    changes: dict[str, Any] = dict(getattr(request, "param", {}))
    preprocessing = changes.pop("preprocessing", {"mode": "crop", "crop_fraction": 0.9})
    config = TINY.replace(**changes)
    model = VisionTransformer(config)
    randomise(model, seed=1)
    sizes = {"image_size": config.image_size, "in_channels": config.in_channels}
    values = Preprocessing.from_dict({**preprocessing, **sizes}).to_dict()
    save_model(model, tmp_path / "tiny.safetensors", CLASSES, values)
    push(tmp_path / "tiny.safetensors", REPO, dry_run=tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """A picture of noise, also in ``picture.jpg`` of the working directory."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("picture.jpg")
    with Image.open("picture.jpg") as opened:
        return opened.convert("RGB")


VARIANTS = [
    {},
    {"activation": "gelu"},
    {"pool": "gap"},
    {"pool": "gap", "class_token": True},
    {"pool": "none"},
    {"in_channels": 1},
    {"image_size": (20, 43), "patch_size": (8, 4), "mlp_dim": 37},
    {"image_size": 64, "patch_size": 4, "resnet": TIMM_STEM},
]


@pytest.mark.parametrize("published", VARIANTS, indirect=True, ids=str)
def test_the_same_logits_and_labels(published: Path) -> None:
    ours = load_bundle(published).model
    generator = torch.Generator().manual_seed(3)
    shape = (2, ours.config.in_channels, *ours.config.image_size)
    pictures = torch.rand(shape, generator=generator) * 2 - 1
    theirs = timm.create_model(f"local-dir:{published}", pretrained=True).eval()
    wrapped = AutoModelForImageClassification.from_pretrained(published)
    with torch.inference_mode():
        logits = ours(pictures)
        assert (theirs(pictures) - logits).abs().max() <= 1e-5
        assert (wrapped(pictures).logits - logits).abs().max() <= 1e-5
    assert wrapped.config.id2label == dict(enumerate(CLASSES))
    assert wrapped.config.label2id == {name: index for index, name in enumerate(CLASSES)}
    assert tuple(theirs.pretrained_cfg["label_names"]) == CLASSES


VIEWS = [
    {"mode": "crop", "crop_fraction": 0.9, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
    {"mode": "crop", "interpolation": "bilinear"},
    {"mode": "squash", "mean": [0.485, 0.456, 0.406]},
]


@pytest.mark.parametrize("published", [{"preprocessing": view} for view in VIEWS], indirect=True)
def test_the_same_view_of_a_picture(published: Path, picture: Image.Image) -> None:
    bundle = load_bundle(published)
    assert bundle.preprocessing is not None
    view = Preprocessing.from_dict(bundle.preprocessing)(picture)
    model = timm.create_model(f"local-dir:{published}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    assert (transform(picture) - view).abs().max() <= 2e-6
    processor = AutoImageProcessor.from_pretrained(published)
    assert (processor(picture)["pixel_values"][0] - view).abs().max() <= 2e-6


@pytest.mark.parametrize("published", [{}, {"in_channels": 1}], indirect=True, ids=str)
def test_the_code_of_the_card(published: Path, picture: Image.Image) -> None:
    """Each block is run as it stands, but for the place."""
    bundle = load_bundle(published)
    preprocessing = Preprocessing.from_dict(bundle.preprocessing or {})
    with torch.inference_mode():
        expected = CLASSES[int(bundle.model(preprocessing(picture)[None]).argmax())]
    card = (published / "README.md").read_text()
    blocks = [part.partition("\n```")[0] for part in card.split("```python\n")[1:]]
    assert len(blocks) == 3
    for block in blocks:
        local = block.replace(f"hf-hub:{REPO}", f"local-dir:{published}")
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(local.replace(REPO, str(published)), {})
        assert printed.getvalue().startswith(expected), block


def test_by_its_name_on_the_hub(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in published.iterdir()}
    pictures = torch.zeros(1, 3, 32, 32)
    expected = load_bundle(published).model(pictures)
    server = FileServer()
    server.put_repository(REPO, files)
    with server.running(), hub_at(server.url, tmp_path / "hub", monkeypatch):
        theirs = timm.create_model(f"hf-hub:{REPO}", pretrained=True).eval()
        ours = load_bundle(REPO)
        wrapped = AutoModelForImageClassification.from_pretrained(REPO)
    assert ours.classes == CLASSES
    assert torch.equal(ours.model(pictures), expected)
    assert (theirs(pictures) - expected).abs().max() <= 1e-5
    assert (wrapped(pictures).logits - expected).abs().max() <= 1e-5


def test_the_pipeline_of_transformers(published: Path, picture: Image.Image) -> None:
    classify = pipeline("image-classification", model=str(published), device="cpu")
    bundle = load_bundle(published)
    preprocessing = Preprocessing.from_dict(bundle.preprocessing or {})
    with torch.inference_mode():
        shares = bundle.model(preprocessing(picture)[None]).softmax(dim=1)[0]
    found = {answer["label"]: answer["score"] for answer in classify(picture)}
    assert found == pytest.approx(dict(zip(CLASSES, shares.tolist(), strict=True)), abs=1e-5)
