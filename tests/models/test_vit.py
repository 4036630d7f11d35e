"""The transformer against the original's arrays, at every stop on the way."""

import copy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vit_lightning.errors import InputError
from vit_lightning.factory import create_model, load_model
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.lora import add_lora
from vit_lightning.models.recompute import Recomputed
from vit_lightning.models.vit import DropPath, VisionTransformer

REFERENCE = Path(__file__).parents[1] / "reference"

FIXTURES: list[tuple[str, dict[str, Any], float]] = [
    ("vit_token_small", {}, 1e-5),
    ("vit_prelogits_small", {}, 1e-5),
    ("vit_gap_small", {}, 1e-5),
    ("vit_gap_small.linen_keys", {}, 1e-5),
    ("vit_nonsquare_small", {"image_size": (24, 40)}, 1e-5),
    ("vit_token_unpooled_small", {"image_size": 36, "pool": "none"}, 1e-5),
    ("hybrid_no_stage", {}, 1e-5),
    ("hybrid_small", {}, 1e-4),
]
SMALL = ViTConfig(
    image_size=16, patch_size=4, embed_dim=12, depth=3, num_heads=2, mlp_dim=24, num_classes=5
)


def read_io(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{name.split('.')[0]}.io.npz") as file:
        return dict(file)


def nchw(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


class Captured:
    """Outputs of modules by name, in the layout of the reference."""

    def __init__(self, model: nn.Module, names: dict[str, str]):
        self.values: dict[str, np.ndarray] = {}
        for key, module in names.items():
            model.get_submodule(module).register_forward_hook(self._keep(key))

    def _keep(self, key: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            is_picture = output.ndim == 4
            self.values[key] = (output.permute(0, 2, 3, 1) if is_picture else output).numpy()

        return hook


@pytest.mark.parametrize(("name", "arguments", "bound"), FIXTURES)
def test_logits_and_intermediates(name: str, arguments: dict[str, Any], bound: float) -> None:
    model, expected = load_model(REFERENCE / f"{name}.npz", **arguments), read_io(name)
    names = {"patch_embedding": "patch_embed", "posembed_input": "dropout", "encoded": "norm"}
    names |= {f"block_{i}": f"blocks.{i}" for i in range(model.config.depth)}
    if model.config.resnet:
        stem = "patch_embed.backbone."
        names |= {"conv_root": f"{stem}stem.conv", "gn_root": f"{stem}stem.norm"}
        stages = range(len(model.config.resnet.stage_depths))
        names |= {f"block{i + 1}": f"{stem}stages.{i}" for i in stages}
    if model.config.representation_size:
        names["pre_logits_before_tanh"] = "pre_logits"
    captured = Captured(model, names)
    enters_head: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda module, inputs: enters_head.append(inputs[0]))
    with torch.inference_mode():
        full = model.forward_head(model.forward_features(nchw(expected["input"])))
        inner = dict(captured.values)
        logits = model(nchw(expected["input"]))
    for found in (full, logits):
        np.testing.assert_allclose(found.numpy(), expected["logits"], rtol=0, atol=bound)
    expected |= {f"block_{i}": value for i, value in enumerate(expected["block_outputs"])}
    found = inner | {"pre_logits": enters_head[0].numpy()}
    assert {"image_uint8", "input", "logits", "attention_probs", "block_outputs"} == set(
        expected
    ) - set(found)
    tokens = found["patch_embedding"]
    found["patch_embedding"] = tokens.reshape(expected["patch_embedding"].shape)
    for key, value in found.items():  # inner values are larger than logits
        scale = max(np.abs(expected[key]).max(), 1)
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=bound * scale, err_msg=key)


def test_both_numberings_are_the_same_model() -> None:
    old, new = (load_model(REFERENCE / f"vit_gap_small{n}.npz") for n in ("", ".linen_keys"))
    torch.testing.assert_close(old.state_dict(), new.state_dict(), rtol=0, atol=0)


def test_forward_features_and_a_model_without_head() -> None:
    expected = read_io("vit_token_small")
    pictures = nchw(expected["input"])
    model = load_model(REFERENCE / "vit_token_small.npz")
    headless = create_model(model.config, REFERENCE / "vit_token_small.npz", num_classes=0)
    headless.eval()
    with torch.inference_mode():
        tokens, features = model.forward_features(pictures), headless(pictures)
    np.testing.assert_allclose(tokens.numpy(), expected["encoded"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(features.numpy(), expected["pre_logits"], rtol=0, atol=1e-5)


def test_left_over_pixels_do_not_matter() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(SMALL.replace(image_size=(18, 19))).eval()
    nn.init.normal_(model.head.weight)
    pictures = torch.rand(2, 3, 18, 19)
    other = pictures.clone()
    other[:, :, 16:] = 5
    other[:, :, :, 16:] = 5
    with torch.inference_mode():
        assert torch.equal(model(pictures), model(other))
    assert model(pictures).std() > 0


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(3, 16, 16\), got \(3, 16, 20\)"):
        VisionTransformer(SMALL)(torch.zeros(1, 3, 16, 20))


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (2, 5)),
        ({"pool": "gap"}, (2, 5)),
        ({"pool": "none"}, (2, 17, 5)),
        ({"num_classes": 0}, (2, 12)),
        ({"num_classes": 0, "representation_size": 7}, (2, 7)),
        ({"in_channels": 1}, (2, 5)),
        ({"image_size": (8, 24), "patch_size": (8, 3)}, (2, 5)),
        ({"patch_size": 1, "image_size": 40, "resnet": ResNetConfig((1, 1), 32)}, (2, 5)),
    ],
)
def test_any_configuration_runs(changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = SMALL.replace(**changes)
    logits = VisionTransformer(config)(torch.rand(2, config.in_channels, *config.image_size))
    assert logits.shape == shape
    assert torch.isfinite(logits).all()


def test_fresh_models_start_from_the_originals_initialisation() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(ViTConfig(embed_dim=192, depth=1, num_heads=3, mlp_dim=768))
    assert not model.head.weight.any()
    assert not model.cls_token.any()
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.02)
    block = model.blocks[0]
    # Xavier: query, key and value each see 192 x 192.
    assert block.attn.qkv.weight.std().item() == pytest.approx((2 / 384) ** 0.5, rel=0.02)
    assert block.mlp.fc1.weight.std().item() == pytest.approx((2 / 960) ** 0.5, rel=0.02)
    assert block.mlp.fc1.bias.abs().max() < 1e-5
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(768**-0.5, rel=0.02)


