"""Making, loading and saving models: where weights and modules meet."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vit_lightning.errors import InputError
from vit_lightning.factory import (
    ModelBundle,
    create_bundle,
    create_model,
    load_bundle,
    load_model,
    save_model,
)
from vit_lightning.models.config import ResNetConfig
from vit_lightning.models.presets import PRESETS
from vit_lightning.models.vit import VisionTransformer

REFERENCE = Path(__file__).parent / "reference"
TOKEN = REFERENCE / "vit_token_small.npz"
PRELOGITS = REFERENCE / "vit_prelogits_small.npz"
GAP = REFERENCE / "vit_gap_small.npz"
HYBRID = REFERENCE / "hybrid_small.npz"
NONSQUARE = REFERENCE / "vit_nonsquare_small.npz"
CLASSES = tuple("abcdefghij")


def actions(bundle: ModelBundle) -> dict[str, str]:
    assert bundle.report is not None
    return {row.name: row.action for row in bundle.report.rows if row.action != "kept"}


def assert_same_model(one: VisionTransformer, other: VisionTransformer) -> None:
    assert one.config == other.config
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def save_ckpt(
    path: Path, model: VisionTransformer, classes: Any = None, preprocessing: Any = None
) -> None:
    description = {
        "config": model.config.to_dict(),
        "classes": classes,
        "preprocessing": preprocessing,
    }
    weights = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"vit_lightning": description, "state_dict": weights}, path)


class TestLoad:
    def test_a_google_file_is_loaded_as_it_is(self) -> None:
        bundle = load_bundle(str(PRELOGITS))
        assert bundle.model.config.representation_size == 24
        assert bundle.model.config.num_classes == 7
        assert not bundle.model.training
        assert actions(bundle) == {}
        assert bundle.classes is None
        assert bundle.preprocessing is None
        assert bundle.source == str(PRELOGITS)
        for parameter in bundle.model.parameters():
            assert parameter.requires_grad
            assert parameter.device.type == "cpu"

    def test_another_image_size_resizes_the_grid(self) -> None:
        bundle = load_bundle(TOKEN, image_size=(48, 64))
        assert bundle.model.config.grid_size == (6, 8)
        assert actions(bundle) == {"pos_embed": "resized"}
        assert bundle.model(torch.zeros(1, 3, 48, 64)).shape == (1, 10)

    def test_a_grid_that_is_not_square_is_asked_for_then_resized(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"vit_nonsquare_small\.npz: .*Give image_size"):
            load_model(NONSQUARE)
        model = load_model(NONSQUARE, image_size=(24, 40))
        save_model(model, tmp_path / "x.safetensors")  # which does say what its grid is
        assert load_model(tmp_path / "x.safetensors", 32).config.grid_size == (4, 4)

    @pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".ckpt"])
    def test_contents_decide_not_the_suffix(self, tmp_path: Path, suffix: str) -> None:
        model, path = load_model(TOKEN), tmp_path / f"x{suffix}"
        if suffix == ".ckpt":
            save_ckpt(path, model)
        else:
            save_model(model, path)
        misnamed = shutil.copy(path, tmp_path / "weights.bin")
        assert_same_model(load_model(misnamed), model)

    @pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".ckpt"])
    def test_pool_may_be_given_for_every_format(self, tmp_path: Path, suffix: str) -> None:
        model, path = load_model(TOKEN), tmp_path / f"x{suffix}"
        save_ckpt(path, model) if suffix == ".ckpt" else save_model(model, path)
        unpooled = load_model(path, pool="none")
        x = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(unpooled(x)[:, 0], model(x))
        assert load_model(path, image_size=40, pool="gap").config.class_token

    def test_class_names_and_preprocessing_come_along(self, tmp_path: Path) -> None:
        preprocessing = {"name": "paper", "size": [32, 32]}
        save_model(load_model(TOKEN), tmp_path / "x.safetensors", CLASSES, preprocessing)
        save_ckpt(tmp_path / "x.ckpt", load_model(TOKEN), list(CLASSES), preprocessing)
        for name in ("x.safetensors", "x.ckpt"):
            bundle = load_bundle(tmp_path / name)
            assert bundle.classes == CLASSES
            assert bundle.preprocessing == preprocessing

    def test_a_training_state_is_told_from_the_weights(self, tmp_path: Path) -> None:
        with np.load(TOKEN) as file:
            arrays = {f"opt/target/{key}": array for key, array in file.items()}
        np.savez(tmp_path / "x.npz", **arrays, **{"opt/state/step": np.array(7)})
        bundle = load_bundle(tmp_path / "x.npz")
        assert_same_model(bundle.model, load_model(TOKEN))
        assert actions(bundle) == {"opt/state/step": "dropped"}

    def test_half_precision_becomes_float32(self, tmp_path: Path) -> None:
        model = load_model(TOKEN).bfloat16()
        save_model(model, tmp_path / "x.safetensors")
        save_model(model, tmp_path / "x.npz")
        for name in ("x.safetensors", "x.npz"):
            loaded = load_model(tmp_path / name)
            for key, tensor in loaded.state_dict().items():
                assert tensor.dtype == torch.float32
                assert torch.equal(tensor.bfloat16(), model.state_dict()[key])

    def test_loaded_weights_can_be_trained(self) -> None:
        model = load_model(TOKEN).train()
        model(torch.ones(2, 3, 32, 32)).square().sum().backward()
        before = model.head.weight.clone()
        torch.optim.SGD(model.parameters(), 0.1).step()
        assert not torch.equal(model.head.weight, before)
        assert not torch.equal(load_model(TOKEN).head.weight, model.head.weight)

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("mixer_small.npz", {}, "holds an MLP-Mixer"),
            (
                "vit_token_small.io.npz",
                {},
                "not the weights of a Vision Transformer in a known lay",
            ),
            ("README.md", {}, "is a text file"),
            ("nothing.npz", {}, "there is no such weights file"),
            (".", {}, "is a folder"),
            ("vit_token_small.npz", {"image_size": 4}, "smaller than one patch"),
            ("vit_token_small.npz", {"image_size": -1}, "image_size must be"),
            ("vit_token_small.npz", {"pool": "max"}, "pool must be one of"),
            ("vit_gap_small.npz", {"pool": "token"}, "reads the class token"),
        ],
    )
    def test_refusals(self, name: str, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_model(REFERENCE / name, **arguments)

    def test_arrays_that_do_not_fit_are_named_with_the_file(self, tmp_path: Path) -> None:
        with np.load(TOKEN) as file:
            arrays = dict(file)
        np.savez(tmp_path / "x.npz", **arrays | {"head/bias": np.zeros(9)})
        with pytest.raises(InputError, match=r"x\.npz: head/bias has shape \(9,\)"):
            load_model(tmp_path / "x.npz")
        del arrays["cls"]
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(InputError, match=r"x\.npz: .* no class token and 17 patch positions"):
            load_model(tmp_path / "x.npz")

    @pytest.mark.parametrize(
        "changes",
        [
            {"mlp_dim": 2**62},
            {"num_classes": 10**30},
            {"image_size": 2**40},
            {"in_channels": 2**62},
        ],
    )
    def test_a_description_of_a_model_beyond_all_measure_is_refused(
        self, tmp_path: Path, changes: dict[str, int]
    ) -> None:
        model = load_model(TOKEN)
        beyond = {"vit_lightning": {"config": model.config.replace(**changes).to_dict()}}
        weights = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
        torch.save(beyond | {"state_dict": weights}, tmp_path / "x.ckpt")
        with pytest.raises(InputError, match=r"x\.ckpt: no machine can hold a model of such sizes"):
            load_model(tmp_path / "x.ckpt")

    def test_how_the_weights_were_understood_is_told(self, tmp_path: Path) -> None:
        google = load_bundle(TOKEN)
        assert google.located is not None
        assert (google.located.path, google.dialect) == (TOKEN, "Google")
        assert google.report is not None
        assert google.report.notes == ()
        wide = create_model("Ti_16", image_size=32, depth=1).state_dict()
        torch.save(wide, tmp_path / "x.pth")
        timm = load_bundle(tmp_path / "x.pth")
        assert timm.dialect == "timm"
        assert timm.report is not None
        numerics, view, heads = timm.notes
        assert numerics.startswith("no config.json stands beside the weights: computed as timm")
        assert view.startswith("nothing beside the weights tells a preprocessing")
        assert heads.startswith("nothing tells the number of attention heads: taken for 3")
        assert str(timm.report).endswith("\n".join(timm.notes))

    def test_a_description_of_an_endless_model_is_refused(self, tmp_path: Path) -> None:
        model = load_model(TOKEN)
        endless = {"vit_lightning": {"config": model.config.replace(depth=10**9).to_dict()}}
        torch.save(endless | {"state_dict": {"model.a": torch.ones(1)}}, tmp_path / "x.ckpt")
        with pytest.raises(InputError, match="describes 1000000000 layers, but holds 1 tensors"):
            load_model(tmp_path / "x.ckpt")


class TestCreateFresh:
    def test_a_preset(self) -> None:
        bundle = create_bundle("Ti_16", num_classes=3, image_size=(32, 48), in_channels=1)
        expected = PRESETS["ViT-Ti_16"].replace(num_classes=3, image_size=(32, 48), in_channels=1)
        assert bundle.model.config == expected
        assert bundle.model.training
        assert bundle.report is None
        assert bundle.source == "ViT-Ti_16"

    def test_a_configuration_with_changes(self) -> None:
        config = load_model(TOKEN).config
        model = create_model(config, dropout=0.2, drop_path=0.1, depth=1)
        assert model.config == config.replace(dropout=0.2, drop_path=0.1, depth=1)

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("ViT-B_17", {}, "Did you mean"),
            ("Mixer-B_16", {}, "is an MLP-Mixer"),
            ("ViT-Ti_16", {"droput": 0.1}, "unknown model fields droput; known: activation"),
            ("ViT-Ti_16", {"image_size": 8}, "smaller than one patch"),
            ("ViT-Ti_16", {"num_classes": -1}, "num_classes must be 0 or more"),
            ("ViT-Ti_16", {"keep_head": True}, "keep parts of weights: give weights"),
            ("ViT-Ti_16", {"keep_pre_logits": True}, "keep parts of weights: give weights"),
        ],
    )
    def test_refusals(self, name: str, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            create_model(name, **arguments)


class TestCreateFromWeights:
    @pytest.fixture
    def small_preset(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """The reference's model as if it were a preset, at 224 px with 1,000 classes."""
        config = load_model(TOKEN).config.replace(image_size=224, num_classes=1000, dropout=0.1)
        monkeypatch.setitem(PRESETS, "ViT-S_8", config)
        return "ViT-S_8"

    def test_weights_decide_what_a_preset_leaves_open(self, small_preset: str) -> None:
        bundle = create_bundle(small_preset, TOKEN)
        assert bundle.model.config.image_size == (32, 32)
        assert bundle.model.config.num_classes == 10
        assert bundle.model.config.dropout == 0.1  # training is the preset's affair
        assert bundle.model.training
        assert actions(bundle) == {"head.weight": "reset", "head.bias": "reset"}
        assert not bundle.model.head.weight.any()

    def test_arguments_come_before_both(self, small_preset: str) -> None:
        bundle = create_bundle(
            small_preset, TOKEN, num_classes=4, image_size=48, in_channels=1, dropout=0.0
        )
        config = bundle.model.config
        assert (config.num_classes, config.image_size, config.in_channels) == (4, (48, 48), 1)
        assert config.dropout == 0.0
        assert actions(bundle) == {
            "pos_embed": "resized",
            "patch_embed.proj.weight": "converted",
            "head.weight": "reset",
            "head.bias": "reset",
        }

    def test_a_configuration_is_taken_at_its_word(self) -> None:
        config = load_model(TOKEN).config.replace(image_size=64, num_classes=3)
        assert create_model(config, TOKEN).config == config

    def test_keep_head(self, small_preset: str) -> None:
        model = create_model(small_preset, TOKEN, keep_head=True)
        assert torch.equal(model.head.weight, load_model(TOKEN).head.weight)
        with pytest.raises(
            InputError, match=r"vit_token_small\.npz: the weights have a head of 10"
        ):
            create_model(small_preset, TOKEN, num_classes=4, keep_head=True)

    def test_class_names_belong_to_the_head(self, tmp_path: Path, small_preset: str) -> None:
        save_model(load_model(TOKEN), tmp_path / "x.safetensors", CLASSES, {"name": "paper"})
        kept = create_bundle(small_preset, tmp_path / "x.safetensors", keep_head=True)
        assert kept.classes == CLASSES
        reset = create_bundle(small_preset, tmp_path / "x.safetensors")
        assert reset.classes is None
        assert reset.preprocessing == {"name": "paper"}

    def test_pre_logits_are_dropped_unless_asked_for(self) -> None:
        config = load_model(PRELOGITS).config.replace(representation_size=None)
        dropped = create_model(config, PRELOGITS, num_classes=2)
        assert dropped.config.representation_size is None
        kept = create_model(config, PRELOGITS, num_classes=2, keep_pre_logits=True)
        assert kept.config.representation_size == 24
        assert torch.equal(kept.pre_logits.weight, load_model(PRELOGITS).pre_logits.weight)
        everything = create_model(config, PRELOGITS, 7, keep_head=True, keep_pre_logits=True)
        assert_same_model(everything, load_model(PRELOGITS))

    def test_pre_logits_that_are_not_there(self, small_preset: str) -> None:
        with pytest.raises(InputError, match="has no pre_logits layer to keep"):
            create_model(small_preset, TOKEN, keep_pre_logits=True)

    def test_exact_gelu_travels_with_the_weights(self, tmp_path: Path, small_preset: str) -> None:
        other = load_model(TOKEN).config.replace(activation="gelu", norm_eps=1e-5)
        save_model(create_model(other), tmp_path / "x.safetensors")
        config = create_model(small_preset, tmp_path / "x.safetensors").config
        assert (config.activation, config.norm_eps) == ("gelu", 1e-5)
        with pytest.raises(InputError, match="activation gelu; the model asked for has"):
            create_model(
                small_preset, tmp_path / "x.safetensors", activation="gelu_tanh", norm_eps=1e-5
            )

    def test_a_grid_that_is_not_square(self) -> None:
        config = load_model(NONSQUARE, (24, 40)).config
        bundle = create_bundle(config, NONSQUARE)
        assert set(actions(bundle)) == {"head.weight", "head.bias"}

    def test_another_model_is_told_by_both_descriptions(self) -> None:
        with pytest.raises(
            InputError, match=r"vit_token_small\.npz: the weights are of .*embed_di"
        ) as error:
            create_model("ViT-B_32", TOKEN)
        text = str(error.value)
        assert "patch_size (8, 8), embed_dim 48, depth 3" in text
        assert "the model asked for has patch_size (32, 32), embed_dim 768, depth 12" in text

    def test_that_models_differ_is_said_before_that_sizes_do(self) -> None:
        """The grid of these weights is too small for the patches of that model."""
        with pytest.raises(InputError, match="embed_dim 48"):
            create_model("ViT-B_32", REFERENCE / "vit_token_unpooled_small.npz", embed_dim=48)

    def test_a_known_model_is_called_by_its_name(self, tmp_path: Path) -> None:
        save_model(create_model("Ti_16", num_classes=0, image_size=32), tmp_path / "x.npz")
        with pytest.raises(InputError, match=r"x\.npz \(it looks like ViT-Ti_16\): the weights"):
            create_model("ViT-S_16", tmp_path / "x.npz")

    def test_missing_weights(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no such weights file") as error:
            create_model("ViT-B_16", tmp_path / "ViT-B_16.npz")
        text = str(error.value)
        assert str(tmp_path / "ViT-B_16.npz") in text
        assert "https://storage.googleapis.com/vit_models/" in text
        assert "403" in text
        assert "imagenet21k/ViT-B_16" in text
        assert "model.weights=null" in text
        assert "vit-lightning/tiny-imagenet" in text

    def test_a_missing_checkpoint_says_where_runs_put_theirs(self, tmp_path: Path) -> None:
        message = r"checkpoint/<experiment name>\.ckpt and in its own folder under runs/"
        with pytest.raises(InputError, match=message):
            create_model("ViT-B_16", tmp_path / "your_model.ckpt")

    def test_the_stem_of_another_library_travels_with_the_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A preset names the structure; what its stem computes is the weights' to say."""
        config = load_model(HYBRID).config
        assert config.resnet is not None
        monkeypatch.setitem(PRESETS, "R5+ViT-S_1", config)
        stem = ResNetConfig(*config.resnet.structure, 1e-5, 1e-8, True)
        save_model(create_model(config.replace(resnet=stem)), tmp_path / "x.safetensors")
        assert create_model("R5+ViT-S_1", tmp_path / "x.safetensors").config.resnet == stem
        with pytest.raises(
            InputError, match=r"resnet ResNetConfig.*the model asked for has resnet"
        ):
            create_model(config, tmp_path / "x.safetensors")
        other = config.replace(resnet=ResNetConfig((1,), config.resnet.width))
        monkeypatch.setitem(PRESETS, "R5+ViT-S_1", other)
        with pytest.raises(InputError, match="resnet ResNetConfig"):
            create_model("R5+ViT-S_1", tmp_path / "x.safetensors")


def test_other_channels_under_uneven_colours_are_noted(tmp_path: Path) -> None:
    view = {"mode": "crop", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}
    model = create_model("Ti_16", image_size=32, depth=1, num_classes=2)
    save_model(model, tmp_path / "x.safetensors", preprocessing=view)
    assert load_bundle(tmp_path / "x.safetensors").notes == ()
    grey = create_bundle("Ti_16", tmp_path / "x.safetensors", in_channels=1, depth=1)
    assert "which is near and not the same" in grey.notes[0]


@pytest.mark.parametrize("junk", [0.5, [[1], [2]], [{}], {"a": 1}, [], "half"])
def test_anything_may_stand_for_a_mean(tmp_path: Path, junk: Any) -> None:
    model = create_model("Ti_16", image_size=32, depth=1, num_classes=2)
    save_model(model, tmp_path / "x.safetensors", preprocessing={"mode": "crop", "mean": junk})
    assert load_bundle(tmp_path / "x.safetensors").preprocessing is not None
