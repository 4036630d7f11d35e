"""Our own formats: everything comes back, and nothing in a file is executed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vit_lightning.checkpoints import native
from vit_lightning.checkpoints.native import (
    Description,
    TensorFile,
    open_lightning,
    open_safetensors,
    save_safetensors,
)
from vit_lightning.errors import InputError
from vit_lightning.models.config import ResNetConfig, ViTConfig

CONFIG = ViTConfig(
    image_size=(24, 40),
    patch_size=1,
    num_classes=2,
    activation="gelu",
    norm_eps=1e-5,
    resnet=ResNetConfig((1, 2)),
)
CLASSES = ("Ameise", "Biene 🐝")
PREPROCESSING = {"name": "paper", "size": [24, 40], "mean": [0.5, 0.5, 0.5]}
DESCRIPTION = Description(CONFIG, CLASSES, PREPROCESSING)


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "norm.weight": torch.randn(7, generator=generator),
        "head.weight": torch.randn(3, 5, generator=generator).T,
        "half": torch.randn(4, generator=generator).bfloat16(),
    }


def checkpoint() -> dict[str, Any]:
    """As training writes it; tuples have become lists on the way through JSON."""
    values = {"config": CONFIG.to_dict(), "classes": CLASSES, "preprocessing": PREPROCESSING}
    return {
        "vit_lightning": json.loads(json.dumps(values)),
        "state_dict": {f"model.{key}": tensor for key, tensor in state().items()}
        | {"metric.total": torch.ones(1)},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(9)}}}],
        "global_step": 3,
    }


def assert_holds_everything(found: tuple[Description, TensorFile]) -> None:
    description, tensors = found
    assert description == DESCRIPTION
    assert tensors.shapes == {key: tuple(t.shape) for key, t in state().items()}
    for key, tensor in state().items():
        assert torch.equal(tensors[key], tensor), key


class TestSafetensors:
    def test_everything_comes_back(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "model.safetensors"
        save_safetensors(path, state(), CONFIG, CLASSES, PREPROCESSING)
        assert_holds_everything(open_safetensors(path))

    def test_class_names_and_preprocessing_may_be_unknown(self, tmp_path: Path) -> None:
        save_safetensors(tmp_path / "x", state(), CONFIG)
        assert open_safetensors(tmp_path / "x")[0] == Description(CONFIG, None, None)

    def test_tensors_outlive_the_file(self, tmp_path: Path) -> None:
        """Written over in place, a mapped file would change or kill the model in memory."""
        path = tmp_path / "x"
        save_safetensors(path, state(), CONFIG)
        tensor = open_safetensors(path)[1]["norm.weight"]
        path.write_bytes(b"\0" * path.stat().st_size)
        assert torch.equal(tensor, state()["norm.weight"])

    def test_of_another_program(self, tmp_path: Path) -> None:
        save_file({"a": torch.ones(2)}, tmp_path / "x", {"format": "pt"})
        with pytest.raises(InputError, match="was not written by this package"):
            open_safetensors(tmp_path / "x")

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"vit_lightning.format": "2"}, "in version 2 of the format, this package reads 1"),
            ({"config": "{"}, "the description in its header is damaged"),
            ({"config": "[1]"}, "its description of the model is damaged"),
            ({"config": '{"hidden_size": 3}'}, "the model it describes cannot be: unknown model"),
            (
                {"config": '{"dropout": "high"}'},
                "the model it describes cannot be: dropout must lie",
            ),
            ({"config": '{"resnet": {"depth": 3}}'}, "its description of the model is damaged"),
            ({"classes": '["one"]'}, "names 1 classes, its model has 1000"),
            ({"classes": '"ant"'}, "its class names are not a list"),
            ({"classes": "[1, 2]"}, "its class names are not a list"),
            ({"preprocessing": "[]"}, "its preprocessing is not a table"),
            ({"origin": "[]"}, "its origin is not a table"),
        ],
    )
    def test_damaged_descriptions(
        self, tmp_path: Path, metadata: dict[str, str], message: str
    ) -> None:
        good = {
            "vit_lightning.format": "1",
            "config": "{}",
            "classes": "null",
            "preprocessing": "null",
        }
        save_file({"a": torch.ones(2)}, tmp_path / "x", good)
        assert open_safetensors(tmp_path / "x")[0].config == ViTConfig()
        save_file({"a": torch.ones(2)}, tmp_path / "x", good | metadata)
        with pytest.raises(InputError, match=re.escape(message)):
            open_safetensors(tmp_path / "x")

    @pytest.mark.parametrize("keep", [60, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, keep: float) -> None:
        path = tmp_path / "x"
        save_safetensors(path, {"a": torch.ones(5000)}, CONFIG)
        data = path.read_bytes()
        path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
        with pytest.raises(InputError, match="cut short"):
            open_safetensors(path)


class TestLightning:
    def test_everything_comes_back(self, tmp_path: Path) -> None:
        torch.save(checkpoint(), tmp_path / "x.ckpt")
        assert_holds_everything(open_lightning(tmp_path / "x.ckpt"))

    def test_of_another_program(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "x.ckpt")
        with pytest.raises(InputError, match=r"no checkpoint of this package .*'vit_lightning'"):
            open_lightning(tmp_path / "x.ckpt")
        torch.save([torch.ones(2)], tmp_path / "x.ckpt")
        with pytest.raises(InputError, match="no checkpoint of this package"):
            open_lightning(tmp_path / "x.ckpt")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"vit_lightning": [1]}, "the description or the weights are missing"),
            ({"state_dict": None}, "the description or the weights are missing"),
            ({"vit_lightning": {"classes": None}}, "its description of the model is damaged"),
            ({"vit_lightning": {"config": {"depth": 0}}}, "cannot be: depth must be"),
        ],
    )
    def test_damaged_descriptions(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        torch.save(checkpoint() | changes, tmp_path / "x.ckpt")
        with pytest.raises(InputError, match=message):
            open_lightning(tmp_path / "x.ckpt")

    @pytest.mark.parametrize("where", ["beside", "weights", "description"])
    def test_a_pickle_that_runs_code_does_not(self, tmp_path: Path, where: str) -> None:
        marker = tmp_path / "it ran"

        class Runs:
            def __reduce__(self) -> tuple[Any, ...]:
                return exec, (f"open({str(marker)!r}, 'w').close()",)

        contents, path = checkpoint(), tmp_path / "x.ckpt"
        {
            "beside": contents,
            "weights": contents["state_dict"],
            "description": contents["vit_lightning"],
        }[where]["evil"] = Runs()
        torch.save(contents, path)
        with pytest.raises(InputError, match=r"exec to be called .* nothing was executed"):
            open_lightning(path)
        assert not marker.exists()
        torch.load(path, weights_only=False)  # it would have run: this is no test of a dud
        assert marker.exists()

    def test_a_whole_pickled_model_is_refused(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "x.pth")
        with pytest.raises(InputError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
            open_lightning(tmp_path / "x.pth")

    def test_an_old_torch_save_is_refused(self, tmp_path: Path) -> None:
        torch.save(checkpoint(), tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
        with pytest.raises(InputError, match="is a bare pickle"):
            open_lightning(tmp_path / "x.ckpt")

    @pytest.mark.parametrize("keep", [60, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, keep: float) -> None:
        path = tmp_path / "x.ckpt"
        torch.save(checkpoint(), path)
        data = path.read_bytes()
        path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
        with pytest.raises(InputError, match=r"x\.ckpt is cut short or damaged"):
            open_lightning(path)

    def test_a_broken_pickle_inside_a_whole_zip(self, tmp_path: Path) -> None:
        path = tmp_path / "x.ckpt"
        torch.save(checkpoint(), path)
        data = path.read_bytes()
        start = data.index(b"vit_lightning")
        path.write_bytes(data[:start] + b"\xff" * 13 + data[start + 13 :])
        with pytest.raises(InputError, match=r"x\.ckpt"):
            open_lightning(path)


def test_a_mapping_is_closed_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_REMAP_AFTER", 100)
    opened = []

    def reopen() -> Any:
        opened.append(1)
        return {str(i): torch.full((20,), float(i)) for i in range(6)}.__getitem__

    tensors = TensorFile(reopen, {})
    assert not opened  # lazy
    assert [tensors[str(i)][0].item() for i in range(6)] == [0, 1, 2, 3, 4, 5]
    assert len(opened) == 3  # 80 bytes each: two, and the third is not asked of a full one
