"""One small valid file of every kind that is read, for mutation."""

import argparse
import hashlib
import io
import json
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiny_models import arrays_of, bundle_of, random_model
from vit_lightning.checkpoints.dialects import DIALECTS, GOOGLE, TIMM, Dialect
from vit_lightning.checkpoints.native import DESCRIPTION_KEY, describe_as
from vit_lightning.convert import Target, convert_model
from vit_lightning.models.config import ResNetConfig, ViTConfig

CLASSES = ("ant", "bee", "wasp 🐝")
PREPROCESSING = {
    "mode": "squash",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "crop_fraction": 1.0,
}
PLAIN = ViTConfig(
    image_size=8, patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_dim=16, num_classes=3
)
EXACT = replace(PLAIN, activation="gelu", depth=1)
GAP = PLAIN.replace(pool="gap")
HYBRID = replace(PLAIN, image_size=(16, 16), patch_size=1, depth=1, resnet=ResNetConfig((1,), 32))
# Without a companion only the heads of published widths are known.
WIDE = replace(EXACT, embed_dim=192, num_heads=3, mlp_dim=8)


@dataclass(frozen=True)
class Seed:
    """A valid file, or folder, that is read.

    Args:
        kind: for the report.
        files: name → contents, companions included.
        target: the file to load; "." for the folder.
    """

    kind: str
    files: Mapping[str, bytes]
    target: str


def make_seeds() -> list[Seed]:
    """One of every kind, small and always the same."""
    return [
        *_npz_seeds(),
        *_torch_seeds(),
        *(_converted(kind, to, name, config) for kind, to, name, config in _CONVERTED),
        _huggingface_bin(),
    ]


_CONVERTED: tuple[tuple[str, Target, str, ViTConfig], ...] = (
    ("npz and sidecar", "google", "model.npz", EXACT),
    ("safetensors", "safetensors", "model.safetensors", PLAIN),
    ("timm folder", "timm", ".", EXACT),
    ("Hugging Face folder", "huggingface", ".", EXACT),
    ("torchvision .pth", "torchvision", "model.pth", EXACT),
)


def _state(config: ViTConfig) -> dict[str, Tensor]:
    return random_model(config).state_dict()


def _arrays(config: ViTConfig, dialect: Dialect) -> dict[str, Tensor]:
    return arrays_of(dialect, _state(config))


def _converted(kind: str, to: Target, name: str, config: ViTConfig) -> Seed:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model" if name == "." else name)
        bundle = bundle_of(random_model(config), CLASSES, dict(PREPROCESSING), {"run": "fuzz"})
        convert_model(bundle, path, to, lossy=True)
        home = path if path.is_dir() else path.parent
        files = {file.name: file.read_bytes() for file in home.iterdir()}
    return Seed(kind, _without_description(files) if name == "." else files, name)


def _without_description(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """As another library writes it: the header of its safetensors says nothing of the model."""
    data = files["model.safetensors"]
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {"format": "pt"}
    text = json.dumps(header).encode()
    return dict(files) | {
        "model.safetensors": len(text).to_bytes(8, "little") + text + data[8 + length :]
    }


def npz_bytes(arrays: Mapping[str, np.ndarray[Any, Any]], *, compressed: bool = False) -> bytes:
    """A ``.npz`` of these arrays."""
    out = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(out, allow_pickle=True, **arrays)
    return out.getvalue()


def _npz_seeds() -> Iterable[Seed]:
    google = _numbers(PLAIN, GOOGLE)
    linen = {_linen(f"opt/target/{key}"): array for key, array in google.items()}
    state = {"opt/state/step": np.array(3), "opt/state/param_states/cls/m": np.ones(4, np.float32)}
    scanned = next(d for d in DIALECTS if d.telltale[2:] == (_FIRST_OF_SCAN,))
    halves = {
        f"params/{key}": torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view("V2")
        for key, array in _numbers(GAP, scanned).items()
    }
    kinds = {
        "npz": npz_bytes(google),
        "npz, deflated": npz_bytes(google, compressed=True),
        "npz, hybrid": npz_bytes(_numbers(HYBRID, GOOGLE)),
        "npz, linen": npz_bytes(linen | state),
        "npz, big_vision": npz_bytes(halves),
    }
    return [Seed(kind, {"x.npz": data}, "x.npz") for kind, data in kinds.items()]


_FIRST_OF_SCAN = "Transformer/encoderblock/LayerNorm_0/scale[0]"
_LINEN = {
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}


def _linen(key: str) -> str:
    for old, new in _LINEN.items():
        key = key.replace(old, new)
    return key


def _numbers(config: ViTConfig, dialect: Dialect) -> dict[str, np.ndarray[Any, Any]]:
    return {key: tensor.numpy() for key, tensor in _arrays(config, dialect).items()}


def torch_bytes(contents: Any, *, legacy: bool = False) -> bytes:
    """What ``torch.save`` makes of it."""
    out = io.BytesIO()
    torch.save(contents, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def _torch_seeds() -> Iterable[Seed]:
    description = describe_as(PLAIN, CLASSES, PREPROCESSING, {"run": "fuzz"})
    ours = {
        DESCRIPTION_KEY: description,
        "state_dict": {f"model.{key}": tensor for key, tensor in _state(PLAIN).items()},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(9)}}}],
        "global_step": 3,
    }
    wide = {key: tensor.half() for key, tensor in _arrays(WIDE, TIMM).items()}
    trained = {"state_dict": wide, "epoch": 3, "args": argparse.Namespace(lr=0.1, opt="adamw")}
    jeonsworld = next(d for d in DIALECTS if d.name == "jeonsworld")
    beside = {DESCRIPTION_KEY: describe_as(EXACT, CLASSES, PREPROCESSING, None)}
    plain, ported = _arrays(EXACT, TIMM), _arrays(EXACT, jeonsworld)
    prefixed = {f"model.{key}": tensor for key, tensor in ported.items()}
    timm = _converted("", "timm", ".", EXACT).files["config.json"]
    return [
        Seed("our .ckpt", {"x.ckpt": torch_bytes(ours)}, "x.ckpt"),
        Seed("timm .pth", {"x.pth": torch_bytes(trained)}, "x.pth"),
        _with_sidecar("jeonsworld .bin", torch_bytes(ported), beside),
        _with_sidecar("jeonsworld .ckpt", torch_bytes({"state_dict": prefixed}), beside),
        _with_sidecar("old torch.save", torch_bytes(plain, legacy=True), beside),
        Seed(
            "timm folder, .bin",
            {"pytorch_model.bin": torch_bytes(OrderedDict(plain)), "config.json": timm},
            ".",
        ),
    ]


def _with_sidecar(kind: str, data: bytes, beside: dict[str, Any]) -> Seed:
    values = beside | {"sha256": hashlib.sha256(data).hexdigest()}
    return Seed(kind, {"x.bin": data, "x.bin.json": json.dumps(values).encode()}, "x.bin")


def _huggingface_bin() -> Seed:
    """As transformers wrote it before safetensors, its modules named as version 5 does."""
    live = next(d for d in DIALECTS if d.telltale[-1] == "vit.layers.0.attention.q_proj.weight")
    files = dict(_converted("", "huggingface", ".", EXACT).files)
    del files["model.safetensors"]
    data = torch_bytes(_arrays(EXACT, live))
    return Seed("Hugging Face folder, .bin", {"pytorch_model.bin": data, **files}, ".")


@cache
def donors() -> list[dict[str, Tensor]]:
    """The weights of one model under the names of several libraries, to mix with others."""
    return [_arrays(EXACT, dialect) for dialect in DIALECTS if dialect.name != "big_vision"]
