"""Models that look like a Vision Transformer and compute something else, known by their arrays."""

import re
from collections.abc import Iterable

from vit_lightning.errors import InputError

# A model, an array that it has and the Vision Transformer has not, and what it does with it. The
# first that is found is named, so the more particular come first.
_OTHERS: tuple[tuple[str, str, str], ...] = (
    ("an MLP-Mixer", r"MixerBlock_\d", "mixes tokens by an MLP, without attention"),
    (
        "a distilled DeiT",
        r"dist_token|head_dist\.|distillation_token|distillation_classifier|cls_classifier",
        "has a second class token and a second head; take the DeiT without distillation",
    ),
    ("a DINOv3", r"storage_tokens|rope_embed", "has register tokens and rotary positions"),
    (
        "a DINOv2 or DINOv3 with registers",
        r"register_tokens|reg_token",
        "has tokens beside the class token",
    ),
    (
        "a BEiT or a Swin Transformer",
        r"relative_position_(bias_table|index)",
        "has a table of relative positions",
    ),
    (
        "a DINOv2, DINOv3, DeiT-III or another model with LayerScale",
        r"\.ls1\.gamma|\.layer_scale1|\.gamma_1",
        "scales every residual branch by a vector of its own",
    ),
    (
        "a masked autoencoder",
        r"decoder_(pos_embed|embed|blocks)|decoder\.decoder_layers",
        "has a decoder; take its encoder's weights",
    ),
    (
        "a SigLIP or another model with attention pooling",
        r"MAPHead_\d|attn_pool\.|vision_model\.head\.probe",
        "pools tokens by an attention layer of its own",
    ),
    (
        "a CLIP",
        r"norm_pre\.|pre_layrnorm|ln_pre\.|class_embedding",
        "normalises the tokens before the first block",
    ),
    (
        "a model that averages before it normalises",
        r"(^|\.)fc_norm\.",
        "reads the mean of tokens that were not normalised",
    ),
    ("a model with query and key norms", r"\.attn\.[qk]_norm\.", "normalises inside attention"),
    (
        "a hybrid of Hugging Face",
        r"embeddings\.patch_embeddings\.backbone\.",
        "names its stem in a way that is not read here; the same weights are "
        "timm/vit_base_r50_s16_384.orig_in21k_ft_in1k",
    ),
    (
        "a hybrid of jeonsworld's port",
        r"embeddings\.hybrid_model\.",
        "pads its stem otherwise than the original, which moves a logit by up to 0.6; begin from "
        "the .npz that it was made of",
    ),
)
# The same by timm's names, where the arrays do not tell.
_ARCHITECTURES = (
    ("a SigLIP", "siglip", "in some versions has another activation, which is written nowhere"),
    ("a FlexiViT", "flexivit", "gives positions to the patches alone"),
)
_ONLY = (
    "This package has the Vision Transformer of the paper and its hybrids, and would compute "
    "something else"
)
_RULES = tuple((name, re.compile(pattern), why) for name, pattern, why in _OTHERS)


def refuse_other_models(keys: Iterable[str]) -> None:
    """Refuse the weights of a model that is not this package's, by its name.

    Raises:
        InputError: naming the model, the array it was known by, and what is different.
    """
    keys = list(keys)
    for name, rule, why in _RULES:
        for key in keys:
            if rule.search(key):
                raise InputError(
                    f"the weights are of {name} (they have {key}), which {why}. {_ONLY}"
                )


def refuse_other_architectures(architecture: str) -> None:
    """Refuse a model of timm that is not this package's, by timm's name for it.

    Raises:
        InputError: naming the model, and what is different.
    """
    for name, part, why in _ARCHITECTURES:
        if part in architecture:
            raise InputError(f"the weights are of {name} ({architecture}), which {why}. {_ONLY}")