class TestDropPath:
    def test_keeps_the_mean_and_drops_whole_samples(self) -> None:
        torch.manual_seed(0)
        drop = DropPath(0.3)
        out = drop(torch.ones(20000, 2, 3))
        per_sample = out.flatten(1)
        assert (per_sample == per_sample[:, :1]).all()
        torch.testing.assert_close(per_sample[:, 0].unique(), torch.tensor([0.0, 1 / 0.7]))
        # Five standard deviations of a Bernoulli mean.
        assert abs((per_sample[:, 0] == 0).float().mean().item() - 0.3) < 5 * 0.458 / 20000**0.5
        assert abs(out.mean().item() - 1) < 5 * 0.655 / 20000**0.5

    def test_is_nothing_in_evaluation_or_at_zero(self) -> None:
        x = torch.rand(4, 2, 3)
        assert DropPath(0.5).eval()(x) is x
        assert DropPath(0.0).train()(x) is x

    def test_grows_linearly_with_depth(self) -> None:
        model = VisionTransformer(SMALL.replace(drop_path=0.4))
        rates = [block.drop_path.probability for block in model.blocks]
        assert rates == pytest.approx([0.0, 0.2, 0.4])

    def test_leaves_a_dropped_sample_to_the_shortcut(self) -> None:
        torch.manual_seed(0)
        block = VisionTransformer(SMALL.replace(drop_path=0.5, depth=2)).blocks[1].train()
        x = torch.rand(64, 3, 12)
        unchanged = (block(x) == x).flatten(1).all(dim=1)
        assert 4 <= unchanged.sum() <= 28  # both branches dropped: a quarter of 64


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activation_checkpointing_changes_no_number(
    dropout: float, dtype: torch.dtype | None
) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(SMALL.replace(dropout=dropout, drop_path=0.2))
    nn.init.normal_(model.head.weight)
    gradients = []
    for recomputed in get_args(Recomputed):
        model.activation_checkpointing = recomputed
        assert model.activation_checkpointing == recomputed
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            logits = model(torch.ones(2, 3, 16, 16))
        logits.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for others in gradients[1:]:
        torch.testing.assert_close(gradients[0], others, rtol=0, atol=0)


