"""`vit verify`: what agrees, what departs and where, and what is refused."""

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from random_weights import randomise
from vit_lightning.checkpoints.npz import write_npz
from vit_lightning.cli import main
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle, load_model, save_model
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.parity.stages import ParityReport, Stage
from vit_lightning.parity.verify import verify

REFERENCE = Path(__file__).parents[1] / "reference"
PLAIN = ["embedding", "blocks.0", "blocks.1", "encoded", "pre_logits", "logits"]
STAGES = {
    "vit_token_small": [*PLAIN[:3], "blocks.2", *PLAIN[3:]],
    "vit_prelogits_small": PLAIN,
    "vit_gap_small": PLAIN,
    "vit_nonsquare_small": PLAIN,
    "vit_token_unpooled_small": PLAIN,
    "hybrid_no_stage": ["stem.conv", "stem.norm", *PLAIN],
    "hybrid_small": ["stem.conv", "stem.norm", "stages.0", "stages.1", "stages.2", *PLAIN],
}
SIZES = {"vit_nonsquare_small": (24, 40), "vit_token_unpooled_small": (36, 36)}
TOKEN, TOKEN_IO = REFERENCE / "vit_token_small.npz", REFERENCE / "vit_token_small.io.npz"
TINY = ViTConfig(
    image_size=(24, 24),
    patch_size=(8, 8),
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_dim=32,
    num_classes=5,
)


def names(report: ParityReport) -> list[str]:
    return [stage.name for stage in report.stages]


def departure(report: ParityReport) -> str:
    assert report.first_departure is not None
    return report.first_departure.name


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def tiny_bundle(config: ViTConfig = TINY) -> ModelBundle:
    model = VisionTransformer(config)
    randomise(model, seed=5)
    return ModelBundle(model, None, None, None, None, "tiny")


# What agrees


@pytest.mark.parametrize("name", STAGES)
def test_reference_weights_compute_the_recorded_outputs(name: str) -> None:
    report = verify(REFERENCE / f"{name}.npz", REFERENCE / f"{name}.io.npz")
    assert report.agrees, report
    assert names(report) == STAGES[name]
    assert report.stages[-1].delta <= (1e-4 if name == "hybrid_small" else 1e-5)


@pytest.mark.parametrize("name", STAGES)
def test_reference_weights_compute_the_oracle(name: str) -> None:
    report = verify(REFERENCE / f"{name}.npz", image_size=SIZES.get(name))
    assert report.agrees, report
    assert names(report) == STAGES[name]
    assert "float64" in report.against


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "gelu", "norm_eps": 1e-5},
        {"pool": "gap", "class_token": True},
        {"num_classes": 0},
        {"num_classes": 0, "representation_size": 6},
        {"in_channels": 1, "image_size": (24, 41)},
    ],
)
def test_a_model_in_memory_agrees_and_is_left_as_it_was(changes: dict[str, Any]) -> None:
    bundle = tiny_bundle(TINY.replace(**changes))
    bundle.model.to(torch.float64).train()
    report = verify(bundle)
    assert report.agrees, report
    assert names(report) == (PLAIN if changes.get("num_classes", 5) else PLAIN[:-1])
    assert bundle.model.training
    assert bundle.model.pos_embed.dtype == torch.float64
    assert not any(module._forward_hooks for module in bundle.model.modules())


def test_other_image_size_resizes_the_stored_positions() -> None:
    report = verify(TOKEN, image_size=48)
    assert report.agrees, report


def test_other_names_in_a_npz_are_understood(tmp_path: Path) -> None:
    arrays = arrays_of(REFERENCE / "vit_gap_small.npz")
    arrays["pos_embedding"] = arrays.pop("Transformer/posembed_input/pos_embedding")
    write_npz(tmp_path / "big_vision.npz", arrays.items())
    assert verify(tmp_path / "big_vision.npz", REFERENCE / "vit_gap_small.io.npz").agrees
    assert verify(tmp_path / "big_vision.npz").agrees


def test_pictures_are_compared_on_too(pictures: Path) -> None:
    files = sorted((pictures / "val").rglob("*.png"))[:2]
    report = verify(TOKEN, pictures=files)
    assert report.agrees, report
    assert report.inputs == "2 random pictures and 2 given"
    alone = verify(TOKEN)
    assert all(
        with_pictures.scale >= stage.scale
        for with_pictures, stage in zip(report.stages, alone.stages, strict=True)
    )
    assert report.stages != alone.stages


