"""One endless stream of training batches: which samples, in which order, on which rank.

Position p = step × batch_size + i of the stream is sample ``perm(seed, epoch)[p mod N]`` of epoch
p div N, as the original's ``repeat().shuffle().batch()`` reads: batches are always full and cross
epochs. A position says everything, so that a run resumes from its step alone.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from vit_lightning.data.draws import epoch_permutation, read_before
from vit_lightning.errors import InputError

Sample = tuple[int, int, int]  # epoch, index, copy
Order = Callable[[int], NDArray[np.int64]]


def largest_micro_batch(
    batch_size: int, limit: int, *, world_size: int = 1, pairs: bool = False
) -> int:
    """The largest micro-batch of a step that is not above a limit.

    Args:
        batch_size: samples of an optimizer step, over all ranks and micro-batches.
        limit: most samples; where a step cannot be cut so finely, the finest cut is taken.
        world_size: number of processes, at most one for each sample or pair.
        pairs: whether pairs are never cut.
    """
    unit = 2 if pairs else 1
    units = batch_size // unit
    sizes = (-(-units // (world_size * cuts)) * unit for cuts in range(1, units // world_size + 1))
    smallest = batch_size
    for smallest in sizes:
        if smallest <= limit:
            break
    return smallest


class StreamBatchSampler(Sampler[list[Sample]]):
    """The share of one rank in the stream, cut into micro-batches.

    A step's batch is cut into ``world_size × micro_batches_per_step`` contiguous chunks whose
    sizes differ by at most one (with ``pairs`` by one pair); the chunks of a rank follow each
    other. Together they are exactly the batch, whatever the numbers of ranks and micro-batches.

    With ``repeats`` a batch holds ``batch_size / repeats`` samples of the stream, all of them once,
    then all of them again: neighbours are different pictures (repeated augmentation, Hoffer et al.
    2020). An epoch's pictures then last ``repeats`` times as long.

    Args:
        size: pictures in the training set.
        batch_size: samples of an optimizer step, over all ranks and micro-batches.
        num_steps: optimizer steps of the whole run.
        seed: of the order, in [0, 2**64).
        rank: of this process, in [0, world_size).
        world_size: number of processes.
        micro_batch: the most samples that one process takes at once, or None for all its share.
        start_step: where iteration begins; the steps before are taken as done.
        repeats: copies of a sample in a batch, each augmented in its own way.
        pairs: never cut between positions 2k and 2k + 1 of a batch, which are mixed.
        order: epoch → (size,) indices; by default a permutation for each epoch. A sample that comes
            several times in an epoch is another copy each time.

    Raises:
        InputError: the numbers do not go together.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        num_steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batch: int | None = None,
        start_step: int = 0,
        repeats: int = 1,
        pairs: bool = False,
        order: Order | None = None,
    ):
        if size < 1:
            raise InputError("the training set has no pictures")
        if batch_size < 1:
            raise InputError(f"batch_size ({batch_size}) must be at least 1")
        if micro_batch is not None and micro_batch < 1:
            raise InputError(f"micro_batch ({micro_batch}) must be at least 1")
        if not 0 <= rank < world_size or not 0 <= start_step <= num_steps:
            raise InputError(
                f"rank {rank} of {world_size} or step {start_step} of {num_steps} does not exist"
            )
        self.size = size
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_step = start_step
        self.repeats = repeats
        self._unit = 2 if pairs else 1
        self._check_multiples(micro_batch)
        most = world_size * ((micro_batch or batch_size) // self._unit)
        self._micro_batches_per_step = -(-(batch_size // self._unit) // most)
        self._check_chunks(micro_batch)
        self._order = order
        self._orders: dict[int, tuple[NDArray[np.int64], NDArray[np.int64] | None]] = {}

    def _check_multiples(self, micro_batch: int | None) -> None:
        if self.batch_size % self.repeats:
            raise InputError(
                f"batch_size {self.batch_size} must be a multiple of augmentation.repeats "
                f"({self.repeats}), as it holds each of its pictures so often"
            )
        if self.batch_size % self._unit or (micro_batch is not None and micro_batch < self._unit):
            parts = "" if micro_batch is None else f", and micro_batch ({micro_batch}) at least 2"
            raise InputError(
                f"mixup and cutmix mix pairs: batch_size ({self.batch_size}) must be even{parts}"
            )

    def _check_chunks(self, micro_batch: int | None) -> None:
        chunks = self.world_size * self.micro_batches_per_step
        if chunks * self._unit > self.batch_size:
            choice = "" if micro_batch is None else f", or a micro_batch above {micro_batch}"
            of_what = " of whole pairs" if self._unit > 1 else ""
            raise InputError(
                f"batch_size {self.batch_size} cannot be cut into {chunks} parts{of_what} "
                f"({self.world_size} ranks × {self.micro_batches_per_step} micro-batches): choose "
                f"a batch_size of at least {chunks * self._unit}{choice}"
            )

    @property
    def micro_batches_per_step(self) -> int:
        """How many batches of this rank make one optimizer step."""
        return self._micro_batches_per_step

    @property
    def most(self) -> int:
        """Samples of the largest micro-batch."""
        units, chunks = self.batch_size // self._unit, self.world_size * self.micro_batches_per_step
        return -(-units // chunks) * self._unit

    def __len__(self) -> int:
        """Micro-batches of the whole run, those before ``start_step`` included."""
        return self.num_steps * self.micro_batches_per_step

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield the samples of each micro-batch of this rank."""
        per_step, units = self.micro_batches_per_step, self.batch_size // self._unit
        chunks = self.world_size * per_step
        for step in range(self.start_step, self.num_steps):
            for chunk in range(self.rank * per_step, (self.rank + 1) * per_step):
                first = chunk * units // chunks * self._unit
                last = (chunk + 1) * units // chunks * self._unit
                yield [self._sample(step, place) for place in range(first, last)]

    def _sample(self, step: int, place: int) -> Sample:
        """The sample at one place of a step's batch."""
        distinct = self.batch_size // self.repeats
        repeat, offset = divmod(place, distinct)
        epoch, position = divmod(step * distinct + offset, self.size)
        order, earlier = self._order_of(epoch)
        before = 0 if earlier is None else int(earlier[position])
        return epoch, int(order[position]), before * self.repeats + repeat

    def _order_of(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The indices in the order of an epoch, and how often each came before, if any can."""
        if epoch not in self._orders:
            if len(self._orders) > self.batch_size // self.size + 1:  # a batch may lie in several
                del self._orders[min(self._orders)]
            if self._order is None:
                self._orders[epoch] = epoch_permutation(self.seed, epoch, self.size), None
            else:
                order = self._order(epoch)
                self._orders[epoch] = order, read_before(order)
        return self._orders[epoch]


class ShardSampler(Sampler[int]):
    """Every ``world_size``-th sample from ``rank`` on, none repeated.

    Shards differ in size by one where ``world_size`` does not divide ``size``; sums over all ranks
    are exact.

    Raises:
        InputError: a rank would have no sample.
    """

    def __init__(self, size: int, rank: int, world_size: int):
        if size < world_size:
            raise InputError(
                f"{size} pictures to evaluate on are too few for {world_size} processes; "
                "use fewer devices, or more pictures"
            )
        self._indices = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's indices, ascending."""
        return iter(self._indices)