def test_recomputed_low_rank_layers_drop_what_they_dropped() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(SMALL).train()
    add_lora(model.blocks, ["fc2"], rank=2, alpha=2.0, dropout=0.5)
    for block in model.blocks:
        torch.nn.init.normal_(block.mlp.fc2.lora_b)
    torch.nn.init.normal_(model.head.weight)
    gradients = []
    for recomputed in ("none", "selective"):
        model.activation_checkpointing = recomputed
        model.zero_grad()
        torch.manual_seed(1)
        model(torch.ones(2, 3, 16, 16)).square().sum().backward()
        gradients.append(model.blocks[0].mlp.fc2.lora_a.grad.clone())
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize(("recomputed", "parts"), [("selective", "act"), ("full", "norm1")])
def test_activation_checkpointing_runs_parts_again_in_training_alone(
    recomputed: Any, parts: str
) -> None:
    """Dense layers at the end of what is recomputed are not."""
    model = VisionTransformer(SMALL)
    calls: dict[str, int] = {}
    for name, module in model.blocks.named_modules():
        if name.rpartition(".")[2] in {"act", "norm1", "fc1", "fc2"}:
            short = name.rpartition(".")[2]
            module.register_forward_hook(
                lambda *_, short=short: calls.__setitem__(short, calls.get(short, 0) + 1)
            )
    model.activation_checkpointing = recomputed
    with torch.no_grad():
        model.eval()(torch.ones(2, 3, 16, 16))
    assert set(calls.values()) == {SMALL.depth}, "nothing to recompute without a backward pass"
    calls.clear()
    model.train()(torch.ones(2, 3, 16, 16)).sum().backward()
    assert calls[parts] == 2 * SMALL.depth
    assert calls["fc2"] == SMALL.depth
    assert calls["fc1"] == (SMALL.depth if recomputed == "selective" else 2 * SMALL.depth)


@pytest.mark.filterwarnings("ignore:.*jit.script_method.*:DeprecationWarning")
def test_selective_recomputation_can_be_exported_and_copied() -> None:
    model = VisionTransformer(SMALL).eval()
    model.activation_checkpointing = "selective"
    assert copy.deepcopy(model).activation_checkpointing == "selective"
    images = torch.rand(2, 3, 16, 16)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_no_picture_has_no_logits(pool: Any) -> None:
    model = VisionTransformer(SMALL.replace(pool=pool)).eval()
    pictures = torch.rand(0, SMALL.in_channels, *SMALL.image_size)
    assert model(pictures).shape == (0, SMALL.num_classes)


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_exported_models_take_any_number_of_pictures(pool: Any) -> None:
    model = VisionTransformer(SMALL.replace(pool=pool)).eval()
    pictures = torch.rand(5, SMALL.in_channels, *SMALL.image_size)
    exported = torch.export.export(
        model, (pictures[:2],), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)
    ).module()
    for count in (1, 5):
        assert torch.allclose(exported(pictures[:count]), model(pictures[:count]), atol=1e-6)
