"""Weights made to fit another configuration, and the account of it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vit_lightning.checkpoints.adapt import LoadRow, adapt
from vit_lightning.checkpoints.dialects import GOOGLE
from vit_lightning.checkpoints.keymap import write_state
from vit_lightning.errors import InputError
from vit_lightning.factory import load_model
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = ViTConfig(
    image_size=16,
    patch_size=4,
    embed_dim=12,
    depth=2,
    num_heads=2,
    mlp_dim=24,
    num_classes=5,
    representation_size=6,
)
HYBRID = SMALL.replace(image_size=32, patch_size=1, resnet=ResNetConfig((1,), 32))


def random_state(config: ViTConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = VisionTransformer(config).state_dict()
    return {key: torch.randn(t.shape, generator=generator) for key, t in state.items()}


def adapted(
    changes: dict[str, Any], source: ViTConfig = SMALL, *, reset_head: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, LoadRow]]:
    """Before, after, and the report's rows by name."""
    state, target = random_state(source), source.replace(**changes)
    before = dict(state)
    result, report = adapt(state, source, target, reset_head=reset_head)
    assert state == before  # the caller's dictionary is left alone
    shapes = {key: t.shape for key, t in VisionTransformer(target).state_dict().items()}
    assert {key: t.shape for key, t in result.items()} == shapes
    rows = {row.name: row for row in report.rows}
    assert set(rows) == set(state) | set(result)
    assert sum(row.parameters for row in rows.values()) == sum(t.numel() for t in result.values())
    for key in result:
        if rows[key].action == "kept":
            assert result[key] is state[key]
    return state, result, rows


def actions(rows: dict[str, LoadRow]) -> dict[str, str]:
    return {name: row.action for name, row in rows.items() if row.action != "kept"}


