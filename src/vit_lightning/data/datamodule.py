"""The Lightning data module: one endless training stream, evaluation without padding."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L  # the project's own convention for its import
from torch import Tensor

from vit_lightning.data.batches import EvalDataset, RawBatch, TrainDataset
from vit_lightning.data.draws import balanced_order
from vit_lightning.data.loader import PictureLoader, StreamLoader
from vit_lightning.data.mixing import Mixing, mix_pairs, soft_targets
from vit_lightning.data.pictures import Pictures, Splits
from vit_lightning.data.stream import ShardSampler, StreamBatchSampler
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.errors import InputError
from vit_lightning.settings import DataSettings

Batch = tuple[Tensor, Tensor]


class EvalData(L.LightningDataModule):
    """One split as evaluation batches, each picture once over all ranks.

    Args:
        pictures: the split.
        preprocessing: of a picture.
        settings: batch size, workers, what to do about unreadable pictures.

    Attributes:
        unreadable: indices of the pictures that this rank has left out so far.
    """

    def __init__(
        self, pictures: Pictures, preprocessing: Preprocessing, settings: DataSettings
    ) -> None:
        super().__init__()
        self.pictures = pictures
        self.preprocessing = preprocessing
        self.settings = settings
        self.workers = _default_workers() if settings.workers is None else settings.workers
        self.unreadable: set[int] = set()
        self._loaders: list[PictureLoader] = []

    @contextmanager
    def naming_pictures(self) -> Iterator[None]:
        """Answer the death of a loading process by the picture that it was reading.

        torch raises it from a signal handler, wherever the main process happens to be.

        Raises:
            InputError: a loading process died, most often for want of memory.
        """
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            words = [loader.last_words(error) for loader in self._loaders]
            for said in filter(None, words):
                raise InputError(said) from None
            raise

    def predict_dataloader(self) -> PictureLoader:
        """The pictures of this rank, in order."""
        return self._eval_loader()

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """Finish a batch where the model is: (images, targets)."""
        self.unreadable.update(batch.unreadable.tolist())
        return self._finished(batch)

    def _finished(self, batch: RawBatch) -> Batch:
        """Images (B, C, height, width), normalised; labels (B,), or (B, K) as float32."""
        images = self.preprocessing.normalised(batch.pixels.permute(0, 3, 1, 2))
        return images, batch.labels if batch.labels.dim() == 1 else batch.labels.float()

    def _eval_loader(self, **options: Any) -> PictureLoader:
        rank, world_size = self._place()
        dataset = EvalDataset(
            self.pictures,
            self.preprocessing,
            skip_unreadable=self.settings.on_bad_image == "skip",
        )
        loader = PictureLoader(
            dataset,
            batch_size=self.settings.eval_batch_size,
            sampler=ShardSampler(len(self.pictures), rank, world_size),
            **self._options(),
            **options,
        )
        self._loaders.append(loader)
        return loader

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
        preprocessing: of a picture; the augmentation of the settings goes before it in training.
        settings: batches, augmentation, sampling.
        num_steps: optimizer steps of the run.
        micro_batch: most pictures a rank holds at once, or None for no limit.
        seed: of order and augmentation.

    Attributes:
        unreadable_in_training: indices of the training pictures that this rank has found so.
    """

    def __init__(
        self,
        splits: Splits,
        preprocessing: Preprocessing,
        settings: DataSettings,
        *,
        num_steps: int,
        micro_batch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(splits.val, preprocessing, settings)
        self.splits = splits
        self.num_steps = num_steps
        self.micro_batch = micro_batch
        self.seed = seed
        options = settings.augmentation
        self.mixing = (
            Mixing(options.mixup, options.cutmix, options.mix_probability)
            if (options.mixup or options.cutmix) and options.mix_probability
            else None
        )
        self.unreadable_in_training: set[int] = set()

    def stream(self, rank: int, world_size: int) -> StreamBatchSampler:
        """The order in which one of several ranks reads the training pictures."""
        labels = self.splits.train.labels
        balanced = self.settings.sampling == "balanced"
        return StreamBatchSampler(
            len(self.splits.train),
            batch_size=self.settings.batch_size,
            num_steps=self.num_steps,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            micro_batch=self.micro_batch,
            repeats=self.settings.augmentation.repeats,
            pairs=self.mixing is not None,
            order=partial(balanced_order, self.seed, labels=labels) if balanced else None,
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
        dataset = TrainDataset(
            self.splits.train,
            TrainView(self.preprocessing, self.settings.augmentation),
            self.seed,
            mixing=self.mixing,
            skip_unreadable=self.settings.on_bad_image == "skip",
        )
        loader = StreamLoader(dataset, self.stream(*self._place()), **self._options())
        self._loaders.append(loader)
        return loader

    def val_dataloader(self) -> PictureLoader:
        """The validation pictures of this rank; the workers stay for the next validation."""
        return self._eval_loader(persistent_workers=self.workers > 0)

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """Finish a batch where the model is: (images, labels or, where mixed, soft targets)."""
        if self.trainer is None or not self.trainer.training:
            return super().on_after_batch_transfer(batch, dataloader_idx)
        self.unreadable_in_training.update(batch.unreadable.tolist())
        images, targets = self._finished(batch)
        if self.mixing is None:
            return images, targets
        if targets.dim() == 1:
            targets = soft_targets(targets, len(self.splits.classes))
        return mix_pairs(images, targets, batch.mixing)


def _default_workers() -> int:
    """One loading process per core this process may use, at most four."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 4)
    return min(os.cpu_count() or 1, 4)
