"""The configuration files that libraries put beside weights: read into ours, written from it."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_lightning.checkpoints.native import are_names
from vit_lightning.checkpoints.refusals import refuse_other_architectures
from vit_lightning.checkpoints.views import (
    RESAMPLE,
    finite_number,
    huggingface_view,
    timm_view,
)
from vit_lightning.errors import InputError
from vit_lightning.json_file import read_json
from vit_lightning.models.config import Activation, Size, ViTConfig

# Both directions; the first name of an activation is the one that is written.
_TIMM_ACTIVATIONS: Mapping[str, Activation] = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}
_HF_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
}
_HF_SEVERAL_LABELS = "multi_label_classification"
_TIMM_POOLS = {"token": "token", "avg": "gap", "": "none"}
# Arguments of timm's VisionTransformer that do not make another function of it at its own size:
_TIMM_HARMLESS = frozenset(
    # read here, or told by the arrays,
    {"img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio"}
    | {"global_pool", "num_heads", "class_token", "act_layer"}
    # of the training alone,
    | {f"{part}drop_rate" for part in ("", "pos_", "patch_", "proj_", "attn_")}
    | {"drop_path_rate", "weight_init", "fix_init"}
    # of how it is built and loaded.
    | {"dynamic_img_size", "device", "dtype", "scriptable", "exportable", "no_jit", "cache_dir"}
    | {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"}
    | {"checkpoint_path", "out_indices"}
)
# What others must be; any that is not named must be null, false or zero.
_TIMM_NEEDED: Mapping[str, Sequence[Any]] = {
    "qkv_bias": (True,),
    "proj_bias": (True,),
    "final_norm": (True,),
    "pos_embed": ("learn",),
}
_TIMM_NORMS = ("", "layernorm", "layernormfp32")
_TIMM_HEADS = {"vit_base_patch16_gap_224": 16}  # unlike any other model of its width


@dataclass(frozen=True)
class Hints:
    """What stands beside weights.

    Args:
        fields: fields of :class:`~vit_lightning.models.config.ViTConfig`.
        classes: names of the head's outputs, or None.
        preprocessing: plain values of a preprocessing, without its size, or None.
        image_size: pixels of the pictures, or None.
        notes: what is not had here, and what replaced it.
        multi_label: whether a picture has any number of classes.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None
    image_size: Size | None = None
    notes: tuple[str, ...] = ()
    multi_label: bool = False


def read_hints(companions: Mapping[str, Path]) -> Hints:
    """What the files beside weights say of them.

    Args:
        companions: "config.json" of timm or Hugging Face, "preprocessor_config.json".

    Raises:
        InputError: a file that cannot be read, or says what this package cannot compute.
    """
    if "config.json" not in companions:
        return Hints()
    path = companions["config.json"]
    config = read_json(path, "configuration")
    try:
        if "architecture" in config:
            return _from_timm(config)
        processor = companions.get("preprocessor_config.json")
        preprocessing = None if processor is None else read_json(processor, "configuration")
        return _from_huggingface(config, preprocessing)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    # It may hold anything in the place of anything.
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path}: no configuration of a model ({error!r})") from error


def _from_timm(config: dict[str, Any]) -> Hints:
    # Early files have what is now under "pretrained_cfg" at the top.
    trained = {**config.get("pretrained_cfg", config)}
    architecture = str(config["architecture"])
    refuse_other_architectures(architecture)
    arguments = config.get("model_args") or {}
    _check_timm_arguments(arguments)
    fields: dict[str, Any] = {}
    if "act_layer" in arguments:
        activation = arguments["act_layer"] or "gelu"  # timm's own, whatever the architecture's
        fields["activation"] = _translated(activation, _TIMM_ACTIVATIONS, "act_layer")
    heads = arguments.get("num_heads", _TIMM_HEADS.get(architecture))
    if heads is not None:
        fields["num_heads"] = _count(heads, "num_heads")
    pool = arguments.get("global_pool", config.get("global_pool"))
    if pool is not None:
        fields["pool"] = _translated(pool, _TIMM_POOLS, "global_pool")
    size = arguments.get("img_size") or (trained.get("input_size") or [3, None])[1:]
    labels = config.get("label_names") or trained.get("label_names")
    preprocessing, notes = timm_view(trained)
    return Hints(fields, _names(labels), preprocessing, _size(size), notes)


