"""Models written to files, and read back as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vit_lightning.errors import InputError
from vit_lightning.factory import (
    create_model,
    load_model,
    save_model,
)
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer

REFERENCE = Path(__file__).parent / "reference"
TOKEN = REFERENCE / "vit_token_small.npz"
PRELOGITS = REFERENCE / "vit_prelogits_small.npz"
GAP = REFERENCE / "vit_gap_small.npz"
HYBRID = REFERENCE / "hybrid_small.npz"
CLASSES = tuple("abcdefghij")


def assert_same_model(one: VisionTransformer, other: VisionTransformer) -> None:
    assert one.config == other.config
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


class TestSave:
    @pytest.mark.parametrize("path", [TOKEN, PRELOGITS, GAP, HYBRID], ids=lambda path: path.stem)
    @pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
    def test_there_and_back_is_bit_exact(self, tmp_path: Path, path: Path, suffix: str) -> None:
        model = load_model(path)
        save_model(model, tmp_path / f"x{suffix}")
        assert_same_model(load_model(tmp_path / f"x{suffix}"), model)

    def test_a_written_npz_is_the_original(self, tmp_path: Path) -> None:
        """Key for key and bit for bit, so that the original's loader reads it."""
        save_model(load_model(PRELOGITS), tmp_path / "x.npz")
        with np.load(PRELOGITS) as expected, np.load(tmp_path / "x.npz") as written:
            assert set(written.files) == set(expected.files)
            for key in expected.files:
                np.testing.assert_array_equal(written[key], expected[key], strict=True)

    def test_a_whole_configuration_survives_safetensors(self, tmp_path: Path) -> None:
        config = ViTConfig(
            image_size=(40, 70),
            patch_size=(2, 1),
            in_channels=4,
            embed_dim=24,
            depth=2,
            num_heads=3,
            mlp_dim=20,
            num_classes=0,
            pool="gap",
            class_token=True,
            representation_size=5,
            dropout=0.1,
            attention_dropout=0.2,
            drop_path=0.3,
            activation="gelu",
            norm_eps=1e-5,
            resnet=ResNetConfig((1, 2), 32),
        )
        model = create_model(config)
        save_model(model, tmp_path / "x.safetensors")
        assert_same_model(load_model(tmp_path / "x.safetensors"), model)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"activation": "gelu"}, "cannot say activation gelu;"),
            ({"norm_eps": 1e-5}, "cannot say norm_eps 1e-05;"),
            ({"image_size": (16, 64)}, "a grid of 2 x 8, which would be taken for a square"),
            ({"pool": "gap", "class_token": True}, "the mean over patches beside a class token"),
        ],
    )
    def test_what_google_files_cannot_say_is_not_written(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        model = create_model(load_model(TOKEN).config, **changes)
        with pytest.raises(InputError, match=message):
            save_model(model, tmp_path / "x.npz")
        assert not list(tmp_path.iterdir())

    def test_google_files_have_no_room_for_words(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot say class names, preprocessing;"):
            save_model(load_model(TOKEN), tmp_path / "x.npz", CLASSES, {"name": "paper"})

    def test_class_names_must_be_as_many_as_classes(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="2 class names for a model of 10 classes"):
            save_model(load_model(TOKEN), tmp_path / "x.safetensors", ["a", "b"])

    @pytest.mark.parametrize("name", ["x.ckpt", "x.pth", "x"])
    def test_other_suffixes_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=r"the suffix must be \.safetensors or \.npz"):
            save_model(load_model(TOKEN), tmp_path / name)

    def test_a_model_may_be_written_over_the_file_it_came_from(self, tmp_path: Path) -> None:
        for suffix in (".npz", ".safetensors"):
            path = tmp_path / f"x{suffix}"
            save_model(load_model(TOKEN), path)
            model = load_model(path)
            with torch.no_grad():
                model.head.weight.add_(1)
            save_model(model, path)
            assert_same_model(load_model(path), model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resnet": ResNetConfig((2, 2, 1), 32, norm_eps=1e-5)}, "cannot say resnet"),
        ({"pool": "none"}, "cannot say pool 'none'"),
        ({"pool": "gap", "class_token": True}, "the mean over patches beside a class token"),
    ],
)
def test_an_npz_that_would_be_read_as_another_model(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    model = VisionTransformer(load_model(HYBRID).config.replace(**changes))
    with pytest.raises(InputError, match=message):
        save_model(model, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()
