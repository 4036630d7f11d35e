"""Weights files of every kind, understood: which model, how it computes, what travels along."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tiny_models import CLASSES, TINY, arrays_of, assert_holds, random_model
from vit_lightning.checkpoints.dialects import (
    DIALECTS,
    GOOGLE,
    HUGGINGFACE,
    TIMM,
    TORCHVISION,
    Dialect,
)
from vit_lightning.checkpoints.native import describe_as, save_safetensors
from vit_lightning.checkpoints.weights import open_weights
from vit_lightning.download import file_hash
from vit_lightning.errors import InputError

REFERENCE = Path(__file__).parents[1] / "reference"
JEONSWORLD = DIALECTS[-1]
STATE = random_model().state_dict()
OURS = TINY.replace(activation="gelu", norm_eps=1e-5)  # what no other layout would say
VIEW = {"mode": "crop", "mean": [0.5] * 3, "std": [0.2] * 3, "crop_fraction": 0.9}


def write_json(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


def description() -> dict[str, Any]:
    return describe_as(OURS, CLASSES, VIEW, {"run": "x"})


class TestOurOwn:
    def check(self, path: Path, dialect: str = "vit-lightning") -> None:
        file = open_weights(path)
        assert file.config == OURS
        assert file.description.classes == CLASSES
        assert file.description.preprocessing == VIEW
        assert file.description.origin == {"run": "x"}
        assert file.dialect == dialect
        assert file.source == str(path)
        assert file.notes == file.training_state == ()
        assert_holds(file, STATE)

    def test_safetensors(self, tmp_path: Path) -> None:
        save_safetensors(tmp_path / "x.safetensors", STATE, OURS, CLASSES, VIEW, {"run": "x"})
        self.check(tmp_path / "x.safetensors")

    def test_checkpoint(self, tmp_path: Path) -> None:
        weights = {f"model.{key}": tensor for key, tensor in STATE.items()}
        weights["metric.total"] = torch.ones(1)  # a state of the task, not of the model
        contents = {"vit_lightning": description(), "state_dict": weights, "global_step": 3}
        torch.save(contents, tmp_path / "x.ckpt")
        self.check(tmp_path / "x.ckpt")

    @pytest.mark.parametrize(("dialect", "layout"), [(TIMM, "timm"), (HUGGINGFACE, "huggingface")])
    def test_in_the_names_of_another_library(
        self, tmp_path: Path, dialect: Dialect, layout: str
    ) -> None:
        """Which reads the file as its own, and we as ours."""
        path = tmp_path / "model.safetensors"
        save_safetensors(
            path, arrays_of(dialect, STATE), OURS, CLASSES, VIEW, {"run": "x"}, layout=layout
        )
        self.check(path, dialect.name)

    def test_described_beside(self, tmp_path: Path) -> None:
        arrays = {key: tensor.numpy() for key, tensor in arrays_of(GOOGLE, STATE).items()}
        np.savez(tmp_path / "x.npz", **arrays)
        torch.save(arrays_of(TORCHVISION, STATE), tmp_path / "x.pth")
        save_file(arrays_of(JEONSWORLD, STATE), tmp_path / "x.safetensors")
        for suffix, dialect in (
            (".npz", GOOGLE),
            (".pth", TORCHVISION),
            (".safetensors", JEONSWORLD),
        ):
            path = tmp_path / f"x{suffix}"
            values = {"vit_lightning": description(), "sha256": file_hash(path)}
            write_json(tmp_path / f"x{suffix}.json", values)
            self.check(path, dialect.name)

    def test_a_description_of_what_was_there_before_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        torch.save(arrays_of(TORCHVISION, STATE), path)
        values = {"vit_lightning": description(), "sha256": file_hash(path)}
        write_json(tmp_path / "x.pth.json", values)
        assert open_weights(path).description.classes is not None
        torch.save(arrays_of(TORCHVISION, STATE) | {"class_token": torch.ones(1, 1, 192)}, path)
        file = open_weights(path)
        assert file.description.classes is None
        assert "x.pth.json describes another file than x.pth: passed over" in file.notes[0]

    @pytest.mark.parametrize("contents", [{}, {"vit_lightning": 3}, {"loss": [1.0, 0.5]}])
    def test_what_another_program_put_beside_is_passed_over(
        self, tmp_path: Path, contents: Any
    ) -> None:
        torch.save(arrays_of(TORCHVISION, STATE), tmp_path / "x.pth")
        alone = open_weights(tmp_path / "x.pth")
        write_json(tmp_path / "x.pth.json", contents)
        assert open_weights(tmp_path / "x.pth").description == alone.description

    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            ({"vit_lightning": {}}, "its description of the model is damaged"),
            ({"vit_lightning": {"config": {"depth": 0}}}, "cannot be: depth must be"),
            ([], "must be a JSON object"),
        ],
    )
    def test_a_damaged_description_beside(
        self, tmp_path: Path, contents: Any, message: str
    ) -> None:
        torch.save(arrays_of(TORCHVISION, STATE), tmp_path / "x.pth")
        if isinstance(contents, dict):
            contents = contents | {"sha256": file_hash(tmp_path / "x.pth")}
        write_json(tmp_path / "x.pth.json", contents)
        with pytest.raises(InputError, match=rf"x\.pth\.json.*{message}"):
            open_weights(tmp_path / "x.pth")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"vit_lightning": [1]}, "description of the model is damaged"),
            ({"vit_lightning": {"classes": None}}, "its description of the model is damaged"),
            ({"vit_lightning": {"config": {"depth": 0}}}, "cannot be: depth must be"),
            ({"vit_lightning": {"config": {"depth": 10**9}}}, "describes 1000000000 layers, but"),
            ({"state_dict": None}, r"holds no tensors of a model \(it has vit_lightning, sta"),
        ],
    )
    def test_a_damaged_checkpoint(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        weights = {f"model.{key}": tensor for key, tensor in STATE.items()}
        contents = {"vit_lightning": description(), "state_dict": weights}
        torch.save(contents | changes, tmp_path / "x.ckpt")
        with pytest.raises(InputError, match=rf"x\.ckpt.*{message}"):
            open_weights(tmp_path / "x.ckpt")

    def test_a_description_of_another_model(self, tmp_path: Path) -> None:
        other = OURS.replace(mlp_dim=65)
        save_safetensors(tmp_path / "x.safetensors", STATE, other)
        shapes = {
            key: tuple(tensor.shape) for key, tensor in random_model(other).state_dict().items()
        }
        with pytest.raises(
            InputError,
            match=r"x\.safetensors: blocks\.0\.mlp\.fc1\.weight has shape \(64, 192\), the",
        ):
            open_weights(tmp_path / "x.safetensors").read(shapes)

    def test_another_pool(self, tmp_path: Path) -> None:
        save_safetensors(tmp_path / "x.safetensors", STATE, OURS)
        assert open_weights(tmp_path / "x.safetensors", pool="none").config.pool == "none"


class TestGoogle:
    def test_an_official_layout(self) -> None:
        file = open_weights(REFERENCE / "vit_token_small.npz")
        assert (file.dialect, file.notes, file.description.preprocessing) == ("Google", (), None)
        assert (file.config.activation, file.config.norm_eps) == ("gelu_tanh", 1e-6)

    def test_heads_are_those_of_the_arrays(self) -> None:
        for heads in (None, 4):
            assert (
                open_weights(REFERENCE / "vit_token_small.npz", num_heads=heads).config.num_heads
                == 3
            )

    def test_a_training_state_is_named(self, tmp_path: Path) -> None:
        arrays = {
            f"opt/target/{key}": tensor.numpy() for key, tensor in arrays_of(GOOGLE, STATE).items()
        }
        np.savez(tmp_path / "x.npz", **arrays, **{"opt/state/step": np.array(7)})
        file = open_weights(tmp_path / "x.npz")
        assert file.training_state == ("opt/state/step",)
        assert_holds(file, STATE)

    @pytest.mark.parametrize("class_token", [True, False])
    def test_big_vision_with_layers_of_a_scan(self, tmp_path: Path, class_token: bool) -> None:
        """Stacked, under linen's numbers and the prefix of a training state."""
        config = TINY if class_token else TINY.replace(pool="gap")
        state = random_model(config).state_dict()
        if class_token:  # to which big_vision gives no position
            state["pos_embed"][:, 0] = 0
        dialects = [d for d in DIALECTS if "[0]" in d.telltale[-1] + d.telltale[-2]]
        scanned = next(d for d in dialects if ("cls" in d.telltale) == class_token)
        renamed = {
            "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
            "LayerNorm_2": "LayerNorm_1",
            "MlpBlock_3": "MlpBlock_0",
        }
        arrays = {"opt_state/count": np.array(3)}
        for key, tensor in arrays_of(scanned, state).items():
            for old, new in renamed.items():
                key = key.replace(old, new)
            arrays[f"params/{key}"] = tensor.numpy()
        np.savez(tmp_path / "x.npz", **arrays)
        file = open_weights(tmp_path / "x.npz")
        assert file.dialect == "big_vision"
        assert file.config == config
        assert file.notes == ()
        assert_holds(file, state)


