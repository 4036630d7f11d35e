"""Token merging against a reference in loops, and what must hold of a model that merges."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vit_lightning as vl
from random_weights import randomise
from vit_lightning.attention import attention_maps, attention_rollout
from vit_lightning.errors import InputError
from vit_lightning.models import merging
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.merging import (
    MergingTransformer,
    match_tokens,
    merge_matched,
    merge_tokens,
    token_counts,
)
from vit_lightning.models.vit import Block, VisionTransformer

SMALL = ViTConfig(
    image_size=(16, 20), patch_size=4, embed_dim=24, depth=3, num_heads=2, mlp_dim=32, num_classes=5
)
KINDS: list[dict[str, Any]] = [
    {},
    {"pool": "gap"},
    {"pool": "gap", "class_token": True},
    {"representation_size": 7},
    {"num_classes": 0},
    {"image_size": (64, 80), "patch_size": 1, "resnet": ResNetConfig((1, 1, 1), 32)},
]


def small(**changes: Any) -> VisionTransformer:
    model = VisionTransformer(SMALL.replace(**changes)).eval()
    randomise(model, seed=3)
    return model


def noise(config: ViTConfig, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(count, config.in_channels, *config.image_size, generator=generator) * 2 - 1


# The reference: one picture, tokens as a list, patch counts as integers.


def reference_block(
    block: Block, tokens: list[Tensor], sizes: list[int], r: int, prefix: int
) -> tuple[list[Tensor], list[int]]:
    inner = block.attn
    heads, dim = inner.num_heads, tokens[0].shape[0] // inner.num_heads
    rows = [inner.qkv(block.norm1(token)).view(3, heads, dim) for token in tokens]
    attended = []
    for row, token in zip(rows, tokens, strict=True):
        mixed = []
        for head in range(heads):
            # A token of size s is in the softmax as s equal ones.
            weights = [
                size * math.exp(float(row[0, head] @ other[1, head]) / math.sqrt(dim))
                for other, size in zip(rows, sizes, strict=True)
            ]
            values = [w * other[2, head] for w, other in zip(weights, rows, strict=True)]
            mixed.append(torch.stack(values).sum(0) / sum(weights))
        attended.append(token + inner.proj(torch.cat(mixed)))
    keys = [row[1].mean(0) for row in rows]
    tokens, sizes = reference_merge(attended, sizes, keys, r, prefix)
    return [token + block.mlp(block.norm2(token)) for token in tokens], sizes


def reference_merge(
    tokens: list[Tensor], sizes: list[int], keys: list[Tensor], r: int, prefix: int
) -> tuple[list[Tensor], list[int]]:
    first = [i for i in range(0, len(tokens), 2) if i >= prefix]
    second = list(range(1, len(tokens), 2))
    pairs = []
    for i in first:
        likeness, j = max((float(F.cosine_similarity(keys[i], keys[j], 0)), j) for j in second)
        pairs.append((likeness, i, j))
    pairs = sorted(pairs, reverse=True)[: min(r, (len(tokens) - prefix) // 2)]
    groups = {j: [j] for j in second}
    for _, i, j in pairs:
        groups[j].append(i)
    merged = {i for _, i, _ in pairs}
    kept = [[i] for i in range(0, len(tokens), 2) if i not in merged]
    new_tokens, new_sizes = [], []
    for group in kept + list(groups.values()):
        size = sum(sizes[i] for i in group)
        new_tokens.append(torch.stack([sizes[i] * tokens[i] for i in group]).sum(0) / size)
        new_sizes.append(size)
    return new_tokens, new_sizes


def reference_logits(model: VisionTransformer, picture: Tensor, r: int) -> Tensor:
    prefix = model.config.num_prefix_tokens
    tokens = list(model.embed(picture[None])[0])
    sizes = [1] * len(tokens)
    for block in model.blocks:
        assert isinstance(block, Block)
        tokens, sizes = reference_block(block, tokens, sizes, r, prefix)
    assert sum(sizes) == model.config.num_tokens
    tokens = [model.norm(token) for token in tokens]
    if model.config.pool == "token":
        pooled = tokens[0]
    else:
        patches = zip(tokens[prefix:], sizes[prefix:], strict=True)
        pooled = torch.stack([size * token for token, size in patches]).sum(0)
        pooled = pooled / (model.config.num_tokens - prefix)
    return model.head(model.before_head(pooled))


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("r", [1, 3, 100])
def test_logits_are_those_of_the_reference(changes: dict[str, Any], r: int) -> None:
    model = small(**changes)
    pictures = noise(model.config)
    with torch.inference_mode():
        expected = torch.stack([reference_logits(model, picture, r) for picture in pictures])
        plain = model(pictures)
        found = merge_tokens(model, r)(pictures)
        alone = model(pictures[:1])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, found[:1], rtol=1e-5, atol=1e-5)
    assert (found - plain).abs().max() > 1e-3, "merging is not without a trace"


@pytest.mark.parametrize(("tokens", "prefix"), [(16, 0), (17, 0), (17, 1), (18, 1), (3, 1), (2, 0)])
def test_merged_tokens_are_those_of_the_reference(tokens: int, prefix: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    keys = torch.randn(4, tokens, 6, generator=generator)
    x = torch.randn(4, tokens, 5, generator=generator)
    sizes = torch.randint(1, 9, (4, tokens), generator=generator)
    for count in range(1, (tokens - prefix) // 2 + 1):
        places = match_tokens(keys, count, prefix)
        found, found_sizes = merge_matched(x, sizes.float(), places, tokens - count)
        for i in range(4):
            expected, expected_sizes = reference_merge(
                list(x[i]), sizes[i].tolist(), list(keys[i]), count, prefix
            )
            torch.testing.assert_close(found[i], torch.stack(expected))
            assert found_sizes[i].tolist() == expected_sizes
        if prefix:
            assert torch.equal(found[:, 0], x[:, 0] * sizes[:, :1] / sizes[:, :1])
            assert torch.equal(found_sizes[:, 0], sizes[:, 0].float())


def test_the_length_of_a_key_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 9, 6, generator=generator)
    lengths = torch.rand(2, 9, 1, generator=generator) + 0.1
    assert torch.equal(match_tokens(keys, 3, 1), match_tokens(keys * lengths, 3, 1))


def test_lower_precision_matches_in_float32() -> None:
    """In bfloat16 cosines near 1 would be alike, and the first of them taken."""
    angles = torch.tensor([0.3, 0.32, 0.325, 0.345, 0.36, 0.39])
    keys = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(match_tokens(keys, 1, 0), match_tokens(keys.double(), 1, 0))
    assert match_tokens(keys, 1, 0).tolist() == [[0, 2, 2, 3, 1, 4]]


# What merging does to a model


def test_counts_and_sizes_of_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, seen = list[int](), list[Tensor]()
    block = merging._block

    def watched(*arguments: Any) -> tuple[Tensor, Tensor]:
        x, sizes = block(*arguments)
        tokens.append(x.shape[1])
        seen.append(sizes)
        return x, sizes

    monkeypatch.setattr(merging, "_block", watched)
    # The last block computes the class token alone, if nothing else is read.
    for pool, counts in (("gap", [15, 10, 5]), ("token", [16, 11, 1])):
        model = merge_tokens(small(pool=pool), 5)
        tokens.clear()
        seen.clear()
        model(noise(model.config))
        assert tokens == counts
        assert [sizes.shape[1] for sizes in seen[:2]] == counts[:2]
        for sizes in seen:
            assert torch.equal(sizes.sum(1), torch.full((3,), float(model.config.num_tokens)))


@pytest.mark.parametrize(
    ("changes", "r", "counts"),
    [
        ({}, 0, (21, 21, 21)),
        ({}, 4, (17, 13, 9)),
        ({}, 8, (13, 7, 4)),
        ({}, 10**9, (11, 6, 4)),
        ({"pool": "gap"}, 10**9, (10, 5, 3)),
        ({"image_size": 4}, 7, (2, 2, 2)),
        ({"image_size": 4, "pool": "gap"}, 7, (1, 1, 1)),
    ],
)
def test_at_most_half_is_merged(changes: dict[str, Any], r: int, counts: tuple[int, ...]) -> None:
    config = SMALL.replace(**changes)
    assert token_counts(config, r) == counts
    model = merge_tokens(VisionTransformer(config).eval(), r)
    assert model(noise(config)).shape == (3, 5)


def test_the_papers_model_keeps_eleven_tokens() -> None:
    counts = token_counts(ViTConfig(), 16)
    assert counts[:2] == (181, 165)
    assert counts[-1] == 11  # the last block can merge 5 of 10 patches at most


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_equal_patches_merge_without_a_trace(pool: Any) -> None:
    """Two kinds of patches, no places: proportional attention counts each as often as it is."""
    model = small(pool=pool)
    nn.init.zeros_(model.pos_embed)
    generator = torch.Generator().manual_seed(5)
    kinds = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1
    columns = [kinds[[0, 0, 1, 0, 0][column]] for column in range(5)]
    pictures = torch.cat(columns, dim=2).repeat(1, 4, 1)[None]
    with torch.inference_mode():
        plain = model(pictures)
        found = merge_tokens(model, 4)(pictures)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes", KINDS)
def test_without_merging_it_is_the_plain_model(changes: dict[str, Any]) -> None:
    model = small(**changes)
    pictures, state = noise(model.config), copy.deepcopy(model.state_dict())
    attributes = set(vars(model))
    plain = model(pictures)
    assert merge_tokens(model, 0) is model
    assert torch.equal(model(pictures), plain)
    assert type(merge_tokens(model, 3)) is MergingTransformer
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert type(merge_tokens(model, 0)) is VisionTransformer
    assert torch.equal(model(pictures), plain)
    assert set(vars(model)) == attributes


def test_another_number_takes_the_place_of_the_first() -> None:
    model, other = small(), small()
    pictures = noise(model.config)
    assert torch.equal(
        merge_tokens(merge_tokens(model, 3), 5)(pictures), merge_tokens(other, 5)(pictures)
    )


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_no_picture_has_no_logits(pool: Any) -> None:
    model = merge_tokens(small(pool=pool), 4)
    assert model(noise(SMALL, 0)).shape == (0, SMALL.num_classes)


# Training


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_every_weight_learns(pool: Any) -> None:
    model = merge_tokens(small(pool=pool).train(), 4)
    model(noise(SMALL)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_are_those_of_the_loss() -> None:
    """By finite differences in double precision; which tokens merge is a constant of the step."""
    model = merge_tokens(small(pool="gap").double(), 4)
    pictures = noise(SMALL).double().requires_grad_()
    direction = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(6)).double()
    (gradient,) = torch.autograd.grad(model(pictures).square().sum(), pictures)
    step = 1e-6 * direction
    with torch.no_grad():
        ahead, behind = (model(pictures + sign * step).square().sum() for sign in (1, -1))
    expected = (ahead - behind) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=0)


def test_activation_checkpointing_changes_no_number() -> None:
    model = merge_tokens(small(dropout=0.1, drop_path=0.2, attention_dropout=0.1).train(), 4)
    gradients = []
    for recomputed in ("none", "selective", "full"):
        model.activation_checkpointing = recomputed
        model.zero_grad()
        torch.manual_seed(1)
        model(noise(SMALL)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("lower", ["autocast", "weights"])
def test_bfloat16_is_near(lower: str) -> None:
    model, pictures = merge_tokens(small(pool="gap"), 4), noise(SMALL)
    with torch.inference_mode():
        exact = model(pictures)
        if lower == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                found = model(pictures)
        else:
            found = model.bfloat16()(pictures.bfloat16())
    assert found.dtype == torch.bfloat16
    # Other pairs may be merged; the logits have a standard deviation of 1.
    assert (found.float() - exact).abs().mean() < 0.2 * exact.std()


# Beside the forward pass


def test_a_merging_model_is_saved_as_the_plain_one(tmp_path: Path) -> None:
    model = merge_tokens(small(), 4)
    plain = small()
    for name in ("model.safetensors", "model.npz"):
        vl.save_model(model, tmp_path / name)
        loaded = vl.load_model(tmp_path / name, image_size=SMALL.image_size)
        assert type(loaded) is VisionTransformer
        torch.testing.assert_close(loaded(noise(SMALL)), plain(noise(SMALL)))


def test_what_needs_the_places_of_tokens_computes_without_merging() -> None:
    plain, model = small(), merge_tokens(small(), 4)
    pictures = noise(SMALL)
    for function in (attention_maps, attention_rollout):
        assert torch.equal(function(model, pictures), function(plain, pictures))
    assert torch.equal(model.forward_features(pictures), plain.forward_features(pictures))
    assert type(model) is MergingTransformer


def test_a_copy_merges_too() -> None:
    model = merge_tokens(small(), 4)
    assert torch.equal(copy.deepcopy(model)(noise(SMALL)), model(noise(SMALL)))


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_packed_models_merge(pool: Any) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch packs no weights")
    model = merge_tokens(small(pool=pool), 4)
    packed = vl.for_inference(model)
    with torch.inference_mode():
        torch.testing.assert_close(packed(noise(SMALL)), model(noise(SMALL)), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="packed or wrapped has to be told before"):
        merge_tokens(packed, 2)


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_exported_models_merge_for_any_number_of_pictures(pool: Any) -> None:
    model = merge_tokens(small(pool=pool, depth=2), 4)
    pictures = noise(SMALL, 5)
    exported = torch.export.export(
        model, (pictures[:2],), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)
    ).module()
    for count in (1, 5):
        assert torch.allclose(exported(pictures[:count]), model(pictures[:count]), atol=1e-5)


def test_a_compiled_model_follows() -> None:
    model, pictures = small(depth=2), noise(SMALL)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.inference_mode():
        for r in (0, 3, 5, 0):
            merge_tokens(model, r)
            torch.testing.assert_close(compiled(pictures), model(pictures))


# Refusals


@pytest.mark.parametrize("r", [-1, 2.0, True, None])
def test_a_number_of_pairs_is_needed(r: Any) -> None:
    with pytest.raises(InputError, match="in each block is 0 or more, got"):
        merge_tokens(small(), r)


def test_logits_of_every_token_cannot_be_merged() -> None:
    model = small(pool="none")
    with pytest.raises(InputError, match='pool "none" cannot be merged: each has logits'):
        merge_tokens(model, 1)
    assert merge_tokens(model, 0)(noise(SMALL)).shape == (3, 21, 5)


def test_other_modules_are_refused() -> None:
    class Own(VisionTransformer):
        """What its methods do would be lost."""

    for model in (Own(SMALL), torch.compile(small(), backend="eager"), nn.Identity()):
        with pytest.raises(InputError, match=r"in a VisionTransformer, got (Own|Opt|Identity)"):
            merge_tokens(model, 1)


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"got \(3, 16, 16\)"):
        merge_tokens(small(), 4)(torch.zeros(1, 3, 16, 16))


def test_descriptions_tell_what_is_left() -> None:
    text = merging.describe_merging(SMALL, 4)
    assert text == "4 pairs of tokens merged in each block, from 21 to 9"
