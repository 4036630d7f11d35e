"""What is lost in other libraries is said, measured or refused; what fails leaves nothing."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import (
    CLASSES,
    EXACT,
    HYBRID,
    R_TI,
    TINY,
    bundle_of,
    random_model,
    random_pictures,
    same_weights,
)
from vit_lightning import convert
from vit_lightning.convert import CannotExpressError, Target, convert_model
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.models.config import ResNetConfig, ViTConfig

# A model that each can express, and what to call it.
EXPRESSIBLE: dict[Target, tuple[ViTConfig, str]] = {
    "google": (TINY, "x.npz"),
    "timm": (EXACT, "folder"),
    "huggingface": (EXACT.replace(norm_eps=1e-12), "folder"),
    "torchvision": (EXACT, "x.pth"),
    "safetensors": (EXACT.replace(norm_eps=1e-3), "x.safetensors"),
}
TARGETS = list(EXPRESSIBLE)


def bundle(config: ViTConfig, **beside: Any) -> ModelBundle:
    return bundle_of(random_model(config), **beside)


def named(to: Target) -> str:
    return EXPRESSIBLE[to][1]


class TestLosses:
    @pytest.mark.parametrize(
        ("to", "config", "reason"),
        [
            ("google", TINY.replace(pool="gap", class_token=True), "the mean over patches besid"),
            ("timm", HYBRID, "a stem of stages (2, 1) and width 32"),
            ("huggingface", HYBRID, "a hybrid's stem"),
            (
                "huggingface",
                TINY.replace(pool="gap"),
                "a model without a class token and pool 'gap'",
            ),
            (
                "torchvision",
                EXACT.replace(image_size=(36, 40), in_channels=1),
                "a picture that is not square, pictures that patches do not cover and 1 channels",
            ),
        ],
    )
    @pytest.mark.parametrize("lossy", [False, True])
    def test_what_nothing_can_stand_for_is_refused(
        self, tmp_path: Path, to: Target, config: ViTConfig, reason: str, lossy: bool
    ) -> None:
        with pytest.raises(
            CannotExpressError, match=re.escape(f"{to} cannot express {reason}")
        ) as error:
            convert_model(bundle(config), tmp_path / named(to), to, lossy=lossy)
        assert "write a .safetensors, which keeps everything" in str(error.value)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("to", "config", "changes", "losses"),
        [
            (
                "google",
                EXACT.replace(norm_eps=1e-3),
                {"activation": "gelu_tanh", "norm_eps": 1e-6},
                ("activation is gelu_tanh instead of gelu", "norm_eps is 1e-06 instead of 0.001"),
            ),
            ("google", R_TI, {"activation": "gelu_tanh", "resnet": ResNetConfig((), 64)}, None),
            (
                "timm",
                TINY.replace(norm_eps=1e-3),
                {"norm_eps": 1e-6},
                ("norm_eps is 1e-06 instead of 0.001",),
            ),
            ("timm", R_TI.replace(resnet=ResNetConfig((), 64)), {"resnet": R_TI.resnet}, None),
            (
                "torchvision",
                TINY.replace(representation_size=24),
                {"activation": "gelu"},
                ("activation is gelu instead of gelu_tanh",),
            ),
        ],
    )
    def test_what_is_lost_is_said_and_measured(
        self,
        tmp_path: Path,
        to: Target,
        config: ViTConfig,
        changes: dict[str, Any],
        losses: tuple[str, ...] | None,
    ) -> None:
        source = bundle(config, classes=CLASSES)
        with pytest.raises(
            CannotExpressError, match=f"^{to} would compute something else: .*--lossy"
        ) as error:
            convert_model(source, tmp_path / named(to), to)
        assert not list(tmp_path.iterdir())
        result = convert_model(source, tmp_path / named(to), to, lossy=True)
        assert losses is None or result.losses == losses
        assert all(loss in error.value.reason for loss in result.losses)
        found = load_bundle(tmp_path / named(to))
        assert found.model.config == config.replace(**changes)
        assert found.classes == CLASSES
        assert same_weights(found.model, source.model)
        # The same pictures, by both models.
        torch.manual_seed(0)
        pictures = torch.rand(2, 3, *config.image_size) * 2 - 1
        with torch.inference_mode():
            delta = (source.model(pictures) - found.model(pictures)).abs().max().item()
            other = random_pictures(config, 4)
            elsewhere = (source.model(other) - found.model(other)).abs().max().item()
        assert result.delta == pytest.approx(delta, rel=1e-3)
        assert 0 < result.delta < 20 * elsewhere
        text = str(result)
        assert all(f"lost: {loss}" in text for loss in result.losses)
        assert f"moves by up to {result.delta:.1e}" in text

    def test_timm_has_no_pre_logits(self, tmp_path: Path) -> None:
        """Its head reads them, so that it goes too, and the names of its classes."""
        config = EXACT.replace(representation_size=24)
        source = bundle(config, classes=CLASSES)
        with pytest.raises(CannotExpressError, match="is left out and pre_logits is left out"):
            convert_model(source, tmp_path / "x", "timm")
        result = convert_model(source, tmp_path / "x", "timm", lossy=True)
        assert set(result.losses) == {
            "pre_logits is left out",
            "the head, which reads pre_logits, is left out",
        }
        assert result.delta == 0  # of the tokens
        found = load_bundle(tmp_path / "x")
        assert found.model.config == config.replace(representation_size=None, num_classes=0)
        assert found.classes is None
        features = random_pictures(config)
        with torch.inference_mode():
            expected = source.model.forward_features(features)
            assert torch.equal(found.model.forward_features(features), expected)

    def test_hugging_face_has_pre_logits_or_a_head(self, tmp_path: Path) -> None:
        config = EXACT.replace(representation_size=24)
        source = bundle(config, classes=CLASSES)
        with pytest.raises(CannotExpressError, match="the head, which reads pre_logits, is left"):
            convert_model(source, tmp_path / "x", "huggingface")
        convert_model(source, tmp_path / "x", "huggingface", lossy=True)
        found = load_bundle(tmp_path / "x")
        assert found.model.config == config.replace(num_classes=0)
        pictures = random_pictures(config)
        with torch.inference_mode():
            tokens = source.model.pool(source.model.forward_features(pictures))
            expected = torch.tanh(source.model.pre_logits(tokens))
            torch.testing.assert_close(found.model(pictures), expected)

    def test_a_model_in_training_stays_so(self, tmp_path: Path) -> None:
        source = bundle(TINY.replace(dropout=0.5))
        source.model.train()
        result = convert_model(source, tmp_path / "x.pth", "torchvision", lossy=True)
        assert source.model.training
        assert result.delta is not None
        assert 0 < result.delta < 0.1  # without the dropout

    def test_lossless_is_not_measured(self, tmp_path: Path) -> None:
        result = convert_model(bundle(TINY), tmp_path / "x.npz", "google", lossy=True)
        assert (result.losses, result.delta) == ((), None)
        assert str(result) == str(tmp_path / "x.npz")


@pytest.mark.parametrize("to", ["timm", "huggingface"])
@pytest.mark.parametrize(
    "junk", [{"name": "paper"}, {"mode": 3}, {"mean": "x"}, {"std": [10**400]}]
)
def test_a_preprocessing_that_is_none(tmp_path: Path, to: Target, junk: dict[str, Any]) -> None:
    """A file may say anything of it; a folder for another library has it in their words."""
    with pytest.raises(InputError, match="preprocessing"):
        convert_model(bundle(EXPRESSIBLE[to][0], preprocessing=junk), tmp_path / "x", to)
    assert not list(tmp_path.iterdir())


class TestPaths:
    @pytest.mark.parametrize(
        ("to", "name", "message"),
        [
            ("google", "x", "the file for google is a .npz; give it that suffix"),
            ("google", "x.safetensors", "the file for google is a .npz"),
            ("torchvision", "x.pt", "the file for torchvision is a .pth"),
            ("safetensors", "x.npz", "the file for safetensors is a .safetensors"),
            ("timm", "x.safetensors", "for timm a folder is written, with model.safetensors"),
            ("huggingface", "x.bin", "for huggingface a folder is written"),
        ],
    )
    def test_a_wrong_suffix(self, tmp_path: Path, to: Target, name: str, message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)) as error:
            convert_model(bundle(EXPRESSIBLE[to][0]), tmp_path / name, to)
        assert str(tmp_path / name) in str(error.value)
        assert not list(tmp_path.iterdir())

    def test_a_target_that_is_not_known(self, tmp_path: Path) -> None:
        to: Any = "keras"
        with pytest.raises(InputError, match="must be one of google, timm, huggingface, torchvis"):
            convert_model(bundle(TINY), tmp_path / "x", to)

    @pytest.mark.parametrize("to", TARGETS)
    def test_what_is_there_stays(self, tmp_path: Path, to: Target) -> None:
        config, name = EXPRESSIBLE[to]
        path = tmp_path / name
        path.write_text("mine")
        with pytest.raises(InputError, match="is already there; remove it, or name another"):
            convert_model(bundle(config), path, to)
        assert path.read_text() == "mine"
        path.unlink()
        path.mkdir()
        (path / "mine").touch()
        with pytest.raises(InputError, match="is already there; remove it, or name another"):
            convert_model(bundle(config), path, to)
        assert [item.name for item in tmp_path.rglob("*")] == [name, "mine"]

    @pytest.mark.parametrize("to", ["google", "torchvision"])
    def test_what_is_there_beside_stays(self, tmp_path: Path, to: Target) -> None:
        config, name = EXPRESSIBLE[to]
        (tmp_path / f"{name}.json").write_text("mine")
        with pytest.raises(InputError, match=rf"{name}\.json is already there"):
            convert_model(bundle(config), tmp_path / name, to)
        assert (tmp_path / f"{name}.json").read_text() == "mine"
        assert not (tmp_path / name).exists()

    @pytest.mark.parametrize("to", ["timm", "huggingface"])
    def test_an_empty_folder_is_filled(self, tmp_path: Path, to: Target) -> None:
        (tmp_path / "x").mkdir()
        convert_model(bundle(EXPRESSIBLE[to][0]), tmp_path / "x", to)
        assert (tmp_path / "x" / "config.json").is_file()
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    @pytest.mark.parametrize("to", ["timm", "huggingface"])
    def test_the_folder_one_is_in_is_not_put_in_the_place_of_itself(
        self, tmp_path: Path, to: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"^\. is already there; .*name another"):
            convert_model(bundle(EXPRESSIBLE[to][0]), ".", to)

    @pytest.mark.parametrize("to", TARGETS)
    def test_a_place_that_cannot_be_written_to(self, tmp_path: Path, to: Target) -> None:
        """The system's words name it, as of every file that cannot be written."""
        config, name = EXPRESSIBLE[to]
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="file"):
            convert_model(bundle(config), tmp_path / "file" / name, to)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestFailures:
    """Whatever breaks off, nothing half is left."""

    @pytest.mark.parametrize(
        ("to", "function"),
        [
            ("google", "write_npz"),
            ("google", "write_json"),
            ("torchvision", "write_json"),
            ("timm", "write_json"),
            ("huggingface", "write_json"),
            ("huggingface", "save_safetensors"),
            ("safetensors", "save_safetensors"),
        ],
    )
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_of_writing(
        self,
        tmp_path: Path,
        to: Target,
        function: str,
        error: type[BaseException],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fails(*_: Any, **__: Any) -> None:
            raise error("interrupted")

        monkeypatch.setattr(convert, function, fails)
        config, name = EXPRESSIBLE[to]
        with pytest.raises(error, match="interrupted"):
            convert_model(bundle(config), tmp_path / name, to)
        assert not list(tmp_path.iterdir())

    def test_of_saving_for_torchvision(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(state: Any, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError("no space left on device")

        monkeypatch.setattr(torch, "save", fails)
        with pytest.raises(OSError, match="no space left"):
            convert_model(bundle(EXACT), tmp_path / "x.pth", "torchvision")
        assert not list(tmp_path.iterdir())