def _check_timm_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of timm's VisionTransformer that change what it computes."""
    for name, value in arguments.items():
        if name in _TIMM_HARMLESS:
            continue
        if name in _TIMM_NEEDED:
            fits = value in _TIMM_NEEDED[name]
        elif name == "norm_layer" and isinstance(value, str):
            fits = value.replace("_", "").lower() in _TIMM_NORMS
        elif name == "no_embed_class":  # without a class it changes nothing
            fits = not value or arguments.get("class_token") is False
        else:
            fits = not value
        if not fits:
            raise InputError(
                f"{name} {reprlib.repr(value)} in model_args makes another model than the Vision "
                f"Transformer of the paper, or one that is not known here"
            )


def _from_huggingface(config: dict[str, Any], processor: dict[str, Any] | None) -> Hints:
    kind = config.get("model_type", "vit")
    if kind not in ("vit", "deit"):
        raise InputError(
            f"model_type {kind!r} is no Vision Transformer of the paper, which is 'vit'"
        )
    _check_huggingface_settings(config)
    fields: dict[str, Any] = {}
    if "hidden_act" in config:
        fields["activation"] = _translated(config["hidden_act"], _HF_ACTIVATIONS, "hidden_act")
    if "layer_norm_eps" in config:
        fields["norm_eps"] = finite_number(config["layer_norm_eps"], "layer_norm_eps")
    if "num_attention_heads" in config:
        fields["num_heads"] = _count(config["num_attention_heads"], "num_attention_heads")
    labels = config.get("id2label")
    classes = None
    if isinstance(labels, Mapping):
        named = {int(index): name for index, name in labels.items()}
        classes = _names([named[index] for index in range(len(named))])
        if classes and all(name == f"LABEL_{index}" for index, name in enumerate(classes)):
            classes = None  # what is written where nobody gave names
    preprocessing, notes = (None, ()) if processor is None else huggingface_view(processor)
    several = config.get("problem_type") == _HF_SEVERAL_LABELS
    return Hints(fields, classes, preprocessing, _size(config.get("image_size")), notes, several)


def _check_huggingface_settings(config: Mapping[str, Any]) -> None:
    """Refuse what ViTConfig of transformers can say and this package cannot compute."""
    if config.get("qkv_bias", True) is not True:
        raise InputError(
            f"qkv_bias {reprlib.repr(config['qkv_bias'])} is not computed here: query, key and "
            f"value have biases"
        )
    architectures = config.get("architectures")
    if architectures and all(
        str(name).endswith("ForImageClassification") for name in architectures
    ):
        return  # which has no pooler, whatever its configuration says
    if config.get("pooler_act", "tanh") != "tanh":
        raise InputError(
            f"pooler_act {reprlib.repr(config['pooler_act'])} is not computed here; known: 'tanh'"
        )


def _translated(value: object, table: Mapping[str, Any], name: str) -> Any:
    if not isinstance(value, str) or value not in table:
        known = ", ".join(repr(key) for key in table)
        raise InputError(f"{name} {reprlib.repr(value)} is not computed here; known: {known}")
    return table[value]


def _count(value: object, name: str) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"{name} must be a positive integer, got {reprlib.repr(value)}")
    return value


def _size(value: Any) -> Size | None:
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) == 2 and all(type(side) is int and side > 0 for side in pair):
        return pair
    return None


def _names(labels: Any) -> tuple[str, ...] | None:
    return tuple(labels) if are_names(labels) else None


