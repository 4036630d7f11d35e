"""One endless stream of training batches, and the data sets that are read through it.

Position p = step × batch_size + i of the stream is sample ``perm(seed, epoch)[p mod N]`` of epoch
p div N, as the original's ``repeat().shuffle().batch()`` reads: batches are always full and cross
epochs. A position says everything, so that a run resumes from its step alone.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vit_lightning.data.draws import epoch_permutation, sample_generator
from vit_lightning.data.pictures import Pictures
from vit_lightning.data.transforms import Preprocessing, TrainTransform
from vit_lightning.errors import InputError

Sample = tuple[int, int]  # epoch, index


class StreamBatchSampler(Sampler[list[Sample]]):
    """The share of one rank in the stream, cut into micro-batches.

    A step's batch is cut into ``world_size × micro_batches_per_step`` contiguous chunks whose
    sizes differ by at most one; the chunks of a rank follow each other. Together they are exactly
    the batch, whatever the numbers of ranks and micro-batches.

    Args:
        size: pictures in the training set.
        batch_size: samples of an optimizer step, over all ranks and micro-batches.
        num_steps: optimizer steps of the whole run.
        seed: of the order, in [0, 2**64).
        rank: of this process, in [0, world_size).
        world_size: number of processes.
        micro_batch: the most samples that one process takes at once, or None for all its share.
        start_step: where iteration begins; the steps before are taken as done.

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
    ):
        if size < 1:
            raise InputError("the training set has no pictures")
        if batch_size < 1 or (micro_batch is not None and micro_batch < 1):
            raise InputError(
                f"batch_size ({batch_size}) and micro_batch ({micro_batch}) must be at least 1"
            )
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
        most = world_size * (micro_batch or batch_size)
        self._micro_batches_per_step = -(-batch_size // most)
        self._check_chunks(micro_batch)
        self._order_epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def _check_chunks(self, micro_batch: int | None) -> None:
        chunks = self.world_size * self.micro_batches_per_step
        if chunks > self.batch_size:
            choice = "" if micro_batch is None else f", or a micro_batch above {micro_batch}"
            raise InputError(
                f"batch_size {self.batch_size} cannot be cut into {chunks} parts "
                f"({self.world_size} ranks × {self.micro_batches_per_step} micro-batches): choose "
                f"a batch_size of at least {chunks}{choice}"
            )

    @property
    def micro_batches_per_step(self) -> int:
        """How many batches of this rank make one optimizer step."""
        return self._micro_batches_per_step

    def __len__(self) -> int:
        """Micro-batches of the whole run, those before ``start_step`` included."""
        return self.num_steps * self.micro_batches_per_step

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield the samples of each micro-batch of this rank as (epoch, index)."""
        per_step = self.micro_batches_per_step
        chunks = self.world_size * per_step
        for step in range(self.start_step, self.num_steps):
            for chunk in range(self.rank * per_step, (self.rank + 1) * per_step):
                first = chunk * self.batch_size // chunks
                last = (chunk + 1) * self.batch_size // chunks
                yield self._samples(step * self.batch_size + first, step * self.batch_size + last)

    def _samples(self, first: int, last: int) -> list[Sample]:
        """The samples at positions ``first`` to ``last`` (exclusive) of the stream."""
        samples: list[Sample] = []
        while first < last:
            epoch, offset = divmod(first, self.size)
            if epoch != self._order_epoch:
                self._order_epoch = epoch
                self._order = epoch_permutation(self.seed, epoch, self.size)
            taken = self._order[offset : offset + last - first].tolist()
            samples += [(epoch, index) for index in taken]
            first += len(taken)
        return samples


class TrainDataset(Dataset[tuple[Tensor, int]]):
    """Augmented pictures by (epoch, index): a pure function of these and the seed.

    Args:
        pictures: the training split.
        transform: picture and generator → (C, H, W).
        seed: of the augmentation, in [0, 2**64).
    """

    def __init__(self, pictures: Pictures, transform: TrainTransform, seed: int):
        self.pictures = pictures
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, sample: Sample) -> tuple[Tensor, int]:
        """(C, H, W) in [-1, 1] and the label; PictureError names a picture that cannot be read."""
        epoch, index = sample
        generator = sample_generator(self.seed, epoch, index)
        pixels = self.transform(self.pictures.load(index), generator)
        return pixels, int(self.pictures.labels[index])


class EvalDataset(Dataset[tuple[Tensor, int]]):
    """Pictures by index, as an evaluation sees them.

    Args:
        pictures: any split.
        preprocessing: picture → (C, H, W).
    """

    def __init__(self, pictures: Pictures, preprocessing: Preprocessing):
        self.pictures = pictures
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(C, H, W) in [-1, 1] and the label; PictureError names a picture that cannot be read."""
        pixels = self.preprocessing(self.pictures.load(index))
        return pixels, int(self.pictures.labels[index])


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
