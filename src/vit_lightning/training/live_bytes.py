"""The bytes of all tensors alive after each operation of a training step."""

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vit_lightning.models.vit import VisionTransformer


def live_bytes(model: VisionTransformer, count: int, precision: str) -> list[int]:
    """What is alive after each operation of a forward and a backward pass, without the weights.

    Computed with tensors that have shapes and no contents, which takes no memory.

    Args:
        model: as it is trained, on the CPU; it is left as it is.
        count: pictures at once, at least 2: of one, some copies would be views.
        precision: of the training, in Lightning's words.
    """
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
