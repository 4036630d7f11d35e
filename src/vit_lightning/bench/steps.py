"""The steps that are timed: forward passes, or updates of the weights."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_lightning.backend import Backend, Purpose, choose_backend, with_backend
from vit_lightning.bench.parts import Stopwatch
from vit_lightning.dense import computed_by_onednn
from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.precision import exact_convolutions
from vit_lightning.settings import OptimSettings
from vit_lightning.training.optim import build_optimizer

_TOO_LITTLE_MEMORY = re.compile("not enough memory|allocate memory|Storage size .* overflow")
DTYPES = {"32": torch.float32, "bf16-mixed": torch.bfloat16}

_RATE = 1e-4  # small: the weights stay finite whatever the pictures are
_MEMINFO = Path("/proc/meminfo")

Step = Callable[[Stopwatch | None], None]
"""Computes once; a stopwatch is told where it is."""


class Steps:
    """Steps of a model on random pictures, which lie on the device from the start.

    The dense layers are computed as ``vit train`` and ``vit predict`` have them computed here.

    Args:
        model: on its device.
        mode: ``inference`` or ``training``: the paper's recipe, clipping and SGD with momentum.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, model: VisionTransformer, mode: str, device: str) -> None:
        self.model, self.mode, self.device = model.train(mode == "training"), mode, device
        self._networks: dict[str, VisionTransformer] = {}
        recipe = OptimSettings(lr=_RATE)
        self._clip_norm = recipe.clip_norm or float("inf")
        if mode == "training":
            self._optimizer = build_optimizer(model, recipe, "32")

    def backend(self, precision: str) -> Backend:
        """What computes the dense layers."""
        purpose: Purpose = "training" if self.mode == "training" else "inference"
        return choose_backend(
            "auto", purpose, self.model.config, on_cpu=self.device == "cpu", dtype=DTYPES[precision]
        )

    def network(self, precision: str) -> VisionTransformer:
        """The model in the form that computes in a precision."""
        if self.mode == "training":
            return self.model
        if precision not in self._networks:
            backend = self.backend(precision)
            packed = with_backend(self.model, backend, dtype=DTYPES[precision])
            self._networks[precision] = packed
        return self._networks[precision]

    @contextmanager
    def trained_by(self, backend: Backend) -> Iterator[None]:
        """Let a backend compute the dense layers of training steps while the block runs."""
        by_onednn = self.mode == "training" and backend == "onednn"
        with computed_by_onednn(self.model) if by_onednn else nullcontext():
            yield

    def of(
        self, batch: int, precision: str, model: Callable[[Tensor], Tensor] | None = None
    ) -> Step:
        """A step on so many pictures, in ``32`` or ``bf16-mixed``.

        Args:
            batch: pictures of a step.
            precision: in Lightning's words.
            model: the same model in another form, such as compiled.
        """
        config = self.model.config
        refuse_more_than_fits(config, batch, self.mode, self.device)
        pictures = torch.randn(batch, config.in_channels, *config.image_size, device=self.device)
        lower = torch.autocast(self.device, torch.bfloat16, enabled=precision == "bf16-mixed")
        network = model or self.network(precision)

        def predict(watch: Stopwatch | None) -> None:
            with torch.inference_mode(), exact_convolutions(), lower:
                network(pictures)

        def update(watch: Stopwatch | None) -> None:
            with lower:
                outputs = network(pictures)
            scores = outputs.float().flatten(0, -2)
            labels = torch.arange(len(scores), device=self.device) % scores.shape[1]
            loss = F.cross_entropy(scores, labels)
            tell(watch, "backward")
            loss.backward()  # type: ignore[no-untyped-call]
            tell(watch, "optimizer")
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()

        return update if self.mode == "training" else predict


def tell(watch: Stopwatch | None, part: str) -> None:
    """Tell a stopwatch, if there is one, what begins."""
    if watch is not None:
        watch.switch(part)


@contextmanager
def said_plainly(batch: int, device: str) -> Iterator[None]:
    """Answer too little memory with the batch that is too large for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not _TOO_LITTLE_MEMORY.search(str(error)):
            raise
        raise _too_large(batch, "the GPU" if device != "cpu" else "this machine") from None


def refuse_more_than_fits(config: ViTConfig, batch: int, mode: str, device: str) -> None:
    """Refuse a batch before Linux ends the process for it.

    What is counted is less than what a step needs: the pictures, and of the tokens what one block
    holds at once, or in training what every block keeps for the backward pass.

    Raises:
        InputError: not even that much memory is free.
    """
    if device != "cpu" or not _MEMINFO.exists():
        return
    dim, mlp = config.embed_dim, config.mlp_dim
    pictures = config.in_channels * config.image_size[0] * config.image_size[1]
    tokens = config.num_tokens * (2 * dim + mlp)
    if mode == "training":
        tokens = config.depth * config.num_tokens * (6 * dim + 2 * mlp)
    free = re.search(r"MemAvailable: *(\d+) kB", _MEMINFO.read_text(encoding="utf-8"))
    # Two bytes a value of the blocks: they may be bfloat16.
    if free is not None and batch * (4 * pictures + 2 * tokens) > int(free[1]) * 1024:
        raise _too_large(batch, "this machine")


def _too_large(batch: int, where: str) -> InputError:
    fewer = "lower --batch, or " if batch > 1 else ""
    return InputError(
        f"--batch {batch}: the memory of {where} is too small for this; {fewer}"
        f"take a smaller model or --image-size"
    )
