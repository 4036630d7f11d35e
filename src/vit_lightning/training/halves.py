"""A training step on a CPU in two halves of its pictures, each computed by half of the threads.

The threads of an operation meet at its end, and wait for the slowest: two times for each of some
thousand operations of a step. A half knows nothing of the other until all is computed, so that
half as many threads meet; of two threads, none. What another program takes from one of them then
holds up that half alone, and not the whole at every operation.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Barrier
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from vit_lightning.models.config import ViTConfig
from vit_lightning.models.recompute import Recomputed
from vit_lightning.models.vit import DropPath, VisionTransformer

# Multiplications for each output of a dense layer and picture token: below so many in a half, what
# it costs to call an operation twice is more than what two threads lose by meeting.
_WORTH = 10_000_000


def repays_halving(config: ViTConfig, pictures: int, device: torch.device) -> bool:
    """Whether steps are faster in halves, as measured on two cores (docs/performance.md).

    Args:
        config: of the model.
        pictures: of a micro-batch.
        device: that computes.
    """
    rows, dim = pictures * config.num_tokens, config.embed_dim
    # With as many rows as columns the second set of gradients, which is there when nothing else is
    # any more, takes no more memory than what the blocks keep for the backward pass.
    large = rows >= dim and rows // 2 * dim**2 >= _WORTH
    return device.type == "cpu" and torch.get_num_threads() > 1 and pictures > 1 and large


def can_be_halved(model: VisionTransformer, recomputed: Recomputed) -> bool:
    """Whether each half can draw numbers of its own.

    Not those of torch's fused attention, nor those of a part that the backward pass computes again:
    these come from torch's one generator for all threads, and whoever comes first has the first.

    Args:
        model: as it is trained.
        recomputed: what the backward pass computes again.
    """
    if recomputed == "full" or model.config.attention_dropout:
        return False
    return recomputed == "none" or not any(map(_drops, model.modules()))


class ForwardInHalves:
    """A model's forward pass, and behind it the backward pass, in two halves at once.

    It shares the model's weights and is no module: names in checkpoints stay. What it gives is
    what the model gives, gradients too, up to the order in which numbers are added; that order is
    the same every time. Dropout and drop path draw from generators of the halves, which are seeded
    from torch's own.

    Args:
        model: on the CPU, one that :func:`can_be_halved`.
    """

    def __init__(self, model: VisionTransformer) -> None:
        self.model = model
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, height, width) → (B, classes)."""
        return _Halves.apply(self, images, *self.model.parameters())  # type: ignore[no-any-return, no-untyped-call]

    def at_once(self, function: Callable[..., Any], *halves: Sequence[Any]) -> list[Any]:
        """What a function gives for each of two arguments, or pairs of them, in order."""
        if self._pool is None:
            self._pool = _pool_of_two()
        return list(self._pool.map(function, *halves))


def _pool_of_two() -> ThreadPoolExecutor:
    """Two threads, with half of torch's threads each."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        2, initializer=torch.set_num_threads, initargs=(max(threads // 2, 1),)
    )
    both = Barrier(2)
    list(pool.map(lambda _: both.wait(), range(2)))
    torch.set_num_threads(threads)  # theirs also counts for threads to come
    return pool


class _Halves(torch.autograd.Function):
    """Images and parameters → logits; a gradient of the gradient is refused by torch."""

    @staticmethod
    def forward(ctx: Any, halves: ForwardInHalves, images: Tensor, *parameters: Tensor) -> Tensor:
        run = _as_here(halves.model, learns=any(ctx.needs_input_grad))
        parts = images.chunk(2)
        outputs = halves.at_once(run, parts, _seeds(len(parts)))
        ctx.halves, ctx.outputs = halves, outputs
        ctx.parameters = parameters
        return torch.cat([output.detach() for output in outputs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        learnt = [item for item, needs in zip(ctx.parameters, needed, strict=True) if needs]

        def of_half(output: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(output, learnt, gradient, allow_unused=True)

        sizes = [len(output) for output in ctx.outputs]
        found = ctx.halves.at_once(of_half, ctx.outputs, torch.split(gradient, sizes))
        ctx.outputs = None
        sums = iter(_sums(found))
        return None, None, *(next(sums) if needs else None for needs in needed)


def _sums(gradients: list[tuple[Tensor | None, ...]]) -> tuple[Tensor | None, ...]:
    """The gradients of the halves, added up in the memory of the first."""
    first, *others = gradients
    for other in others:
        pairs = [pair for pair in zip(first, other, strict=True) if None not in pair]
        if pairs:
            torch._foreach_add_(*(list(tensors) for tensors in zip(*pairs, strict=True)))
    return first


def _seeds(count: int) -> list[int]:
    """Drawn from torch's own generator, which every step seeds."""
    return torch.randint(2**62, (count,)).tolist()


def _as_here(model: VisionTransformer, *, learns: bool) -> Callable[[Tensor, int], Tensor]:
    """The forward pass of a half, as the calling thread has it: in its precision."""
    mixed, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    draws = model.training and any(_draws(module) for module in model.modules())

    def run(images: Tensor, seed: int) -> Tensor:
        # Without the cache, which all threads share: each weight is used once.
        lower = torch.autocast("cpu", dtype, enabled=mixed, cache_enabled=False)
        own = _DrawnWith(seed) if draws else nullcontext()
        with torch.set_grad_enabled(learns), lower, own:
            return model(images)  # type: ignore[no-any-return]

    return run


def _draws(module: nn.Module) -> bool:
    return _drops(module) or (isinstance(module, DropPath) and module.probability > 0)


def _drops(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and module.p > 0


class _DrawnWith(TorchFunctionMode):
    """Lets dropout and drop path of this thread draw from a generator of its own.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.dropout:
            return self._dropout(*args, **(kwargs or {}))
        if func is torch.Tensor.bernoulli_:
            return func(*args, **(kwargs or {}), generator=self._generator)
        return func(*args, **(kwargs or {}))

    def _dropout(self, x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        """As torch's own, which takes no generator."""
        if not training or p == 0.0:
            return x
        keep = 1.0 - p
        return x * torch.empty_like(x).bernoulli_(keep, generator=self._generator).div_(keep)