@pytest.mark.parametrize(("tag", "keep"), [("drop", False), ("keep", True)])
def test_fine_tuning_starts_where_the_original_does(tag: str, keep: bool) -> None:
    source = load_model(REFERENCE / "vit_prelogits_small.npz")
    with np.load(REFERENCE / "finetune_load_small.npz") as file:
        expected = dict(file)
    target = source.config.replace(
        image_size=48, num_classes=4, representation_size=24 if keep else None
    )
    state, _ = adapt(source.state_dict(), source.config, target, reset_head=True)
    prefix = f"{tag}/params/"
    arrays = dict(write_state(GOOGLE.rows, state, target.num_heads))
    assert {prefix + key for key in arrays} == {k for k in expected if k.startswith(prefix)}
    for key, array in arrays.items():
        np.testing.assert_allclose(array, expected[prefix + key], rtol=0, atol=1e-5, err_msg=key)
    model = VisionTransformer(target).eval()
    model.load_state_dict(state)
    pictures = torch.from_numpy(expected["input"]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        tokens = model.forward_features(pictures)
        pooled = model.pool(tokens)
        pooled = torch.tanh(model.pre_logits(pooled)) if keep else pooled
        logits = model(pictures)
    np.testing.assert_allclose(tokens.numpy(), expected[f"{tag}/encoded"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pooled.numpy(), expected[f"{tag}/pre_logits"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(logits.numpy(), expected[f"{tag}/logits"])


def test_nothing_changes_where_nothing_differs() -> None:
    _, _, rows = adapted({"dropout": 0.5, "drop_path": 0.1}, reset_head=False)
    assert not actions(rows)


def test_head_is_reset_also_when_the_classes_agree() -> None:
    _, result, rows = adapted({})
    assert not result["head.weight"].any()
    assert not result["head.bias"].any()
    assert actions(rows) == {"head.weight": "reset", "head.bias": "reset"}
    assert rows["head.weight"].detail == "(5, 6), zeros"


def test_head_for_other_classes() -> None:
    _, _, rows = adapted({"num_classes": 3})
    assert rows["head.weight"].detail == "(5, 6) → (3, 6), zeros"


def test_a_head_where_there_was_none() -> None:
    _, result, rows = adapted({"num_classes": 3}, SMALL.replace(num_classes=0))
    assert actions(rows) == {"head.weight": "new", "head.bias": "new"}
    assert not result["head.weight"].any()


@pytest.mark.parametrize("reset_head", [True, False])
def test_no_head_wanted(reset_head: bool) -> None:
    _, _, rows = adapted({"num_classes": 0}, reset_head=reset_head)
    assert actions(rows) == {"head.weight": "dropped", "head.bias": "dropped"}


def test_pre_logits_are_dropped_with_a_head_of_the_right_width() -> None:
    _, result, rows = adapted({"representation_size": None})
    assert result["head.weight"].shape == (5, 12)
    assert {n: a for n, a in actions(rows).items() if n.startswith("pre")} == {
        "pre_logits.weight": "dropped",
        "pre_logits.bias": "dropped",
    }
    assert rows["pre_logits.weight"].parameters == 0


def test_positions_are_resized_and_the_class_tokens_kept() -> None:
    state, result, rows = adapted({"image_size": (24, 12)}, reset_head=False)
    assert torch.equal(result["pos_embed"][:, 0], state["pos_embed"][:, 0])
    assert actions(rows) == {"pos_embed": "resized"}
    assert rows["pos_embed"].detail == "grid 4 x 4 → 6 x 3, (1, 17, 12) → (1, 19, 12)"


def test_left_over_pixels_resize_nothing() -> None:
    _, _, rows = adapted({"image_size": 19}, reset_head=False)
    assert not actions(rows)


@pytest.mark.parametrize("source", [SMALL, HYBRID], ids=["plain", "hybrid"])
class TestInputChannels:
    def name(self, source: ViTConfig) -> str:
        return (
            "patch_embed.backbone.stem.conv.weight"
            if source.resnet
            else ("patch_embed.proj.weight")
        )

    def test_one_channel_takes_the_sum(self, source: ViTConfig) -> None:
        state, result, rows = adapted({"in_channels": 1}, source, reset_head=False)
        name = self.name(source)
        torch.testing.assert_close(result[name][:, 0], state[name].sum(dim=1))
        assert actions(rows) == {name: "converted"}
        assert rows[name].detail.startswith("3 → 1 input channels, summed")

    @pytest.mark.parametrize("channels", [2, 4, 7])
    def test_more_channels_are_tiled_and_scaled(self, source: ViTConfig, channels: int) -> None:
        state, result, rows = adapted({"in_channels": channels}, source, reset_head=False)
        name = self.name(source)
        for channel in range(channels):
            expected = state[name][:, channel % 3] * (3 / channels)
            torch.testing.assert_close(result[name][:, channel], expected)
        assert f"tiled × 3/{channels}" in rows[name].detail

    def test_grey_pictures_get_the_same_answer(self, source: ViTConfig) -> None:
        state = random_state(source)
        torch.manual_seed(0)
        grey = torch.rand(2, 1, *source.image_size)
        answers = []
        for channels in (3, 1, 6):
            target = source.replace(in_channels=channels)
            model = VisionTransformer(target).eval()
            model.load_state_dict(adapt(state, source, target, reset_head=False)[0])
            with torch.inference_mode():
                answers.append(model(grey.expand(-1, channels, -1, -1)))
        # A hybrid standardises its filters, with an epsilon that scaling shifts a little.
        tolerance = 1e-3 if source.resnet else 1e-5
        torch.testing.assert_close(answers[1], answers[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(answers[2], answers[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embed_dim": 24, "depth": 3},
            "the weights are of embed_dim 12, depth 2; the model asked for has embed_dim 24, depth",
        ),
        ({"num_heads": 3}, "num_heads 2; the model asked for has num_heads 3"),
        ({"mlp_dim": 48}, "mlp_dim 24;"),
        ({"patch_size": (8, 4)}, "patch_size (4, 4); the model asked for has patch_size (8, 4)"),
        ({"pool": "gap"}, "class_token True; the model asked for has class_token False"),
        ({"activation": "gelu"}, "activation gelu_tanh;"),
        ({"norm_eps": 1e-5}, "norm_eps 1e-06; the model asked for has norm_eps 1e-05"),
        ({"representation_size": 7}, "representation_size 6;"),
        ({"resnet": ResNetConfig((), 32), "image_size": 64}, "resnet None;"),
    ],
)
def test_what_cannot_be_adapted_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        adapt({}, SMALL, SMALL.replace(**changes), reset_head=True)


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (SMALL, {"num_classes": 3}, "have a head of 5 classes, the model asked for has 3"),
        (SMALL.replace(num_classes=0), {"num_classes": 3}, "have no head, the model"),
        (SMALL, {"representation_size": None}, "reads the pre_logits layer"),
        (
            SMALL.replace(representation_size=12),  # as wide as a token: the shapes would fit
            {"representation_size": None},
            "reads the pre_logits layer",
        ),
    ],
)
def test_a_head_that_cannot_be_kept(
    source: ViTConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        adapt(random_state(source), source, source.replace(**changes), reset_head=False)


def test_report_is_a_table_with_the_blocks_gathered() -> None:
    _, report = adapt(
        random_state(HYBRID),
        HYBRID,
        HYBRID.replace(image_size=48, in_channels=1, num_classes=2, representation_size=None),
        reset_head=True,
    )
    report = report.with_dropped(["opt/state/step", "opt/state/m"], "training state")
    lines = [re.sub(" {2,}", " | ", line) for line in str(report).splitlines()]
    assert lines == [
        "cls_token | kept | (1, 1, 12)",
        "pos_embed | resized | grid 8 x 8 → 12 x 12, (1, 65, 12) → (1, 145, 12)",
        "patch_embed.backbone.stem.conv.weight | converted | "
        "3 → 1 input channels, summed, (32, 3, 7, 7) → (32, 1, 7, 7)",
        "patch_embed.backbone.stem.norm.weight | kept | (32,)",
        "patch_embed.backbone.stem.norm.bias | kept | (32,)",
        "1 × patch_embed.backbone.stages.0.blocks.* | kept | 12 tensors, 19,072 parameters",
        "patch_embed.proj.weight | kept | (12, 128, 1, 1)",
        "patch_embed.proj.bias | kept | (12,)",
        "2 × blocks.* | kept | 24 tensors, 2,568 parameters",
        "norm.weight | kept | (12,)",
        "norm.bias | kept | (12,)",
        "pre_logits.weight | dropped | (6, 12)",
        "pre_logits.bias | dropped | (6,)",
        "head.weight | reset | (5, 6) → (2, 12), zeros",
        "head.bias | reset | (5,) → (2,), zeros",
        "opt/* | dropped | 2 arrays, training state",
        "51 tensors: 43 kept, 1 resized, 1 converted, 2 reset, 4 dropped; "
        "26,622 parameters in the model",
    ]
    widths = {
        line.index(word)
        for line in str(report).splitlines()[:3]
        for word in ("kept", "resized", "converted")
        if f" {word} " in line
    }
    assert len(widths) == 1


@pytest.mark.parametrize(("pool", "other"), [("token", "gap"), ("gap", "token")])
def test_a_head_is_not_kept_for_other_tokens(pool: Any, other: Any) -> None:
    source = SMALL.replace(pool=pool, class_token=True)
    target = source.replace(pool=other, class_token=True)
    message = f"reads pool '{pool}', the model asked for has '{other}'"
    with pytest.raises(InputError, match=message):
        adapt(random_state(source), source, target, reset_head=False)
    result, _ = adapt(random_state(source), source, target, reset_head=True)
    assert not result["head.weight"].any()
