"""Parts of a model that keep their input alone for the backward pass (Chen et al. 2016).

Of a plain block autograd keeps sixteen numbers for every token and channel: input and output of
both norms (4), query, key and value (3), the attention's output (1), and the MLP's hidden layer
before and behind the GELU (4 each, where ``mlp_dim`` is four times ``embed_dim``). "selective"
computes the GELU a second time and keeps twelve; "full" computes whole blocks a second time and
keeps one. What dropout drew is drawn again as it was: the numbers do not change.
"""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.utils.checkpoint import checkpoint

Recomputed = Literal["none", "selective", "full"]


def keep_input_alone(
    part: Callable[..., Tensor], x: Tensor, *arguments: Any, draws: bool = True
) -> Tensor:
    """What ``part(x, *arguments)`` gives; the backward pass computes again what it needs of it.

    It stops at the last thing it needs: a product of matrices at the end, of which it needs the
    input, is not computed again.

    Args:
        part: of a model.
        x: its input.
        *arguments: what else it takes.
        draws: whether it draws random numbers, whose state then is kept too.
    """
    return checkpoint(  # type: ignore[no-any-return]
        part, x, *arguments, use_reentrant=False, preserve_rng_state=draws
    )