def test_what_is_recorded_is_compared_and_no_more(tmp_path: Path) -> None:
    recorded = arrays_of(TOKEN_IO)
    some = {key: recorded[key] for key in ("input", "encoded", "logits")}
    write_npz(tmp_path / "io.npz", some.items())
    assert names(verify(TOKEN, tmp_path / "io.npz")) == ["encoded", "logits"]


# What departs, and where


@pytest.mark.parametrize(
    ("name", "changes", "stem", "first"),
    [
        ("vit_token_small", {"activation": "gelu"}, {}, "blocks.0"),
        ("vit_gap_small", {"activation": "gelu"}, {}, "blocks.0"),
        ("vit_token_small", {"norm_eps": 1e-5}, {}, "blocks.0"),
        ("vit_token_small", {"norm_eps": 1e-12}, {}, "blocks.0"),
        ("vit_token_small", {"pool": "gap", "class_token": True}, {}, "pre_logits"),
        ("hybrid_small", {"activation": "gelu"}, {}, "blocks.0"),
        ("hybrid_small", {}, {"norm_eps": 1e-5}, "stages.0"),
        ("hybrid_small", {}, {"weight_eps": 1e-8, "eps_under_root": True}, "stem.conv"),
        ("hybrid_no_stage", {}, {"weight_eps": 1e-8, "eps_under_root": True}, "stem.conv"),
    ],
)
def test_wrong_numerics_depart_where_they_act(
    name: str, changes: dict[str, Any], stem: dict[str, Any], first: str, tmp_path: Path
) -> None:
    right = load_model(REFERENCE / f"{name}.npz")
    config = right.config.replace(**changes)
    if stem:
        assert config.resnet is not None
        config = config.replace(resnet=replace(config.resnet, **stem))
    wrong = VisionTransformer(config)
    wrong.load_state_dict(right.state_dict())
    save_model(wrong, tmp_path / "wrong.safetensors")
    report = verify(tmp_path / "wrong.safetensors", REFERENCE / f"{name}.io.npz")
    assert departure(report) == first
    assert not report.stages[-1].agrees
    # It computes what it says: only what it says is wrong.
    assert verify(tmp_path / "wrong.safetensors").agrees


def swap_query_and_key(arrays: dict[str, np.ndarray]) -> None:
    attention = "Transformer/encoderblock_2/MultiHeadDotProductAttention_1/"
    for part in ("kernel", "bias"):
        query, key = (f"{attention}{which}/{part}" for which in ("query", "key"))
        arrays[query], arrays[key] = arrays[key], arrays[query]


def perturb(key: str, by: float = 1e-3) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[key].flat[0] += by

    return change


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (swap_query_and_key, "blocks.2"),
        (perturb("embedding/kernel"), "embedding"),
        (perturb("Transformer/posembed_input/pos_embedding"), "embedding"),
        (perturb("Transformer/encoderblock_1/MlpBlock_3/Dense_1/bias"), "blocks.1"),
        (perturb("Transformer/encoder_norm/scale"), "encoded"),
        (perturb("head/bias"), "logits"),
    ],
)
def test_other_weights_than_the_recorded_depart(
    change: Callable[[dict[str, np.ndarray]], None], first: str, tmp_path: Path
) -> None:
    arrays = arrays_of(TOKEN)
    change(arrays)
    write_npz(tmp_path / "changed.npz", arrays.items())
    assert departure(verify(tmp_path / "changed.npz", TOKEN_IO)) == first


