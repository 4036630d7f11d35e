"""The Lightning data module: one endless training stream, evaluation without padding."""

import os
import time
from collections.abc import Iterator
from typing import Any

import lightning as L  # the project's own convention for its import
from torch import Tensor
from torch.utils.data import DataLoader

from vit_lightning.data.pictures import Pictures, Splits
from vit_lightning.data.stream import EvalDataset, ShardSampler, StreamBatchSampler, TrainDataset
from vit_lightning.data.transforms import Preprocessing, TrainTransform

Batch = tuple[Tensor, Tensor]


class StreamLoader(DataLoader[Batch]):
    """A loader over a :class:`StreamBatchSampler` whose state is the step it has reached.

    Lightning stores the state in every checkpoint and hands it back on resume. Counted are the
    batches handed out, not those that workers have prepared ahead.

    Attributes:
        waited: seconds spent waiting for batches so far.
    """

    def __init__(self, dataset: TrainDataset, sampler: StreamBatchSampler, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=sampler, **options)  # type: ignore[arg-type]  # collated
        self._stream = sampler
        self._handed_out = 0
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Batches from the state's step on, timed."""
        self._handed_out = self._stream.start_step * self._stream.micro_batches_per_step
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The next step: checkpoints are written between steps."""
        return {"step": self._handed_out // self._stream.micro_batches_per_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at the state's step."""
        self._stream.start_step = state["step"]


class EvalData(L.LightningDataModule):
    """One split as evaluation batches, each picture once over all ranks.

    Args:
        pictures: the split.
        preprocessing: of a picture.
        batch_size: pictures of a batch, for each rank.
        workers: loading processes; None for one per core, at most four.
    """

    def __init__(
        self,
        pictures: Pictures,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.pictures = pictures
        self.preprocessing = preprocessing
        self.eval_batch_size = batch_size
        self.workers = _default_workers() if workers is None else workers

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The pictures of this rank, in order."""
        return self._eval_loader()

    def _eval_loader(self, **options: Any) -> DataLoader[Batch]:
        rank, world_size = self._place()
        return DataLoader(
            EvalDataset(self.pictures, self.preprocessing),  # type: ignore[arg-type]  # collated
            batch_size=self.eval_batch_size,
            sampler=ShardSampler(len(self.pictures), rank, world_size),
            **self._options(),
            **options,
        )

    def _place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _options(self) -> dict[str, Any]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.workers, "pin_memory": on_gpu}


class TrainData(EvalData):
    """The training stream of a data set, and its validation split.

    Args:
        splits: the pictures.
        transform: of a training picture.
        preprocessing: of a validation picture.
        batch_size: pictures of an optimizer step over all ranks and micro-batches.
        eval_batch_size: pictures of a validation batch, for each rank.
        num_steps: optimizer steps of the run.
        micro_batch: most pictures a rank holds at once, or None for no limit.
        seed: of order and augmentation.
        workers: loading processes; None for one per core, at most four.
    """

    def __init__(
        self,
        splits: Splits,
        transform: TrainTransform,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        eval_batch_size: int,
        num_steps: int,
        micro_batch: int | None = None,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        super().__init__(splits.val, preprocessing, batch_size=eval_batch_size, workers=workers)
        self.splits = splits
        self.transform = transform
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.micro_batch = micro_batch
        self.seed = seed

    def stream(self, rank: int, world_size: int) -> StreamBatchSampler:
        """The order in which one of several ranks reads the training pictures."""
        return StreamBatchSampler(
            len(self.splits.train),
            batch_size=self.batch_size,
            num_steps=self.num_steps,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            micro_batch=self.micro_batch,
        )

    def check_ranks(self, world_size: int) -> None:
        """Check that every rank gets its share.

        Raises:
            InputError: a step, val or test has fewer pictures than there are ranks.
        """
        self.stream(0, world_size)
        for pictures in (self.splits.val, self.splits.test):
            if pictures is not None:
                ShardSampler(len(pictures), 0, world_size)

    def train_dataloader(self) -> StreamLoader:
        """The stream of this rank; a resumed run starts where its checkpoint says."""
        dataset = TrainDataset(self.splits.train, self.transform, self.seed)
        return StreamLoader(dataset, self.stream(*self._place()), **self._options())

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation pictures of this rank; the workers stay for the next validation."""
        return self._eval_loader(persistent_workers=self.workers > 0)


def _default_workers() -> int:
    """One loading process per core this process may use, at most four."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 4)
    return min(os.cpu_count() or 1, 4)
