"""One side of ``models.py``: a model of one library, run when it is asked to.

Arguments: the side, the folder of weights, the name of the model, its size in pixels, the precision
and the mode. Asked with a batch size and a number of steps it answers with the seconds of each;
with a batch size alone, with the logits of seeded pictures, if it has the weights of the others.
"""

import argparse
import importlib
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision_import import declare_operators
from turns import answer

CLASSES = 1000

# Where each side's weights lie, and what it is made of.
WEIGHTS = {
    "vit-lightning": "ours.safetensors",
    "timm": "timm",
    "transformers": "huggingface",
    "torchvision": "torchvision.pth",
    "onnxruntime": "model.onnx",
    "openvino": "model.onnx",
}
PACKAGES = {"vit-pytorch": "vit-pytorch"} | {side: side for side in WEIGHTS}
SHARES_WEIGHTS = frozenset(WEIGHTS)
INFERENCE_ONLY = frozenset(["onnxruntime", "openvino"])

Predict = Callable[[Tensor], Tensor]


def _vit_lightning(options: argparse.Namespace, path: Path) -> nn.Module:
    from vit_lightning.factory import load_model
    from vit_lightning.memory import keep_freed_memory

    keep_freed_memory()  # as every run on a CPU does
    return load_model(path)


def _timm(options: argparse.Namespace, path: Path) -> Any:
    return importlib.import_module("timm").create_model(f"local-dir:{path}", pretrained=True)


def _transformers(options: argparse.Namespace, path: Path) -> Any:
    library = importlib.import_module("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    model = library.AutoModelForImageClassification.from_pretrained(path, local_files_only=True)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model(x).logits
            return logits

    return Logits()


def _torchvision(options: argparse.Namespace, path: Path) -> Any:
    models = importlib.import_module("torchvision.models")
    config = _config(options)
    model = models.VisionTransformer(
        image_size=options.size,
        patch_size=config.patch_size[0],
        num_layers=config.depth,
        num_heads=config.num_heads,
        hidden_dim=config.embed_dim,
        mlp_dim=config.mlp_dim,
        num_classes=CLASSES,
    )
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def _vit_pytorch(options: argparse.Namespace, path: Path) -> Any:
    config = _config(options)
    return importlib.import_module("vit_pytorch").ViT(
        image_size=options.size,
        patch_size=config.patch_size[0],
        num_classes=CLASSES,
        dim=config.embed_dim,
        depth=config.depth,
        heads=config.num_heads,
        mlp_dim=config.mlp_dim,
        dim_head=config.embed_dim // config.num_heads,
    )


def _onnxruntime(options: argparse.Namespace, path: Path) -> Predict:
    library = importlib.import_module("onnxruntime")
    session = library.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (wanted.name for wanted in session.get_inputs())
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _openvino(options: argparse.Namespace, path: Path) -> Predict:
    library = importlib.import_module("openvino")
    precision = {"fp32": "f32", "bf16": "bf16"}[options.precision]
    compiled = library.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda x: torch.from_numpy(np.asarray(compiled(x.numpy())[0]))


BUILDERS: dict[str, Callable[[argparse.Namespace, Path], Any]] = {
    "vit-lightning": _vit_lightning,
    "timm": _timm,
    "transformers": _transformers,
    "torchvision": _torchvision,
    "vit-pytorch": _vit_pytorch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _config(options: argparse.Namespace) -> Any:
    return importlib.import_module("vit_lightning.models.presets").preset(options.model)


def predicting(model: nn.Module, precision: str) -> Predict:
    """Pictures → logits, as an evaluation computes them."""

    def predict(x: Tensor) -> Tensor:
        lower = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), lower:
            logits: Tensor = model(x)
        return logits.float()

    return predict


def training(model: nn.Module, precision: str) -> Predict:
    """Pictures → the loss of a step with SGD and momentum."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, fused=True)

    def step(x: Tensor) -> Tensor:
        labels = torch.arange(len(x)) % CLASSES
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser()
    for name in ("side", "weights", "model", "size", "precision", "mode"):
        parser.add_argument(name, type=int if name == "size" else str)
    options = parser.parse_args()
    declared = declare_operators()
    torch.manual_seed(0)
    path = Path(options.weights) / WEIGHTS.get(options.side, "")
    model = BUILDERS[options.side](options, path)
    if isinstance(model, nn.Module):
        train = options.mode == "training"
        run = (training if train else predicting)(model.train(train), options.precision)
    else:
        run = model

    def respond(question: list[int]) -> list[float]:
        pictures = torch.rand(question[0], 3, options.size, options.size) * 2 - 1
        if len(question) == 1:
            pictures = torch.linspace(-1, 1, pictures.numel()).view(pictures.shape)
            return run(pictures).flatten().tolist()
        seconds = []
        for _ in range(question[1]):
            start = time.perf_counter()
            run(pictures)
            seconds.append(time.perf_counter() - start)
        return seconds

    names = {"torch": "torch", options.side: PACKAGES[options.side]}
    answer({name: version(package) for name, package in names.items()}, respond)
    del declared


if __name__ == "__main__":
    main()
