"""A training's forward pass, compiled; and when that repays itself."""

from typing import Any

import torch
from torch import Tensor

from vit_lightning.console import say
from vit_lightning.errors import InputError
from vit_lightning.machine_limits import matrix_limit
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer

# Compiling a ViT takes about a minute, and saves perhaps a sixth of each step afterwards.
_REPAYS_AFTER = 15 * 60.0  # seconds
_SHARE_OF_LIMIT = 0.5  # of the rate of large products that a training reaches, about


def repays_compiling(
    config: ViTConfig, pictures: int, micro_batch: int, dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether a training is so long that compiling it first makes it shorter.

    Only on a CUDA GPU: elsewhere a compiler may be missing, and the gain is small.

    Args:
        config: of the model.
        pictures: that this device computes in the whole run, each time that it does.
        micro_batch: at once.
        dtype: of the products of matrices.
        device: that computes.
    """
    if device.type != "cuda":
        return False
    limit = matrix_limit(config, micro_batch, dtype, repeats=2, device="cuda").seconds("training")
    return limit / _SHARE_OF_LIMIT * pictures / micro_batch > _REPAYS_AFTER


class CompiledForward:
    """A model's forward pass, compiled at its first call.

    It shares the model's weights and is no module: names in checkpoints stay. Everything but the
    training step keeps to the model itself.

    Args:
        model: to compile.
        fixed: whether the user asks for it. Otherwise, where torch cannot compile, it is said and
            the model computes as it is.
    """

    def __init__(self, model: VisionTransformer, *, fixed: bool) -> None:
        self._model = model
        self._fixed = fixed
        self._forward: Any = torch.compile(model.forward)
        self._tried = False

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, height, width) → (B, classes).

        Raises:
            InputError: torch cannot compile the model here, and the user asks for it.
        """
        if self._tried:
            return self._forward(images)  # type: ignore[no-any-return]
        try:
            logits: Tensor = self._forward(images)
        except RuntimeError as error:
            if not _is_of_compiler(error):
                raise
            self._give_up(error)
            logits = self._forward(images)
        self._tried = True
        return logits

    def _give_up(self, error: RuntimeError) -> None:
        reason = str(error).strip().partition("\n")[0]
        if self._fixed:
            raise InputError(
                f"trainer.compile: torch cannot compile the model on this machine; set it to "
                f"false, or to auto. It said: {reason}"
            ) from None
        say(f"compile    torch cannot compile on this machine, goes on without: {reason}")
        self._forward = self._model.forward


def _is_of_compiler(error: RuntimeError) -> bool:
    compiler = ("torch._dynamo", "torch._inductor")
    return any(kind.__module__.startswith(compiler) for kind in type(error).__mro__)
