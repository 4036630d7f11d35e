"""Models converted for transformers, and saved by it, compared in both."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from random_weights import randomise
from tiny_models import CLASSES, TINY, bundle_of, random_model, random_pictures
from vit_lightning.convert import convert_model
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.factory import load_bundle
from vit_lightning.models.config import ViTConfig

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
transformers.utils.logging.disable_progress_bar()

SMALL = TINY.replace(embed_dim=48, num_heads=6, mlp_dim=40, image_size=(24, 40))
THEIRS = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 40,
    "image_size": (24, 40),
    "patch_size": 8,
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {name: index for index, name in enumerate(CLASSES)},
}


# Of their configuration, what the model does not compute with.
BESIDE = {
    "_name_or_path",
    "chunk_size_feed_forward",
    "encoder_stride",
    "initializer_range",
    "is_encoder_decoder",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "transformers_version",
}


def in_transformers(folder: Path, kind: str = "ViTForImageClassification") -> Any:
    """The model in a folder, which must have all of it and nothing else."""
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@torch.inference_mode()
def assert_close(model: Any, pictures: Tensor, theirs: Any, field: str) -> None:
    """That we compute what they do, and that there is something to compare."""
    expected = getattr(theirs(pixel_values=pictures), field)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(model(pictures), expected, rtol=0, atol=1e-6 * expected.abs().max())


class TestOurs:
    """Loaded by them."""

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"activation": "gelu", "norm_eps": 1e-12},
            {"norm_eps": 1e-3},
            {"image_size": 32, "patch_size": 16},
            {"patch_size": (8, 4)},
            {"image_size": (27, 44)},  # more than the patches cover
            {"in_channels": 1},
        ],
        ids=str,
    )
    def test_a_classifier(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        model = random_model(SMALL, **changes)
        convert_model(bundle_of(model, CLASSES), tmp_path / "x", "huggingface")
        theirs = in_transformers(tmp_path / "x")
        assert_close(model, random_pictures(model.config), theirs, "logits")
        assert theirs.config.id2label == dict(enumerate(CLASSES))
        assert theirs.config.label2id == {name: index for index, name in enumerate(CLASSES)}

    def test_a_classifier_without_names(self, tmp_path: Path) -> None:
        convert_model(bundle_of(random_model(SMALL)), tmp_path / "x", "huggingface")
        theirs = in_transformers(tmp_path / "x")
        assert theirs.config.id2label == {index: f"LABEL_{index}" for index in range(5)}
        assert load_bundle(tmp_path / "x").classes is None

    @pytest.mark.parametrize("size", [48, 20])
    def test_pre_logits_are_their_pooler(self, tmp_path: Path, size: int) -> None:
        model = random_model(SMALL, num_classes=0, representation_size=size)
        convert_model(bundle_of(model), tmp_path / "x", "huggingface")
        theirs = in_transformers(tmp_path / "x", "ViTModel")
        assert_close(model, random_pictures(SMALL), theirs, "pooler_output")

    def test_features(self, tmp_path: Path) -> None:
        """Of a model without a head: the tokens are the same, and the first is what we return."""
        model = random_model(SMALL, num_classes=0)
        convert_model(bundle_of(model), tmp_path / "x", "huggingface")
        theirs, pictures = (
            transformers.ViTModel.from_pretrained(tmp_path / "x", add_pooling_layer=False),
            random_pictures(SMALL),
        )
        with torch.inference_mode():
            tokens = theirs.eval()(pixel_values=pictures).last_hidden_state
            torch.testing.assert_close(
                model.forward_features(pictures), tokens, rtol=0, atol=1e-6 * tokens.abs().max()
            )
            torch.testing.assert_close(model(pictures), tokens[:, 0], rtol=1e-5, atol=1e-5)

    def test_nothing_is_left_to_their_defaults(self, tmp_path: Path) -> None:
        """They are no part of the file, and may change."""
        convert_model(bundle_of(random_model(SMALL)), tmp_path / "x", "huggingface")
        written = json.loads((tmp_path / "x" / "config.json").read_text())
        theirs = transformers.ViTConfig().to_dict()
        assert set(theirs) - set(written) <= BESIDE


class TestTheirs:
    """Loaded by us."""

    def save(self, folder: Path, kind: str = "ViTForImageClassification", **changes: Any) -> Any:
        model = getattr(transformers, kind)(transformers.ViTConfig(**THEIRS | changes)).eval()
        randomise(model, seed=3)
        model.save_pretrained(folder)
        return model

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"hidden_act": "gelu_pytorch_tanh"},
            {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
            {"image_size": 32, "num_channels": 1},
            {"image_size": (16, 64)},  # as many patches as a square has
            {"patch_size": (8, 4)},
        ],
        ids=str,
    )
    def test_a_classifier(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        theirs = self.save(tmp_path, **changes)
        bundle = load_bundle(tmp_path)
        assert bundle.dialect == "Hugging Face"
        assert bundle.classes == CLASSES
        assert_close(bundle.model, random_pictures(bundle.model.config), theirs, "logits")

    @pytest.mark.parametrize("size", [48, 20])
    def test_a_model_with_a_pooler(self, tmp_path: Path, size: int) -> None:
        theirs = self.save(tmp_path, "ViTModel", pooler_output_size=size)
        model = load_bundle(tmp_path).model
        assert model.config.representation_size == size
        assert_close(model, random_pictures(SMALL), theirs, "pooler_output")

    @pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTModel"])
    def test_the_names_of_their_modules(self, tmp_path: Path, kind: str) -> None:
        """As ``torch.save(model.state_dict(), ...)`` writes them, beside their configuration."""
        theirs = self.save(tmp_path, kind)
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
        keys = set(theirs.state_dict())
        assert any(key.endswith("layers.0.attention.q_proj.weight") for key in keys)
        field = "logits" if kind.endswith("Classification") else "pooler_output"
        assert_close(load_bundle(tmp_path).model, random_pictures(SMALL), theirs, field)

    @pytest.mark.parametrize("kind", ["ViTForImageClassification", "ViTModel"])
    def test_there_and_back(self, tmp_path: Path, kind: str) -> None:
        theirs = self.save(tmp_path / "a", kind)
        convert_model(load_bundle(tmp_path / "a"), tmp_path / "b", "huggingface")
        again = in_transformers(tmp_path / "b", kind)
        expected = theirs.state_dict()
        assert again.state_dict().keys() == expected.keys()
        assert all(torch.equal(t, expected[key]) for key, t in again.state_dict().items())
        kept, found = (
            transformers.ViTConfig.from_pretrained(tmp_path / folder).to_dict() for folder in "ab"
        )
        if kind == "ViTModel":  # a model has no names of classes that it has not
            kept |= {"id2label": {}, "label2id": {}}
        assert found == kept

    @pytest.mark.parametrize("kind", ["Dinov2Model", "DeiTForImageClassificationWithTeacher"])
    def test_other_models_are_refused(self, tmp_path: Path, kind: str) -> None:
        maker = getattr(transformers, kind)
        small = {name: value for name, value in THEIRS.items() if "label" not in name}
        maker(maker.config_class(**small | {"image_size": 32})).save_pretrained(tmp_path)
        names = {"Dinov2Model": "LayerScale", "DeiTForImageClassificationWithTeacher": "distilled"}
        with pytest.raises(InputError, match=f"the weights are of a.*{names[kind]}"):
            load_bundle(tmp_path)


class TestPreprocessing:
    """Of what is written, by their image processor."""

    @pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
    @pytest.mark.parametrize(
        "view",
        [
            {"mode": "squash", "interpolation": "bilinear"},
            {"mode": "squash", "interpolation": "bicubic", "crop_fraction": 0.8},
            {"mode": "crop", "interpolation": "bicubic"},
            {"mode": "crop", "interpolation": "bilinear", "crop_fraction": 0.8},
        ],
        ids=str,
    )
    def test_gives_the_same_pictures(
        self, tmp_path: Path, view: dict[str, Any], size: tuple[int, int]
    ) -> None:
        ours = Preprocessing(image_size=size, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), **view)
        config = ViTConfig(**SMALL.to_dict() | {"image_size": size})
        bundle = bundle_of(random_model(config), CLASSES, ours.to_dict())
        result = convert_model(bundle, tmp_path / "x", "huggingface")
        as_written = ours
        if view["mode"] == "crop" and size[0] != size[1]:  # which they have not
            assert result.notes[0].startswith("preprocessing: only squares are cut out")
            as_written = replace(ours, mode="squash")
        values = json.loads((tmp_path / "x" / "preprocessor_config.json").read_text())
        kind = getattr(transformers, values["image_processor_type"] + "Pil")
        theirs = kind.from_pretrained(tmp_path / "x")
        rng = np.random.default_rng(0)
        for shape in ((64, 64), (97, 51), (50, 120)):
            picture = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
            expected = theirs(picture, return_tensors="pt")["pixel_values"][0]
            torch.testing.assert_close(as_written(picture), expected, rtol=0, atol=1e-5)