def timm_config(
    config: ViTConfig,
    classes: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | None,
    architecture: str,
) -> dict[str, Any]:
    """The ``config.json`` from which ``timm.create_model("local-dir:…")`` makes the model.

    Args:
        config: the model; the caller refuses what timm cannot express.
        classes: names of the head's outputs.
        preprocessing: plain values of a preprocessing of mode "crop" or "squash", else None.
        architecture: a timm model whose arguments the file overrides.
    """
    arguments: dict[str, Any] = {
        "img_size": list(config.image_size),
        "in_chans": config.in_channels,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": _ratio(config.mlp_dim, config.embed_dim),
        "class_token": bool(config.class_token),
        "global_pool": _inverse(_TIMM_POOLS, config.pool),
        "fc_norm": False,
        "act_layer": _inverse(_TIMM_ACTIVATIONS, config.activation),
        "patch_size": list(config.patch_size),
    }
    trained = {
        "num_classes": config.num_classes,
        "input_size": [config.in_channels, *config.image_size],
        "fixed_input_size": True,
        "first_conv": _first_convolution(config),
        "classifier": "head",
        **_timm_view(config, preprocessing),
    }
    values = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": trained,
    }
    return values | ({"label_names": list(classes)} if classes is not None else {})


def _first_convolution(config: ViTConfig) -> str:
    """The name, in timm, of the filters that see the picture; it adapts them to other channels."""
    if config.resnet is None:
        return "patch_embed.proj"
    return f"patch_embed.backbone.{'stem.' if config.resnet.stage_depths else ''}conv"


def _timm_view(config: ViTConfig, preprocessing: Mapping[str, Any] | None) -> dict[str, Any]:
    if preprocessing is None:
        return {}
    return {
        "mean": _channels(preprocessing["mean"], config.in_channels),
        "std": _channels(preprocessing["std"], config.in_channels),
        "interpolation": preprocessing["interpolation"],
        "crop_pct": preprocessing["crop_fraction"],
        "crop_mode": "center" if preprocessing["mode"] == "crop" else "squash",
    }


def huggingface_config(
    config: ViTConfig, classes: Sequence[str] | None, *, multi_label: bool = False
) -> dict[str, Any]:
    """The ``config.json`` of transformers' ViT; the caller refuses what it cannot express."""
    names = list(classes) if classes is not None else None
    if names is None:
        names = [f"LABEL_{index}" for index in range(config.num_classes)]
    square = config.image_size[0] == config.image_size[1]
    square_patch = config.patch_size[0] == config.patch_size[1]
    values: dict[str, Any] = {
        "architectures": ["ViTForImageClassification" if config.num_classes else "ViTModel"],
        "model_type": "vit",
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": _inverse(_HF_ACTIVATIONS, config.activation),
        "layer_norm_eps": config.norm_eps,
        "image_size": config.image_size[0] if square else list(config.image_size),
        "patch_size": config.patch_size[0] if square_patch else list(config.patch_size),
        "num_channels": config.in_channels,
        "qkv_bias": True,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "pooler_output_size": config.representation_size or config.embed_dim,
        "pooler_act": "tanh",
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "dtype": "float32",
    }
    return values | ({"problem_type": _HF_SEVERAL_LABELS} if multi_label else {})


def huggingface_processor(config: ViTConfig, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The ``preprocessor_config.json`` for a preprocessing of mode "crop" or "squash".

    There is no covering of other shapes than squares: for them both are "squash".
    """
    height, width = config.image_size
    values: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": _inverse(RESAMPLE, preprocessing["interpolation"]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _channels(preprocessing["mean"], config.in_channels),
        "image_std": _channels(preprocessing["std"], config.in_channels),
    }
    fraction = preprocessing["crop_fraction"]
    crops = preprocessing["mode"] == "crop" and height == width
    if crops or fraction != 1.0:
        resized = [math.floor(side / fraction) for side in config.image_size]
        shortest = {"shortest_edge": min(resized)}
        whole = {"height": resized[0], "width": resized[1]}
        values |= {
            "image_processor_type": "DeiTImageProcessor",
            "size": shortest if crops else whole,
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
        }
    return values


def _inverse(table: Mapping[Any, Any], value: Any) -> Any:
    return next(key for key, known in table.items() if known == value)


def _channels(numbers: Sequence[float], count: int) -> list[float]:
    """One number for each channel; for other than three, the mean of those given."""
    if len(numbers) == count:
        return list(numbers)
    return [sum(numbers) / len(numbers)] * count


def _ratio(mlp_dim: int, embed_dim: int) -> float:
    """The ratio of which timm's ``int(embed_dim * ratio)`` makes ``mlp_dim`` again."""
    ratio = mlp_dim / embed_dim
    return ratio if int(embed_dim * ratio) == mlp_dim else math.nextafter(ratio, math.inf)
