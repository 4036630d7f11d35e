"""The configuration files of other libraries: what they say, and whatever stands in them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vit_lightning.checkpoints.companions import (
    Hints,
    read_hints,
)
from vit_lightning.errors import InputError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
CLASSES = ("ant", "bee", "cicada")

TIMM: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 3,
    "global_pool": "token",
    "model_args": {"img_size": [64, 96], "act_layer": "gelu_tanh", "num_heads": 6},
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.1, 0.2, 0.3],
    },
    "label_names": list(CLASSES),
}
HUGGINGFACE: dict[str, Any] = {
    "model_type": "vit",
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 6,
    "image_size": [64, 96],
    "id2label": {"1": "bee", "0": "ant", "2": "cicada"},
}
VIT_PROCESSOR: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 64, "width": 96},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.1, 0.2, 0.3],
}
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


def test_nothing_beside_says_nothing() -> None:
    assert read_hints({}) == Hints()


class TestTimm:
    def test_everything(self, tmp_path: Path) -> None:
        fields = {"activation": "gelu_tanh", "num_heads": 6, "pool": "token"}
        assert read(tmp_path, TIMM) == Hints(fields, CLASSES, VIEW, (64, 96))

    def test_early_files_have_it_all_at_the_top(self, tmp_path: Path) -> None:
        legacy = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "global_pool": "avg"}
        legacy |= TIMM["pretrained_cfg"] | {"label_names": list(CLASSES)}
        expected = Hints({"pool": "gap"}, CLASSES, VIEW, (224, 224))
        assert read(tmp_path, legacy) == expected

    def test_what_is_not_said(self, tmp_path: Path) -> None:
        assert read(tmp_path, {"architecture": "vit_tiny_patch16_224"}) == Hints()

    def test_of_another_kind_is_refused_by_timms_name(self, tmp_path: Path) -> None:
        siglip = TIMM | {"architecture": "vit_base_patch16_siglip_gap_224"}
        with pytest.raises(InputError, match=r"config\.json: the weights are of a SigLIP"):
            read(tmp_path, siglip)

    def test_the_one_model_of_unusual_heads(self, tmp_path: Path) -> None:
        gap = {"architecture": "vit_base_patch16_gap_224"}
        assert read(tmp_path, gap).fields == {"num_heads": 16}
        assert read(tmp_path, gap | {"model_args": {"num_heads": 12}}).fields["num_heads"] == 12

    @pytest.mark.parametrize(("pool", "ours"), [("token", "token"), ("avg", "gap"), ("", "none")])
    def test_pools(self, tmp_path: Path, pool: str, ours: str) -> None:
        assert read(tmp_path, TIMM | {"global_pool": pool}).fields["pool"] == ours
        arguments = {"model_args": {"global_pool": pool}}
        assert read(tmp_path, TIMM | arguments).fields["pool"] == ours  # the model's come first

    def test_a_size_is_that_of_the_model_or_of_its_pictures(self, tmp_path: Path) -> None:
        assert read(tmp_path, TIMM | {"model_args": {"img_size": 48}}).image_size == (48, 48)
        assert read(tmp_path, TIMM | {"model_args": {}}).image_size == (224, 224)
        assert read(tmp_path, TIMM | {"model_args": None}).image_size == (224, 224)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"crop_mode": "squash"}, {"mode": "squash"}),
            ({"crop_mode": None}, {"mode": "crop"}),
            ({"crop_pct": None}, {"crop_fraction": 0.875}),
            ({"interpolation": None}, {"interpolation": "bicubic"}),
            ({"mean": 0.5}, {"mean": [0.5] * 3}),
        ],
    )
    def test_preprocessing(
        self, tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        found = read(tmp_path, TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | changes})
        assert found.preprocessing == VIEW | expected

    def test_what_is_replaced_is_noted(self, tmp_path: Path) -> None:
        changes = {"crop_mode": "border"}
        found = read(tmp_path, TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | changes})
        assert found.preprocessing == VIEW | {"mode": "squash"}
        assert [note[:18] for note in found.notes] == ["crop_mode 'border'"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("pool_include_prefix", True),
            ("qkv_bias", False),
            ("qkv_bias", None),
            ("proj_bias", False),
            ("final_norm", False),
            ("pre_norm", True),
            ("fc_norm", True),
            ("init_values", 1e-5),
            ("init_values", float("nan")),
            ("qk_norm", True),
            ("scale_attn_norm", True),
            ("reg_tokens", 4),
            ("pos_embed", "none"),
            ("pos_embed", None),
            ("no_embed_class", True),
            ("dynamic_img_pad", True),
            ("norm_layer", "rmsnorm"),
            ("norm_layer", {"eps": 1e-5}),
            ("mlp_layer", "swiglu"),
            ("attn_layer", "diff"),
            ("features_only", True),
            ("of_a_later_version", 1),
        ],
    )
    def test_arguments_of_another_model(self, tmp_path: Path, name: str, value: Any) -> None:
        message = rf"config\.json: {name} .* in model_args makes another"
        with pytest.raises(InputError, match=message):
            read(tmp_path, TIMM | {"model_args": {name: value}})

    def test_arguments_of_the_same_model(self, tmp_path: Path) -> None:
        same = {
            "img_size": 64,
            "embed_dim": 192,
            "mlp_ratio": 4.0,
            "qkv_bias": True,
            "proj_bias": True,
            "final_norm": True,
            "pos_embed": "learn",
            "norm_layer": "LayerNorm",
            "act_layer": None,
            "class_token": False,
            "no_embed_class": True,
            "fc_norm": False,
            "init_values": None,
            "pre_norm": False,
            "reg_tokens": 0,
            "drop_rate": 0.1,
            "attn_drop_rate": 0.1,
            "drop_path_rate": 0.1,
            "weight_init": "jax",
            "dynamic_img_size": True,
            "of_a_later_version": False,
        }
        found = read(tmp_path, TIMM | {"model_args": same})
        assert found.fields == {"activation": "gelu", "pool": "token"}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"model_args": {"act_layer": "quick_gelu"}},
                "act_layer 'quick_gelu' is not computed here; known: 'gelu', 'gelu_tanh'",
            ),
            ({"global_pool": "map"}, "global_pool 'map' is not computed here; known: 'token', 'av"),
            ({"model_args": {"num_heads": 0}}, "num_heads must be a positive integer, got 0"),
        ],
    )
    def test_what_is_not_computed_here(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=re.escape(message)) as error:
            read(tmp_path, TIMM | changes)
        assert str(tmp_path / CONFIG) in str(error.value)


class TestHuggingFace:
    def test_everything(self, tmp_path: Path) -> None:
        fields = {"activation": "gelu_tanh", "norm_eps": 1e-5, "num_heads": 6}
        view = VIEW | {"mode": "squash", "interpolation": "bicubic", "crop_fraction": 1.0}
        found = read(tmp_path, HUGGINGFACE, VIT_PROCESSOR)
        assert found == Hints(fields, CLASSES, view, (64, 96))

    def test_what_is_not_said(self, tmp_path: Path) -> None:
        assert read(tmp_path, {}) == Hints()
        assert read(tmp_path, {"model_type": "deit"}) == Hints()

    @pytest.mark.parametrize(
        ("name", "ours"),
        [
            ("gelu", "gelu"),
            ("gelu_python", "gelu"),
            ("gelu_new", "gelu_tanh"),
            ("gelu_pytorch_tanh", "gelu_tanh"),
        ],
    )
    def test_activations(self, tmp_path: Path, name: str, ours: str) -> None:
        found = read(tmp_path, HUGGINGFACE | {"hidden_act": name})
        assert found.fields["activation"] == ours

    @pytest.mark.parametrize("name", ["relu", "quick_gelu", "gelu_10", "gelu_fast"])
    def test_activations_that_are_not_computed_here(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=rf"config\.json: hidden_act '{name}' is not computed"):
            read(tmp_path, HUGGINGFACE | {"hidden_act": name})

    @pytest.mark.parametrize("kind", ["dinov2", "vit_mae", "siglip_vision_model", "clip", 3])
    def test_other_models(self, tmp_path: Path, kind: Any) -> None:
        with pytest.raises(InputError, match=rf"model_type '?{kind}'? is no Vision Transformer"):
            read(tmp_path, HUGGINGFACE | {"model_type": kind})

    def test_names_that_nobody_gave(self, tmp_path: Path) -> None:
        labels = {str(index): f"LABEL_{index}" for index in range(3)}
        assert read(tmp_path, HUGGINGFACE | {"id2label": labels}).classes is None
        labels["2"] = "cicada"
        assert read(tmp_path, HUGGINGFACE | {"id2label": labels}).classes == tuple(labels.values())

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"resample": 2}, {"interpolation": "bilinear"}),
            ({"image_mean": 0.3}, {"mean": [0.3] * 3}),
            (
                {"size": 64},  # an early way of saying it
                {},
            ),
            (
                {"size": {"height": 256, "width": 384}, "do_center_crop": True, "crop_size": 128},
                {"crop_fraction": 0.5},
            ),
            (
                {
                    "size": {"shortest_edge": 256},
                    "do_center_crop": True,
                    "crop_size": {"height": 224, "width": 224},
                },
                {"mode": "crop", "crop_fraction": 0.875},
            ),
        ],
    )
    def test_preprocessing(
        self, tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        view = VIEW | {"mode": "squash", "interpolation": "bicubic", "crop_fraction": 1.0}
        found = read(tmp_path, HUGGINGFACE, VIT_PROCESSOR | changes)
        assert found.preprocessing == view | expected

    def test_what_is_replaced_is_noted(self, tmp_path: Path) -> None:
        found = read(tmp_path, HUGGINGFACE, VIT_PROCESSOR | {"resample": 0})
        assert found.preprocessing is not None
        assert found.preprocessing["mean"] == VIEW["mean"]
        assert [note[:21] for note in found.notes] == ["resample 0: 'nearest'"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"qkv_bias": False}, "qkv_bias False is not computed here"),
            ({"qkv_bias": None}, "qkv_bias None is not computed here"),
            ({"pooler_act": "relu"}, "pooler_act 'relu' is not computed here; known: 'tanh'"),
            (
                {"pooler_act": "relu", "architectures": ["ViTModel"]},
                "pooler_act 'relu' is not computed here",
            ),
            ({"layer_norm_eps": True}, "layer_norm_eps must be a finite number, got True"),
            ({"layer_norm_eps": "1e-6"}, "layer_norm_eps must be a finite number"),
            ({"num_attention_heads": True}, "num_attention_heads must be a positive integer"),
        ],
    )
    def test_settings_that_are_not_computed_here(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=rf"config\.json: {message}"):
            read(tmp_path, HUGGINGFACE | changes)

    def test_a_classifier_has_no_pooler(self, tmp_path: Path) -> None:
        classifier = {"pooler_act": "relu", "architectures": ["ViTForImageClassification"]}
        assert read(tmp_path, HUGGINGFACE | classifier) == read(tmp_path, HUGGINGFACE)

    def test_a_processor_alone_says_nothing(self, tmp_path: Path) -> None:
        assert read(tmp_path, None, VIT_PROCESSOR) == Hints()


JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    3,
    10**400,
    2.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    ["x"],
    [0, 0],
    [1, 2, 3],
    [[1]],
    {},
    {"x": 1},
    {"0": None},
    {"height": 0, "width": 0},
    {"1": "b"},
]


def assert_understood_or_refused(folder: Path, config: Any, processor: Any = None) -> None:
    try:
        found = read(folder, config, processor)
    except InputError as error:
        assert str(folder) in str(error)  # noqa: PT017
        return
    assert isinstance(found, Hints)
    for numbers in (found.preprocessing or {}).values():
        json.dumps(numbers, allow_nan=False)
    assert found.image_size is None or all(side > 0 for side in found.image_size)
    assert found.classes is None or all(isinstance(name, str) for name in found.classes)


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: str(junk)[:20])
class TestAnything:
    """Whatever stands in the place of whatever: it is passed over, or refused in words."""

    def test_in_a_file_of_timm(self, tmp_path: Path, junk: Any) -> None:
        assert_understood_or_refused(tmp_path, {"architecture": junk})
        for key in TIMM:
            assert_understood_or_refused(tmp_path, TIMM | {key: junk})
        for key in TIMM["pretrained_cfg"]:
            trained = TIMM["pretrained_cfg"] | {key: junk}
            assert_understood_or_refused(tmp_path, TIMM | {"pretrained_cfg": trained})
        others = ("global_pool", "class_token", "norm_layer", "qkv_bias", "init_values", "other")
        for key in (*TIMM["model_args"], *others):
            arguments = TIMM["model_args"] | {key: junk}
            assert_understood_or_refused(tmp_path, TIMM | {"model_args": arguments})

    def test_in_a_file_of_hugging_face(self, tmp_path: Path, junk: Any) -> None:
        for key in (*HUGGINGFACE, "qkv_bias", "pooler_act", "architectures"):
            assert_understood_or_refused(tmp_path, HUGGINGFACE | {key: junk}, VIT_PROCESSOR)

    def test_in_a_processor(self, tmp_path: Path, junk: Any) -> None:
        crops = VIT_PROCESSOR | {"do_center_crop": True, "crop_size": 32}
        for processor in (VIT_PROCESSOR, crops):
            others = ("do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize")
            for key in (*processor, *others):
                assert_understood_or_refused(tmp_path, HUGGINGFACE, processor | {key: junk})

    def test_in_the_place_of_a_file(self, tmp_path: Path, junk: Any) -> None:
        assert_understood_or_refused(tmp_path, junk)
        assert_understood_or_refused(tmp_path, HUGGINGFACE, junk)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000, '{"a": 1, "a": 2}', "nul"])
def test_files_that_are_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(InputError, match=r"config\.json: "):
        read_hints({CONFIG: tmp_path / CONFIG})


def test_a_word_is_no_list_of_names(tmp_path: Path) -> None:
    assert read(tmp_path, TIMM | {"label_names": "abc"}).classes is None