def test_weights_read_wrongly_depart_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle takes its arrays from the file: what happens on their way to the model shows."""

    def load_wrongly(*arguments: Any) -> ModelBundle:
        bundle = load_bundle(*arguments)
        with torch.no_grad():
            query, key, _ = bundle.model.blocks[1].attn.qkv.weight.chunk(3)
            query[:], key[:] = key.clone(), query.clone()
        return bundle

    monkeypatch.setattr("vit_lightning.parity.verify.load_bundle", load_wrongly)
    report = verify(TOKEN)
    assert departure(report) == "blocks.1"
    assert report.stages[0].agrees


def test_a_wrong_forward_pass_departs() -> None:
    bundle = tiny_bundle()
    for block in bundle.model.blocks:
        block.mlp.act = torch.nn.GELU()  # where the configuration says tanh
    assert departure(verify(bundle)) == "blocks.0"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_departs(value: float) -> None:
    bundle = tiny_bundle()
    with torch.no_grad():
        bundle.model.blocks[1].mlp.fc2.bias[0] = value
    report = verify(bundle)
    assert departure(report) == "blocks.1"
    assert "no finite number" in str(report)
    assert not Stage("logits", 0.0, float("inf"), float("inf")).agrees
    assert not Stage("logits", float("nan"), 1.0, 1.0).agrees


def test_the_report_is_a_table_that_names_the_first_departure() -> None:
    stages = (
        Stage("embedding", 1e-7, 2.5, 5e-5),
        Stage("blocks.0", 3e-4, 4.0, 8e-5),
        Stage("logits", 2e-4, 1.0, 2e-5),
    )
    report = ParityReport("my.npz", "an oracle", "2 random pictures", stages)
    assert not report.agrees
    lines = str(report).splitlines()
    assert lines[:3] == ["my.npz", "against an oracle", "on 2 random pictures"]
    table = {line.split()[0]: line for line in lines if line}
    assert re.fullmatch(r"embedding +1.0e-07 +5.0e-05 +2.5", table["embedding"])
    assert re.fullmatch(r"blocks.0 +3.0e-04 +8.0e-05 +4  departs", table["blocks.0"])
    assert "first at blocks.0, by 3.0e-04 where 8.0e-05 is allowed" in lines[-1]
    agreed = replace(report, stages=stages[:1])
    assert agreed.agrees
    assert agreed.first_departure is None
    assert "agree" in str(agreed)


# What is refused


def test_recorded_outputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no array 'input'"):
        verify(TOKEN, TOKEN)
    with pytest.raises(InputError, match=r"nothing\.npz.*no such file.*timm or transformers"):
        verify(TOKEN, tmp_path / "nothing.npz")
    with pytest.raises(InputError, match="give it no pictures"):
        verify(TOKEN, TOKEN_IO, pictures=[tmp_path / "a.png"])
    with pytest.raises(InputError, match="leave image_size out"):
        verify(TOKEN, TOKEN_IO, image_size=64)
    with pytest.raises(InputError, match="different models"):
        verify(TOKEN, REFERENCE / "vit_gap_small.io.npz")
    recorded = arrays_of(TOKEN_IO)
    write_npz(tmp_path / "io.npz", [("input", recorded["input"])])
    with pytest.raises(InputError, match="no stage to compare"):
        verify(TOKEN, tmp_path / "io.npz")
    write_npz(tmp_path / "io.npz", (recorded | {"input": recorded["input"][:0]}).items())
    with pytest.raises(InputError, match="no array 'input'"):
        verify(TOKEN, tmp_path / "io.npz")
    write_npz(tmp_path / "io.npz", (recorded | {"block_outputs": np.zeros(())}).items())
    with pytest.raises(InputError, match=r"blocks\.0 is an array of"):
        verify(TOKEN, tmp_path / "io.npz")


def test_a_recorded_stage_that_the_model_lacks_is_no_agreement(tmp_path: Path) -> None:
    arrays = {key: array for key, array in arrays_of(TOKEN).items() if "head" not in key}
    write_npz(tmp_path / "headless.npz", arrays.items())
    with pytest.raises(InputError, match="has logits, which the model has not"):
        verify(tmp_path / "headless.npz", TOKEN_IO)


def test_a_model_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="load its weights for that image_size"):
        verify(tiny_bundle(), image_size=32)


def test_an_input_of_other_channels_is_refused(tmp_path: Path) -> None:
    recorded = arrays_of(TOKEN_IO) | {"input": np.zeros((1, 32, 32, 1), np.float32)}
    write_npz(tmp_path / "io.npz", recorded.items())
    with pytest.raises(InputError, match="1, 32, 32"):
        verify(TOKEN, tmp_path / "io.npz")


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=f"pip install {library}"):
        verify(tiny_bundle(), library)


def test_a_broken_torchvision_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(InputError, match=r"nms does not exist.*belongs to torch 2"):
        verify(tiny_bundle(), "timm")


# The command


def test_the_command_prints_the_report(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = pictures / "val" / "cat" / "0.png"
    size = ["--image-size", "32", "32"]
    assert main(["verify", str(TOKEN), "--picture", str(picture), *size]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{verify(TOKEN, pictures=[picture])}\n"
    arrays = arrays_of(TOKEN)
    perturb("head/bias")(arrays)
    write_npz(tmp_path / "changed.npz", arrays.items())
    changed = str(tmp_path / "changed.npz")
    assert main(["verify", changed, "--against", str(TOKEN_IO)]) == 1
    assert "They depart first at logits" in capsys.readouterr().out
