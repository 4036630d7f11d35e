"""Models that look like a Vision Transformer and are none: refused by name, before any reading."""

import re

import pytest
import torch

from tiny_models import HYBRID, ROOT, TINY, Arrays, random_model
from vit_lightning.checkpoints import refusals
from vit_lightning.checkpoints.dialects import DIALECTS, TIMM, Dialect, find_dialect
from vit_lightning.checkpoints.keymap import row_for, write_state
from vit_lightning.checkpoints.refusals import refuse_other_architectures, refuse_other_models
from vit_lightning.errors import InputError

# What is said of whose arrays, in the names of every library that has the model.
FAMILIES = [
    ("an MLP-Mixer", ["MixerBlock_0/MlpBlock_0/Dense_0/kernel"]),
    (
        "a distilled DeiT",
        [
            "dist_token",
            "head_dist.weight",
            "deit.embeddings.distillation_token",
            "distillation_classifier.bias",
            "cls_classifier.weight",
        ],
    ),
    ("a DINOv3", ["storage_tokens", "rope_embed.periods"]),
    ("a DINOv2 or DINOv3 with registers", ["reg_token", "embeddings.register_tokens"]),
    (
        "a BEiT or a Swin Transformer",
        ["blocks.0.attn.relative_position_bias_table", "rel_pos_bias.relative_position_index"],
    ),
    (
        "a DINOv2, DINOv3, DeiT-III or another model with LayerScale",
        ["blocks.0.ls1.gamma", "encoder.layer.0.layer_scale1.lambda1", "blocks.0.gamma_1"],
    ),
    (
        "a masked autoencoder",
        ["decoder_pos_embed", "decoder_blocks.0.norm1.bias", "decoder.decoder_layers.0.output.x"],
    ),
    (
        "a SigLIP or another model with attention pooling",
        ["MAPHead_0/probe", "attn_pool.latent", "vision_model.head.probe"],
    ),
    (
        "a CLIP",
        [
            "norm_pre.weight",
            "vision_model.pre_layrnorm.bias",
            "visual.ln_pre.weight",
            "visual.class_embedding",
        ],
    ),
    ("a model that averages before it normalises", ["fc_norm.weight", "model.fc_norm.bias"]),
    ("a model with query and key norms", ["blocks.0.attn.q_norm.weight"]),
    (
        "a hybrid of Hugging Face",
        ["vit.embeddings.patch_embeddings.backbone.bit.embedder.convolution.weight"],
    ),
    (
        "a hybrid of jeonsworld's port",
        ["transformer.embeddings.hybrid_model.root.conv.weight"],
    ),
]
PLAIN = dict(write_state(TIMM.rows, random_model().state_dict(), 3))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in FAMILIES for key in keys])
def test_each_family_is_called_by_its_name(name: str, key: str, prefix: str) -> None:
    words = f"the weights are of {name} (they have {prefix}{key}), which "
    with pytest.raises(InputError, match=re.escape(words)):
        refuse_other_models([prefix + key])


@pytest.mark.parametrize(("name", "keys"), FAMILIES)
def test_whatever_else_the_file_holds(name: str, keys: list[str]) -> None:
    """It may be a whole Vision Transformer with this beside: half of it is never loaded."""
    with pytest.raises(InputError, match=re.escape(f"the weights are of {name} (they have ")):
        find_dialect(Arrays(PLAIN | dict.fromkeys(keys, torch.ones(1))))


def test_every_rule_has_an_example() -> None:
    assert [name for name, _ in FAMILIES] == [name for name, _, _ in refusals._OTHERS]


def test_the_more_particular_name_comes_first() -> None:
    """A DINOv2 with registers has LayerScale too, a SigLIP's pooling has norms."""
    with pytest.raises(InputError, match="of a DINOv2 or DINOv3 with registers"):
        refuse_other_models(["blocks.0.ls1.gamma", "reg_token"])
    with pytest.raises(InputError, match="of a distilled DeiT"):
        refuse_other_models(["blocks.0.gamma_1", "dist_token"])


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_no_array_of_a_layout_that_is_read_is_refused(dialect: Dialect) -> None:
    names = set()
    for config in (TINY.replace(representation_size=8), TINY.replace(pool="gap"), HYBRID, ROOT):
        for ours in random_model(config).state_dict():
            try:
                names |= set(row_for(dialect.rows, ours)[1])
            except InputError:
                continue  # the layout has no name for it
    assert len(names) > 30
    for prefix in ("", "module.", "model.", "backbone.", "opt/target/"):
        refuse_other_models(prefix + name for name in names)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("vit_base_patch32_siglip_gap_256", "a SigLIP"),
        ("vit_so400m_patch14_siglip_224", "a SigLIP"),
        ("flexivit_base", "a FlexiViT"),
    ],
)
def test_where_arrays_do_not_tell_timms_name_does(architecture: str, name: str) -> None:
    with pytest.raises(InputError, match=rf"of {name} \({architecture}\), which .* something else"):
        refuse_other_architectures(architecture)


def test_models_of_timm_that_are_read_are_not_refused() -> None:
    for name in ("vit_base_patch16_224", "vit_tiny_r_s16_p8_224", "deit_small_patch16_224", ""):
        refuse_other_architectures(name)