class TestDamage:
    def save(self, folder: Path, kind: str, changes: dict[str, Tensor]) -> tuple[Path, Dialect]:
        path = folder / f"x{kind}"
        if kind == ".npz":
            arrays = {
                key: tensor.numpy() for key, tensor in (arrays_of(GOOGLE, STATE) | changes).items()
            }
            np.savez(path, **arrays)
            return path, GOOGLE
        if kind == ".safetensors":
            save_file(arrays_of(TIMM, STATE) | changes, path)
            return path, TIMM
        torch.save(arrays_of(TORCHVISION, STATE) | changes, path)
        return path, TORCHVISION

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (torch.tensor(float("nan")), "holds values that are no finite numbers"),
            (torch.tensor(float("inf")), "holds values that are no finite numbers"),
            (torch.tensor(3), "is of type .*int64; weights are floating-point"),
        ],
        ids=["nan", "inf", "integers"],
    )
    @pytest.mark.parametrize("kind", [".npz", ".safetensors", ".pth"])
    def test_numbers_are_looked_at(
        self, tmp_path: Path, kind: str, value: Tensor, message: str
    ) -> None:
        dialect = {".npz": GOOGLE, ".safetensors": TIMM, ".pth": TORCHVISION}[kind]
        key = next(iter(arrays_of(dialect, {"head.bias": STATE["head.bias"]})))
        path, _ = self.save(tmp_path, kind, {key: value.expand(5).clone()})
        with pytest.raises(InputError, match=rf"x{kind}: {key} {message}"):
            assert_holds(open_weights(path), STATE)

    def test_files_of_nothing_known(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "x.ckpt")
        save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", {"format": "pt"})
        np.savez(tmp_path / "x.npz", a=np.ones(2))
        for suffix in (".ckpt", ".safetensors", ".npz"):
            with pytest.raises(
                InputError, match=rf"x{suffix}: .*not the weights of a Vision Transformer.*hold a$"
            ):
                open_weights(tmp_path / f"x{suffix}")

    def test_a_block_that_is_missing(self, tmp_path: Path) -> None:
        keys = {
            key: STATE["norm.bias"] for key in arrays_of(TIMM, STATE) if key.startswith("blocks.1.")
        }
        moved = {key.replace("blocks.1.", "blocks.2."): tensor for key, tensor in keys.items()}
        contents = {
            key: tensor for key, tensor in arrays_of(TIMM, STATE).items() if key not in keys
        }
        torch.save(contents | moved, tmp_path / "x.pth")
        with pytest.raises(
            InputError,
            match=r"x\.pth: the file has blocks\.2\.\S+, but no blocks\.1\.\S+: it is in",
        ):
            open_weights(tmp_path / "x.pth")

    def test_models_that_are_others(self, tmp_path: Path) -> None:
        torch.save(arrays_of(TIMM, STATE) | {"reg_token": torch.ones(1)}, tmp_path / "x.pth")
        with pytest.raises(InputError, match=r"x\.pth: the weights are of a DINOv2 or DINOv3 with"):
            open_weights(tmp_path / "x.pth")

    def test_shapes_of_no_model(self, tmp_path: Path) -> None:
        odd = arrays_of(TIMM, STATE) | {"patch_embed.proj.weight": torch.ones(192, 3)}
        torch.save(odd, tmp_path / "x.pth")
        with pytest.raises(
            InputError, match=r"x\.pth: patch_embed\.proj\.weight has shape \(192, 3\).*4 axes"
        ):
            open_weights(tmp_path / "x.pth")

    @pytest.mark.parametrize("number", ["9" * 5000, "²", "00"])
    def test_keys_that_look_like_numbers(self, tmp_path: Path, number: str) -> None:
        extra = {f"blocks.{number}.norm1.bias": torch.ones(1), number: torch.ones(1)}
        torch.save(arrays_of(TIMM, STATE) | extra, tmp_path / "x.pth")
        file = open_weights(tmp_path / "x.pth")
        with pytest.raises(
            InputError, match=r"x\.pth: the arrays are not those of one model; left"
        ):
            assert_holds(file, STATE)
