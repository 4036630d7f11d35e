"""Weights of other libraries: how they compute is what their configuration, or habit, says."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tiny_models import (
    CLASSES,
    HYBRID,
    ROOT,
    TIMM_STEM,
    TINY,
    arrays_of,
    assert_holds,
    random_model,
)
from vit_lightning.checkpoints.companions import timm_config
from vit_lightning.checkpoints.dialects import (
    DIALECTS,
    GOOGLE,
    HUGGINGFACE,
    TIMM,
    TIMM_ROOT,
    TORCHVISION,
    Dialect,
)
from vit_lightning.checkpoints.locate import Located
from vit_lightning.checkpoints.official import OFFICIAL
from vit_lightning.checkpoints.weights import open_weights
from vit_lightning.errors import InputError
from vit_lightning.models.config import ResNetConfig, ViTConfig

FOREIGN = [d for d in DIALECTS if d.activation != GOOGLE.activation and d is not TIMM_ROOT]
STATE = random_model().state_dict()
VIEW = {"mode": "crop", "mean": [0.5] * 3, "std": [0.2] * 3, "crop_fraction": 0.9}


def write_json(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


class TestOfOtherLibraries:
    @pytest.mark.parametrize("dialect", FOREIGN, ids=lambda dialect: dialect.name)
    @pytest.mark.parametrize("wrap", ["alone", "model", "state_dict"])
    def test_a_state_dict(self, tmp_path: Path, dialect: Dialect, wrap: str) -> None:
        contents: dict[str, Any] = arrays_of(dialect, STATE)
        if wrap == "model":  # as DeiT's training leaves it
            contents = {"model": contents, "epoch": 3, "args": None}
        elif wrap == "state_dict":  # as Lightning does
            prefixed = {f"model.{key}": tensor for key, tensor in contents.items()}
            contents = {"state_dict": prefixed, "epoch": 3, "args": None}
        torch.save(contents, tmp_path / "x.pth")
        file = open_weights(tmp_path / "x.pth")
        assert file.dialect == dialect.name
        assert (file.config.activation, file.config.norm_eps) == ("gelu", dialect.norm_eps)
        assert file.training_state == (() if wrap == "alone" else ("epoch", "args"))
        assert file.notes[0] == (
            f"no config.json stands beside the weights: computed as {dialect.name} does by "
            f"default, with gelu and norm_eps {dialect.norm_eps:g}"
        )
        mode = dialect.preprocessing.get("mode", "paper")
        assert f"tells a preprocessing that is had here: taken for mode {mode}" in file.notes[1]
        assert_holds(file, STATE)

    def test_their_preprocessing_is_at_the_size_of_the_weights(self, tmp_path: Path) -> None:
        torch.save(arrays_of(TORCHVISION, STATE), tmp_path / "x.pth")
        assert open_weights(tmp_path / "x.pth").description.preprocessing == {
            "mode": "crop",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bilinear",
            "crop_fraction": 0.875,
            "image_size": [32, 32],
            "in_channels": 3,
        }
        torch.save(arrays_of(TIMM, STATE), tmp_path / "x.pth")
        assert open_weights(tmp_path / "x.pth").description.preprocessing is None

    @pytest.mark.parametrize(
        ("config", "dialect"), [(HYBRID, TIMM), (ROOT, TIMM_ROOT)], ids=["stages", "root"]
    )
    def test_a_hybrid_of_timm_has_the_epsilons_of_timm(
        self, tmp_path: Path, config: ViTConfig, dialect: Dialect
    ) -> None:
        state = random_model(config).state_dict()
        torch.save(arrays_of(dialect, state), tmp_path / "x.pth")
        file = open_weights(tmp_path / "x.pth")
        assert config.resnet is not None
        stem = ResNetConfig(*config.resnet.structure, **TIMM_STEM)
        assert file.config == config.replace(activation="gelu", resnet=stem)
        assert_holds(file, state)

    def test_heads_may_have_to_be_said(self, tmp_path: Path) -> None:
        narrow = random_model(embed_dim=48)
        torch.save(arrays_of(TIMM, narrow.state_dict()), tmp_path / "x.pth")
        with pytest.raises(
            InputError, match=r"x\.pth: .*how many attention heads their embed_dim of 48 is divided"
        ):
            open_weights(tmp_path / "x.pth")
        assert open_weights(tmp_path / "x.pth", num_heads=6).config.num_heads == 6

    def test_a_grid_that_is_not_square(self, tmp_path: Path) -> None:
        state = random_model(image_size=(24, 40)).state_dict()
        torch.save(arrays_of(TIMM, state), tmp_path / "x.pth")
        with pytest.raises(InputError, match=r"x\.pth: .*make no square grid"):
            open_weights(tmp_path / "x.pth")
        assert open_weights(tmp_path / "x.pth", (24, 40)).config.image_size == (24, 40)


class TestWithAConfiguration:
    """As repositories of the Hub have it."""

    def folder(self, folder: Path, config: Any, state: Mapping[str, Tensor] = STATE) -> Path:
        save_file(arrays_of(TIMM, state), folder / "model.safetensors")
        write_json(folder / "config.json", config)
        return folder

    def test_of_timm(self, tmp_path: Path) -> None:
        view = VIEW | {"interpolation": "bilinear"}
        config = TINY.replace(num_heads=6, activation="gelu", image_size=(16, 64))
        self.folder(tmp_path, timm_config(config, CLASSES, view, "vit_tiny_patch16_224"))
        for path in (tmp_path, tmp_path / "model.safetensors"):
            file = open_weights(path)
            assert file.config == config
            assert file.description.classes == CLASSES
            size = {"image_size": [16, 64], "in_channels": 3}
            assert file.description.preprocessing == view | size
            assert file.notes == ()
            assert_holds(file, STATE)

    def test_of_hugging_face(self, tmp_path: Path) -> None:
        save_file(arrays_of(HUGGINGFACE, STATE), tmp_path / "model.safetensors")
        config = {
            "model_type": "vit",
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-7,
            "num_attention_heads": 4,
            "image_size": 32,
            "id2label": {str(index): name for index, name in enumerate(CLASSES)},
        }
        write_json(tmp_path / "config.json", config)
        file = open_weights(tmp_path)
        assert file.config == TINY.replace(num_heads=4, norm_eps=1e-7)
        assert file.description.classes == CLASSES
        assert file.description.preprocessing == {
            "mode": "squash",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bilinear",
            "image_size": [32, 32],
            "in_channels": 3,
        }

    def test_of_a_head_that_is_another(self, tmp_path: Path) -> None:
        config = timm_config(TINY.replace(num_classes=7), list("abcdefg"), None, "vit")
        assert open_weights(self.folder(tmp_path, config)).description.classes is None

    def test_the_callers_pool_comes_first(self, tmp_path: Path) -> None:
        config = timm_config(TINY.replace(pool="gap", class_token=True), None, None, "vit")
        folder = self.folder(tmp_path, config)
        assert open_weights(folder).config.pool == "gap"
        assert open_weights(folder).config.class_token
        assert open_weights(folder, pool="none").config.pool == "none"

    def test_of_a_file_that_has_another_name(self, tmp_path: Path) -> None:
        """Nothing tells that it belongs to the weights."""
        self.folder(tmp_path, {"model_type": "no such model"})
        (tmp_path / "model.safetensors").rename(tmp_path / "x.safetensors")
        assert open_weights(tmp_path / "x.safetensors").config == TINY.replace(activation="gelu")

    @pytest.mark.parametrize(
        "config",
        [
            {"architecture": "vit", "model_args": {"img_size": 8}},
            {"architecture": "vit", "model_args": {"img_size": 1}},
            {"architecture": "vit", "model_args": {"img_size": 10**30}},
            {"architecture": "vit", "model_args": {"num_heads": 192}},
        ],
    )
    def test_sizes_that_are_not_those_of_the_weights(self, tmp_path: Path, config: Any) -> None:
        file = open_weights(self.folder(tmp_path, config))
        assert file.config.image_size == (32, 32)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"architecture": "vit", "model_args": {"num_heads": 5}}, "must be divisible by num_h"),
            ({"architecture": "vit", "model_args": {"num_heads": 10**400}}, "must be divisible by"),
            ({"model_type": "vit", "layer_norm_eps": float("nan")}, "layer_norm_eps must be a"),
            ({"model_type": "vit", "layer_norm_eps": -1}, "norm_eps must lie in"),
            ({"model_type": "vit", "layer_norm_eps": "x"}, "layer_norm_eps must be a finite"),
            ({"model_type": "swin"}, "config.json: model_type 'swin' is no Vision Transformer"),
        ],
    )
    def test_what_no_model_has(self, tmp_path: Path, config: Any, message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)) as error:
            open_weights(self.folder(tmp_path, config))
        assert str(tmp_path) in str(error.value)


class TestOfficialNames:
    """Google's weights are computed as Google does, whichever copy of them answered."""

    ROW = OFFICIAL["imagenet21k/ViT-B_16"]

    @pytest.mark.parametrize("dialect", [TIMM, HUGGINGFACE], ids=lambda dialect: dialect.name)
    def test_numerics(self, tmp_path: Path, dialect: Dialect) -> None:
        save_file(arrays_of(dialect, STATE), tmp_path / "model.safetensors")
        timm = timm_config(TINY, None, VIEW | {"interpolation": "bicubic"}, "vit")
        theirs = timm | {"model_args": timm["model_args"] | {"act_layer": "gelu"}}
        if dialect is HUGGINGFACE:
            theirs = {"model_type": "vit", "hidden_act": "gelu", "layer_norm_eps": 1e-12}
        config = write_json(tmp_path / "config.json", theirs)
        located = Located(
            tmp_path / "model.safetensors",
            "imagenet21k/ViT-B_16",
            {"config.json": config},
            self.ROW,
            ("from the mirror x, which has no head",),
        )
        file = open_weights(located)
        assert file.config == TINY
        assert file.description.preprocessing is None  # the original's
        assert file.source == "imagenet21k/ViT-B_16"
        assert file.notes == ("from the mirror x, which has no head",)
        assert_holds(file, STATE)
        asked_for_by_itself = open_weights(tmp_path)
        assert asked_for_by_itself.config.activation == "gelu"

    @pytest.mark.parametrize(
        ("config", "dialect"), [(HYBRID, TIMM), (ROOT, TIMM_ROOT)], ids=["stages", "root"]
    )
    def test_the_stem(self, tmp_path: Path, config: ViTConfig, dialect: Dialect) -> None:
        save_file(arrays_of(dialect, random_model(config).state_dict()), tmp_path / "x")
        assert open_weights(Located(tmp_path / "x", "R50", official=self.ROW)).config == config

    def test_names_of_the_classes_are_the_mirrors(self, tmp_path: Path) -> None:
        save_file(arrays_of(TIMM, STATE), tmp_path / "x")
        config = write_json(tmp_path / "config.json", timm_config(TINY, CLASSES, None, "vit"))
        located = Located(tmp_path / "x", "B", {"config.json": config}, self.ROW)
        assert open_weights(located).description.classes == CLASSES
