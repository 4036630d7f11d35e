"""How much memory a step of training takes, told without taking it."""

import itertools
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vit_lightning.models.vit import VisionTransformer
from vit_lightning.settings import OptimSettings


@dataclass(frozen=True)
class Footprint:
    """Bytes of a training step at its peak, beside the weights.

    Args:
        fixed: whatever the number of pictures: gradients, the optimizer's state.
        per_picture: of each picture of a micro-batch.
    """

    fixed: int
    per_picture: int

    def most_pictures(self, free: int) -> int:
        """How many pictures fit into some bytes; less than one if none does."""
        return (free - self.fixed) // max(self.per_picture, 1)


def measure_footprint(model: VisionTransformer, optim: OptimSettings, precision: str) -> Footprint:
    """What a forward and a backward pass keep at most, over their operations.

    Both are run with one and with two pictures of tensors that have shapes and no contents, which
    takes no memory and, for a model of any size, about a second.

    Args:
        model: as it is trained, on the CPU; it is left as it is.
        optim: the recipe.
        precision: of the training, in Lightning's words.
    """
    # With one picture some copies would be views.
    two, four = (_alive(model, count, precision) for count in (2, 4))
    per_picture = max(more - less for less, more in zip(two, four, strict=True)) // 2
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return Footprint(round(trained * (1 + _state_share(optim))), per_picture)


def _state_share(optim: OptimSettings) -> float:
    """The optimizer's state, in multiples of the weights it updates."""
    if optim.name == "adamw":
        return 2.0
    return 0.5 if optim.momentum_dtype == "bfloat16" else 1.0


def _alive(model: VisionTransformer, count: int, precision: str) -> list[int]:
    """After each operation of a step the bytes of all tensors alive, without the weights."""
    config = model.config
    mixed = precision in {"bf16-mixed", "16-mixed"}
    alive = _Alive()
    with FakeTensorMode() as fake, alive:
        step = _Step(model)
        state: dict[str, Tensor] = {
            name: fake.from_tensor(value)
            for name, value in itertools.chain(step.named_parameters(), step.named_buffers())
        }
        images = torch.empty(count, config.in_channels, *config.image_size)
        if precision == "bf16-true":
            images = images.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            functional_call(step, state, (images,))
    return alive.history


class _Step(nn.Module):
    """Both passes in one call: the backward pass, too, may look for the weights in the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        """Pictures (B, in_channels, height, width) of any contents."""
        self.model(images).float().square().sum().backward()


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations make, until they are gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.history: list[int] = []
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.history.append(self.now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, nbytes = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            del self._known[key]
            self.now -= nbytes

        self._known[key] = weakref.ref(storage, gone)
        self.now += nbytes
