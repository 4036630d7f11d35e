"""What travels with weights of our own: everything comes back, and anything may stand there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vit_lightning.checkpoints.native import (
    Description,
    describe,
    describe_as,
    describe_safetensors,
    has_our_names,
    save_safetensors,
)
from vit_lightning.checkpoints.tensors import open_safetensors
from vit_lightning.errors import InputError
from vit_lightning.models.config import ResNetConfig, ViTConfig

CONFIG = ViTConfig(
    image_size=(24, 40),
    patch_size=1,
    num_classes=2,
    activation="gelu",
    norm_eps=1e-5,
    resnet=ResNetConfig((1, 2), 32, 1e-5, 1e-8, True),
)
CLASSES = ("Ameise", "Biene 🐝")
PREPROCESSING = {"name": "paper", "size": [24, 40], "mean": [0.5, 0.5, 0.5]}
ORIGIN = {"run": "runs/x", "classes": 2}
DESCRIPTION = Description(CONFIG, CLASSES, PREPROCESSING, ORIGIN)


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "norm.weight": torch.randn(7, generator=generator),
        "head.weight": torch.randn(3, 5, generator=generator).T,
        "half": torch.randn(4, generator=generator).bfloat16(),
    }


def described(path: Path) -> Description | None:
    return describe_safetensors(path, open_safetensors(path)[0])


def test_everything_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.safetensors"
    save_safetensors(path, state(), CONFIG, CLASSES, PREPROCESSING, ORIGIN)
    metadata, tensors = open_safetensors(path)
    assert describe_safetensors(path, metadata) == DESCRIPTION
    assert has_our_names(metadata)
    assert tensors.shapes == {key: tuple(t.shape) for key, t in state().items()}
    for key, tensor in state().items():
        assert torch.equal(tensors[key], tensor), key


def test_plain_values_are_read_back_after_a_trip_through_json() -> None:
    values = describe_as(CONFIG, CLASSES, PREPROCESSING, ORIGIN)
    assert describe("x", json.loads(json.dumps(values))) == DESCRIPTION


def test_class_names_and_preprocessing_may_be_unknown(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x", state(), CONFIG)
    assert described(tmp_path / "x") == Description(CONFIG)


def test_other_libraries_find_what_they_look_for(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x", state(), CONFIG, layout="timm")
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_a_layout_of_another_library_is_told(tmp_path: Path) -> None:
    """The description is ours all the same."""
    save_safetensors(tmp_path / "x", state(), CONFIG, layout="huggingface")
    assert described(tmp_path / "x") == Description(CONFIG)
    assert not has_our_names(open_safetensors(tmp_path / "x")[0])


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"config": "{}"}])
def test_a_file_of_another_program_has_no_description(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x", metadata)
    assert described(tmp_path / "x") is None


GOOD = {"vit_lightning.format": "1", "config": "{}", "classes": "null", "preprocessing": "null"}


def test_files_from_before_layouts_and_origins_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x", GOOD)
    assert described(tmp_path / "x") == Description(ViTConfig())
    assert has_our_names(open_safetensors(tmp_path / "x")[0])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"vit_lightning.format": "2"}, "in version 2 of the format, this package reads 1"),
        ({"config": "{"}, "the description in its header is damaged"),
        ({"config": "[" * 100_000}, "the description in its header is damaged"),
        ({"config": "9" * 5000}, "the description in its header is damaged"),
        ({"config": "[1]"}, "its description of the model is damaged"),
        ({"config": "null"}, "its description of the model is damaged"),
        ({"config": '{"hidden_size": 3}'}, "the model it describes cannot be: unknown model"),
        ({"config": '{"dropout": "high"}'}, "the model it describes cannot be: dropout must lie"),
        ({"config": '{"norm_eps": Infinity}'}, "the model it describes cannot be: norm_eps must"),
        ({"config": '{"class_token": 3}'}, "the model it describes cannot be: class_token must"),
        ({"config": '{"resnet": {"depth": 3}}'}, "its description of the model is damaged"),
        ({"config": '{"resnet": []}'}, "the model it describes cannot be: resnet must be a table"),
        ({"config": '{"resnet": {"stage_depths": [1], "width": 32.0}}'}, "resnet.width must be"),
        ({"classes": '["one"]'}, "names 1 classes, its model has 1000"),
        ({"classes": '"ant"'}, "its class names are not a list"),
        ({"classes": "[1, 2]"}, "its class names are not a list"),
        ({"preprocessing": "[]"}, "its preprocessing is not a table"),
        ({"origin": "[]"}, "its origin is not a table"),
    ],
)
def test_damaged_descriptions(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x", GOOD | metadata)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        described(tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value)


@pytest.mark.parametrize("junk", [None, True, 3, 2.5, "x", [], ["x"], {}, {"x": 1}])
@pytest.mark.parametrize("field", ["config", "classes", "preprocessing", "origin", "multi_label"])
def test_anything_may_stand_in_a_description(field: str, junk: Any) -> None:
    values = describe_as(CONFIG, CLASSES, PREPROCESSING, ORIGIN) | {field: junk}
    fits = junk is None or isinstance(junk, {"classes": (), "multi_label": bool}.get(field, dict))
    if field == "config":
        fits = junk in ({}, [])  # no field at all
        values["classes"] = None  # which are two, and the default model has a thousand
    if fits:
        expected = ViTConfig() if field == "config" else CONFIG
        assert describe("x", values).config == expected
        return
    with pytest.raises(InputError, match=r"^x"):
        describe("x", values)


@pytest.mark.parametrize("junk", [None, True, -1, 3, 2.5, 10**400, "x", [], [1], {}, {"x": 1}])
@pytest.mark.parametrize("field", list(CONFIG.to_dict()))
def test_anything_may_stand_in_a_field_of_the_model(field: str, junk: Any) -> None:
    """It is a model, or it is refused in words."""
    message = ""
    try:
        describe("x", {"config": CONFIG.to_dict() | {field: junk}})
    except InputError as error:
        message = str(error)
    assert not message or message.startswith("x: ")


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_safetensors(path, state(), CONFIG)
    before = path.read_bytes()

    def fails(tensors: Any, temporary: Path, metadata: Any) -> None:
        temporary.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("vit_lightning.checkpoints.native.save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        save_safetensors(path, state(), CONFIG)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_they_may_read_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_safetensors(tmp_path / "x.safetensors", state(), CONFIG)
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
