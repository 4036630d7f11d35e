"""What of a model is trained, when, and how fast: probes, the last blocks, low-rank updates."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vit_lightning.errors import InputError
from vit_lightning.models.lora import add_lora, is_factor
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.settings import AdaptSettings, LoRASettings

_HEAD = "head."


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter, as BEiT's and MAE's fine-tuning count them.

    Args:
        name: of a parameter of a :class:`VisionTransformer`.
        depth: its blocks.

    Returns:
        0 for the embeddings, i + 1 for block i, depth + 1 for the last norm, ``pre_logits`` and
        the head.
    """
    first, *rest = name.split(".")
    if first == "blocks":
        return int(rest[0]) + 1
    return 0 if first in {"patch_embed", "cls_token", "pos_embed"} else depth + 1


class Adaptation:
    """Readies a model for a method, and knows what of it each step trains.

    What lies below the first trained layer runs as in evaluation, without dropout and drop path:
    they would be noise that nothing learns to live with. No gradients pass there, nothing is kept
    for them, and of random pictures only the augmentation makes different ones.

    Args:
        model: changed in place: layers get low-rank updates, parameters are frozen.
        settings: the method.
        total_steps: optimizer steps of the run.
        seed: of the first values of low-rank updates.

    Raises:
        InputError: the method does not go with the model, or with the length of the run.
    """

    def __init__(
        self, model: VisionTransformer, settings: AdaptSettings, total_steps: int, seed: int = 0
    ) -> None:
        if settings.head_first_steps >= total_steps:
            raise InputError(
                f"adapt.head_first_steps: the head alone for {settings.head_first_steps} steps "
                f"leaves none of the run's {total_steps} for the rest; lower it, or take "
                f"adapt.method linear"
            )
        self.settings = settings
        self._model = model
        self._depth = len(model.blocks)
        if settings.method != "full":
            self._freeze(seed)
        trained = [name for name, item in model.named_parameters() if item.requires_grad]
        self._first_trained = min(
            (layer_of(name, self._depth) for name in trained), default=self._depth + 1
        )

    def _freeze(self, seed: int) -> None:
        settings, model = self.settings, self._model
        if settings.method == "lora":
            lora = settings.lora or LoRASettings()
            try:
                add_lora(model.blocks, seed=seed, **lora.model_dump())
            except InputError as error:
                raise InputError(f"adapt.lora.rank: {error}") from error
        last = settings.last_blocks
        if last is not None and last > self._depth:
            raise InputError(
                f"adapt.method: {settings.method} trains more blocks than the model's "
                f"{self._depth}; take at most last-{self._depth}, or full"
            )
        for name, parameter in model.named_parameters():
            if last is not None:
                trained = layer_of(name, self._depth) > self._depth - last
            else:
                trained = name.startswith(_HEAD) or is_factor(name)
            parameter.requires_grad_(trained)

    def rate_scale(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by; 1 for the head."""
        return self.settings.layer_decay ** (self._depth + 1 - layer_of(name, self._depth))

    def waits(self, name: str) -> bool:
        """Whether a parameter is trained, but not from the first step on."""
        return self.settings.head_first_steps > 0 and not name.startswith(_HEAD)

    def trains_head_alone(self, step: int) -> bool:
        """Whether update number ``step``, counted from 0, is the head's alone."""
        return self.settings.method == "linear" or step < self.settings.head_first_steps

    def set_modes(self, step: int) -> None:
        """Put into training mode what update ``step`` trains and all above, the rest out of it."""
        if not self.settings.needs_weights:
            return
        first = self._depth + 1 if self.trains_head_alone(step) else self._first_trained
        model = self._model.train()
        if first > 0:
            model.patch_embed.eval()
            model.dropout.eval()
        for block in model.blocks[: max(first - 1, 0)]:
            block.eval()

    def waiting(self) -> list[nn.Parameter]:
        """The parameters that wait while the head alone is trained."""
        return [
            parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad and self.waits(name)
        ]


def logits_of_head_alone(model: VisionTransformer, images: Tensor) -> Tensor:
    """(B, C, height, width) → (B, classes), with gradients of the head and of nothing else."""
    with torch.no_grad():
        representation = model.representation(images)
    return model.head(representation)  # type: ignore[no-any-return]


def with_zero_gradients(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The same loss, of which ``parameters`` have gradients too, of zeros.

    Processes that train together wait for a gradient of everything that was not frozen when they
    were connected.
    """
    return loss + 0.0 * sum(item.flatten()[0].float() for item in parameters)
