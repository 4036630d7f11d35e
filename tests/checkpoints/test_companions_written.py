"""The configuration files that are written for other libraries, read back."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tiny_models import R26, R_TI, TINY
from vit_lightning.checkpoints.companions import (
    Hints,
    huggingface_config,
    huggingface_processor,
    read_hints,
    timm_config,
)
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.models.config import ViTConfig

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
CLASSES = ("ant", "bee", "cicada")

VIEW = {
    "mode": "crop",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.1, 0.2, 0.3],
    "interpolation": "bilinear",
    "crop_fraction": 0.9,
}


def read(folder: Path, config: Any, processor: Any = None) -> Hints:
    """What is said of weights by these contents of the files beside them."""
    companions = {}
    for name, values in ((CONFIG, config), (PROCESSOR, processor)):
        if values is not None:
            companions[name] = folder / name
            companions[name].write_text(json.dumps(values))
    return read_hints(companions)


CONFIGS = [
    ViTConfig(num_classes=3),
    ViTConfig(num_classes=3, image_size=(64, 96), activation="gelu", norm_eps=1e-12),
    ViTConfig(num_classes=3, embed_dim=48, num_heads=6, mlp_dim=50, image_size=96),
    ViTConfig(num_classes=3, pool="gap"),
    ViTConfig(num_classes=3, pool="none", patch_size=(16, 32)),
]
VIEWS = [
    VIEW,
    VIEW | {"mode": "squash"},
    VIEW | {"mode": "squash", "crop_fraction": 1.0, "interpolation": "bicubic"},
    VIEW | {"crop_fraction": 0.875},
]


class TestWhatIsWritten:
    @pytest.mark.parametrize("classes", [None, CLASSES])
    @pytest.mark.parametrize("view", VIEWS)
    @pytest.mark.parametrize("config", CONFIGS)
    def test_for_timm_is_read_back(
        self, tmp_path: Path, config: ViTConfig, view: dict[str, Any], classes: Any
    ) -> None:
        written = timm_config(config, classes, view, "vit_base_patch16_224")
        fields = {name: getattr(config, name) for name in ("activation", "num_heads", "pool")}
        assert read(tmp_path, written) == Hints(fields, classes, view, config.image_size)

    @pytest.mark.parametrize("classes", [None, CLASSES])
    @pytest.mark.parametrize("view", VIEWS)
    @pytest.mark.parametrize("config", CONFIGS[:3])
    def test_for_hugging_face_is_read_back(
        self, tmp_path: Path, config: ViTConfig, view: dict[str, Any], classes: Any
    ) -> None:
        written = huggingface_config(config, classes), huggingface_processor(config, view)
        found = read(tmp_path, *written)
        names = ("activation", "num_heads", "norm_eps")
        assert found.fields == {name: getattr(config, name) for name in names}
        assert (found.classes, found.image_size) == (classes, config.image_size)
        # A processor counts in whole pixels: the fraction is another, the pictures are the same.
        assert found.preprocessing is not None
        mode = view["mode"] if config.image_size[0] == config.image_size[1] else "squash"
        assert found.preprocessing == view | {
            "mode": mode,
            "crop_fraction": found.preprocessing["crop_fraction"],
        }
        assert abs(found.preprocessing["crop_fraction"] - view["crop_fraction"]) < 0.02
        again = huggingface_processor(config, found.preprocessing)
        assert again == written[1]

    @pytest.mark.parametrize("fraction", [1.0, 0.965, 0.95, 0.9, 0.875, 0.5])
    def test_a_fraction_comes_back_as_the_same_pixels(
        self, tmp_path: Path, fraction: float
    ) -> None:
        """At every size, also where the quotient of two sides is not quite their ratio."""
        for side in (8, 9, 32, 63, 224, 384, 443, 457, 512, 518, 599):
            config, view = (
                ViTConfig(image_size=side, patch_size=8),
                VIEW | {"crop_fraction": fraction},
            )
            written = huggingface_processor(config, view)
            found = read(tmp_path, huggingface_config(config, None), written).preprocessing
            assert found is not None
            pixels = math.floor(side / fraction)
            assert math.floor(side / found["crop_fraction"]) == pixels, side

    def test_other_channels_than_three(self, tmp_path: Path) -> None:
        config = ViTConfig(in_channels=1, num_classes=3)
        found = read(tmp_path, timm_config(config, None, VIEW, "vit_base_patch16_224"))
        processor = huggingface_processor(config, VIEW)
        assert found.preprocessing is not None
        assert found.preprocessing["mean"] == processor["image_mean"] == [pytest.approx(0.4)]
        assert found.preprocessing["std"] == processor["image_std"] == [pytest.approx(0.2)]
        values = found.preprocessing | {"image_size": [224, 224], "in_channels": 1}
        assert Preprocessing.from_dict(values).crop_fraction == 0.9

    def test_timm_makes_the_same_width_of_the_ratio(self) -> None:
        for embed_dim, mlp_dim in itertools.product(range(1, 100), range(1, 400, 3)):
            config = ViTConfig(embed_dim=embed_dim, num_heads=1, mlp_dim=mlp_dim)
            ratio = timm_config(config, None, None, "vit")["model_args"]["mlp_ratio"]
            assert int(embed_dim * ratio) == mlp_dim, (embed_dim, mlp_dim)

    @pytest.mark.parametrize(
        ("config", "name"),
        [
            (TINY, "patch_embed.proj"),
            (R_TI, "patch_embed.backbone.conv"),
            (R26, "patch_embed.backbone.stem.conv"),
        ],
    )
    def test_timm_knows_which_filters_see_the_picture(self, config: ViTConfig, name: str) -> None:
        trained = timm_config(config, None, None, "vit")["pretrained_cfg"]
        assert trained["first_conv"] == name

    def test_hugging_face_wants_a_name_for_every_class(self) -> None:
        written = huggingface_config(ViTConfig(num_classes=2), None)
        assert written["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
        assert written["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
        assert huggingface_config(ViTConfig(num_classes=0), None)["architectures"] == ["ViTModel"]
