"""One side of ``models.py``: a model of one library, run when it is asked to.

Arguments: the side, the folder of weights and of the model's configuration, the precision, the
mode, the device, and whether to compile or to keep less for the backward pass. Asked with a batch
size and a number of steps it answers with the seconds of each; with a batch size alone, with the
logits of seeded pictures, if it has the weights of the others; with nothing, with the most bytes
that it has held since it was asked so.
"""

import argparse
import importlib
import json
import math
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

import vit_lightning
from vit_lightning.export import PICTURES
from vit_lightning.machine_limits import wait_for
from vit_lightning.models.config import ViTConfig
from vit_lightning.waiting import threads_wait_while_alone

CONFIG = "model.json"  # beside the weights: the fields of ViTConfig

# Where each side's weights lie, and what it is made of.
WEIGHTS = {
    "vit-lightning": "ours.safetensors",
    "timm": "timm",
    "transformers": "huggingface",
    "torchvision": "torchvision.pth",
    "vit-lightning, onnxruntime": "ours.onnx",
    "vit-lightning, openvino": "ours.onnx",
    "timm, onnxruntime": "timm.onnx",
    "timm, openvino": "timm.onnx",
}
# Those on another engine are that library's model, exported.
PACKAGES = {"vit-pytorch": "vit-pytorch"} | {side: side.rpartition(", ")[2] for side in WEIGHTS}
SHARES_WEIGHTS = frozenset(WEIGHTS)
INFERENCE_ONLY = frozenset(side for side in WEIGHTS if ", " in side)

Predict = Callable[[Tensor], Tensor]


def _vit_lightning(options: argparse.Namespace, path: Path) -> nn.Module:
    from vit_lightning.factory import load_model
    from vit_lightning.memory import keep_freed_memory

    keep_freed_memory()  # as every run on a CPU does
    return load_model(path)


def timm_model(options: argparse.Namespace, path: Path) -> Any:
    """The model of timm itself, with weights that were written for it."""
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
        image_size=config.image_size[0],
        patch_size=config.patch_size[0],
        num_layers=config.depth,
        num_heads=config.num_heads,
        hidden_dim=config.embed_dim,
        mlp_dim=config.mlp_dim,
        num_classes=config.num_classes,
    )
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def _vit_pytorch(options: argparse.Namespace, path: Path) -> Any:
    config = _config(options)
    return importlib.import_module("vit_pytorch").ViT(
        image_size=config.image_size[0],
        patch_size=config.patch_size[0],
        num_classes=config.num_classes,
        dim=config.embed_dim,
        depth=config.depth,
        heads=config.num_heads,
        mlp_dim=config.mlp_dim,
        dim_head=config.embed_dim // config.num_heads,
    )


def _onnxruntime(options: argparse.Namespace, path: Path) -> Predict:
    library = importlib.import_module("onnxruntime")
    session = library.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {PICTURES: x.numpy()})[0])


def _openvino(options: argparse.Namespace, path: Path) -> Predict:
    library = importlib.import_module("openvino")
    precision = {"fp32": "f32", "bf16": "bf16"}[options.precision]
    compiled = library.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda x: torch.from_numpy(np.asarray(compiled(x.numpy())[0]))


BUILDERS: dict[str, Callable[[argparse.Namespace, Path], Any]] = {
    "vit-lightning": _vit_lightning,
    "timm": timm_model,
    "transformers": _transformers,
    "torchvision": _torchvision,
    "vit-pytorch": _vit_pytorch,
    "vit-lightning, onnxruntime": _onnxruntime,
    "vit-lightning, openvino": _openvino,
    "timm, onnxruntime": _onnxruntime,
    "timm, openvino": _openvino,
}


def _config(options: argparse.Namespace) -> ViTConfig:
    return ViTConfig.from_dict(json.loads((options.weights / CONFIG).read_text(encoding="utf-8")))


def predicting(model: nn.Module, precision: str, device: str) -> Predict:
    """Pictures → logits, as an evaluation computes them."""

    def predict(x: Tensor) -> Tensor:
        lower = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), lower:
            logits: Tensor = model(x)
        return logits.float()

    return predict


def training(model: nn.Module, precision: str, device: str) -> Predict:
    """Pictures → the loss of a step with SGD and momentum."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, fused=True)

    def step(x: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        labels = torch.arange(len(x), device=x.device) % logits.shape[1]
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def seconds_of_steps(run: Predict, pictures: Tensor, steps: int) -> list[float]:
    """Of each step; on a GPU, which is led from afar, their mean after one that does not count."""
    together = 1
    if pictures.is_cuda:
        steps, together = 1, steps
        run(pictures)  # takes anew the memory that the last turn gave back
    seconds = []
    for _ in range(steps):
        wait_for(pictures.device.type)
        start = time.perf_counter()
        for _ in range(together):
            run(pictures)
        wait_for(pictures.device.type)
        seconds.append((time.perf_counter() - start) / together)
    if pictures.is_cuda:
        torch.cuda.empty_cache()  # the other sides need it
    return seconds


def peak_bytes(device: str) -> int:
    """The most memory held since the last call: of the GPU, or of this process (Linux)."""
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is now's, proc(5)
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=list(BUILDERS))
    parser.add_argument("weights", type=Path)
    parser.add_argument("precision", choices=["fp32", "bf16"])
    parser.add_argument("mode", choices=["inference", "training"])
    parser.add_argument("device", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--selective", action="store_true", help="ours: GELUs are computed again")
    options = parser.parse_args()
    declared = declare_operators()
    torch.manual_seed(0)
    path = options.weights / WEIGHTS.get(options.side, "")
    model = BUILDERS[options.side](options, path)
    if isinstance(model, nn.Module):
        train = options.mode == "training"
        if options.selective:
            model.activation_checkpointing = "selective"
        model = model.train(train).to(options.device)
        network: Any = torch.compile(model, dynamic=False) if options.compile else model
        run = (training if train else predicting)(network, options.precision, options.device)
    else:
        run = model

    config = _config(options)

    def respond(question: list[int]) -> list[float]:
        if not question:
            return [peak_bytes(options.device)]
        shape = (question[0], config.in_channels, *config.image_size)
        if len(question) == 1:
            pictures = torch.linspace(-1, 1, math.prod(shape)).view(shape)
            return run(pictures.to(options.device)).flatten().tolist()
        pictures = torch.rand(shape) * 2 - 1
        return seconds_of_steps(run, pictures.to(options.device), question[1])

    package = PACKAGES[options.side]
    own = vit_lightning.__version__ if package == "vit-lightning" else version(package)
    as_vit = package == "vit-lightning" and options.mode == "training" and options.device == "cpu"
    with threads_wait_while_alone(on_cpu=as_vit):
        answer({"torch": torch.__version__, options.side: own}, respond)
    del declared


if __name__ == "__main__":
    main()
