"""The Lightning data module: one endless training stream, evaluation without padding."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L  # the project's own convention for its import
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.console import printable, say
from vit_lightning.data.batches import EvalDataset, RawBatch, TrainDataset
from vit_lightning.data.draws import balanced_order
from vit_lightning.data.held import hold, reserve
from vit_lightning.data.held_looks import HeldBatch, HeldDataset
from vit_lightning.data.held_views import HeldView
from vit_lightning.data.lent import ReusedMemory
from vit_lightning.data.loader import (
    LookLoader,
    PictureLoader,
    StreamLoader,
    describe_death,
    give_way,
    told_death,
)
from vit_lightning.data.mixing import Mixing, mix_pairs, soft_targets
from vit_lightning.data.pictures import PictureError, Pictures
from vit_lightning.data.splits import Splits
from vit_lightning.data.stream import ShardSampler, StreamBatchSampler
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.unreadable import all_unreadable
from vit_lightning.data.views import TrainView
from vit_lightning.errors import InputError
from vit_lightning.settings import DataSettings, OnDeviceSettings

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
        self.workers = default_workers() if settings.workers is None else settings.workers
        self.unreadable: set[int] = set()
        self._loaders: list[PictureLoader] = []
        self._memory = ReusedMemory()

    @contextmanager
    def naming_pictures(self) -> Iterator[None]:
        """Tell which pictures a failure is about: all that cannot be read, or a worker's last.

        torch raises the death of a loading process from a signal handler, wherever the main
        process happens to be.

        Raises:
            InputError: pictures cannot be read; a loading process died, most often for want of
                memory.
        """
        try:
            yield
        except PictureError as error:
            raise all_unreadable(error, self._all_pictures(), self.workers) from None
        except InputError as error:
            if "\nOriginal Traceback" not in str(error):
                raise
            # torch has rebuilt a worker's error from its formatted traceback.
            raise InputError(str(error).rpartition("errors.InputError: ")[2]) from None
        except (RuntimeError, OSError, EOFError) as error:
            said = told_death(error) if self.workers else None
            if said is None:
                raise
            raise InputError(describe_death(said, self._loaders, self.workers)) from None

    def kept(self) -> NDArray[np.int64]:
        """The indices of this rank's pictures, ascending, without those that cannot be read."""
        indices = ShardSampler(len(self.pictures), *self._place())
        return np.array([i for i in indices if i not in self.unreadable], dtype=np.int64)

    def unreadable_names(self) -> dict[str, list[str]]:
        """The pictures that this rank has found unreadable and left out so far, by split."""
        return {"evaluation": [self.pictures.name(index) for index in sorted(self.unreadable)]}

    def let_go(self) -> None:
        """End the loading processes of the loaders made so far; the next ones start their own."""
        self._loaders.clear()

    def _all_pictures(self) -> dict[str, Pictures]:
        return {"evaluation": self.pictures}

    def predict_dataloader(self) -> PictureLoader:
        """The pictures of this rank, in order."""
        return self._eval_loader()

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """Finish a batch where the model is: (images, targets)."""
        _note(self.unreadable, batch, self.pictures)
        return self._as_the_model_is(self._finished(batch))

    def _finished(self, batch: RawBatch) -> Batch:
        """Images (B, C, height, width), normalised; labels (B,), or (B, K) as float32."""
        images = self.preprocessing.normalised(batch.pixels, self._memory)
        return images, batch.labels if batch.labels.dim() == 1 else batch.labels.float()

    def _as_the_model_is(self, batch: Batch) -> Batch:
        """The batch in the model's precision, which Lightning has set before it was finished."""
        images, targets = batch
        assert self.trainer is not None  # whose hook this is
        return self.trainer.precision_plugin.convert_input(images), targets

    def _eval_loader(self, **options: Any) -> PictureLoader:
        rank, world_size = self._place()
        dataset = EvalDataset(
            self.pictures,
            self.preprocessing,
            skip_unreadable=self.settings.on_bad_image == "skip",
        )
        loader = PictureLoader(
            dataset,
            self.settings.eval_batch_size,
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
        device = self.trainer.strategy.root_device.type if self.trainer else "cpu"
        return {
            "num_workers": self.workers,
            "pin_memory": device == "cuda",
            "worker_init_fn": give_way if device == "cpu" else None,
        }


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
        self._look: HeldView | None = None

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

    def train_dataloader(self) -> StreamLoader | LookLoader:
        """The stream of this rank; a resumed run starts where its checkpoint says."""
        view = TrainView(self.preprocessing, self.settings.augmentation)
        stream = self.stream(*self._place())
        if self.settings.on_device is not None:
            return self._look_loader(self.settings.on_device, view, stream)
        dataset = TrainDataset(
            self.splits.train,
            view,
            self.seed,
            mixing=self.mixing,
            skip_unreadable=self.settings.on_bad_image == "skip",
        )
        loader = StreamLoader(dataset, stream, **self._options())
        self._loaders.append(loader)
        return loader

    def _look_loader(
        self, settings: OnDeviceSettings, view: TrainView, stream: StreamBatchSampler
    ) -> LookLoader:
        """Read the training pictures onto the device, unless they are there, and draw looks."""
        train = self.splits.train
        if self._look is None:
            held = hold(
                train,
                settings,
                self.preprocessing.in_channels,
                self.trainer.strategy.root_device if self.trainer else torch.device("cpu"),
                workers=self.workers,
                skip_unreadable=self.settings.on_bad_image == "skip",
            )
            self._look = HeldView(held, view)
        dataset = HeldDataset(self._look.held, train.labels, view, self.seed, mixing=self.mixing)
        return LookLoader(dataset, stream, **self._options())

    def teardown(self, stage: str) -> None:
        """Leave the device's memory to what comes after the training."""
        self._look = None

    def reserve(self, device: torch.device, world_size: int) -> int:
        """Bytes that the training pictures will take of a device's memory.

        Raises:
            InputError: there is not so much.
        """
        settings, channels = self.settings.on_device, self.preprocessing.in_channels
        if settings is None:
            return 0
        return reserve(self.splits.train, settings, channels, device, world_size)

    def _all_pictures(self) -> dict[str, Pictures]:
        splits = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}
        return {name: pictures for name, pictures in splits.items() if pictures is not None}

    def unreadable_names(self) -> dict[str, list[str]]:
        """As of ``EvalData``, for train and val."""
        splits, found = self._all_pictures(), self.unreadable_in_training
        return {
            "train": [splits["train"].name(index) for index in sorted(found)],
            "val": [splits["val"].name(index) for index in sorted(self.unreadable)],
        }

    def state_dict(self) -> dict[str, list[int]]:
        """The pictures that have been left out, so that a resumed run does not forget them."""
        return {"train": sorted(self.unreadable_in_training), "val": sorted(self.unreadable)}

    def load_state_dict(self, state_dict: dict[str, list[int]]) -> None:
        """The inverse of ``state_dict``."""
        self.unreadable_in_training.update(state_dict["train"])
        self.unreadable.update(state_dict["val"])

    def val_dataloader(self) -> PictureLoader:
        """The validation pictures of this rank; the workers stay for the next validation."""
        return self._eval_loader(persistent_workers=self.workers > 0)

    def on_after_batch_transfer(self, batch: RawBatch | HeldBatch, dataloader_idx: int) -> Batch:
        """Finish a batch where the model is: (images, labels or, where mixed, soft targets)."""
        assert self.trainer is not None  # whose hook this is
        if isinstance(batch, RawBatch) and not self.trainer.training:
            return super().on_after_batch_transfer(batch, dataloader_idx)
        return self._as_the_model_is(self.finished(batch))

    def finished(self, batch: RawBatch | HeldBatch) -> Batch:
        """A training batch, where the model is, as it enters the model, but for its precision."""
        if isinstance(batch, HeldBatch):
            assert self._look is not None  # without which there are no looks
            batch = self._look(batch)
        _note(self.unreadable_in_training, batch, self.splits.train)
        images, targets = self._finished(batch)
        if self.mixing is not None:
            if targets.dim() == 1:
                targets = soft_targets(targets, len(self.splits.classes))
            images, targets = mix_pairs(images, targets, batch.mixing)
        return images, targets


def _note(known: set[int], batch: RawBatch, pictures: Pictures) -> None:
    """Remember the pictures that a batch had to do without, and say so once of each."""
    for index in sorted(set(batch.unreadable.tolist()) - known):
        known.add(index)
        say(f"left out, as it cannot be read: {printable(pictures.name(index))}")


def default_workers() -> int:
    """One loading process per core this process may use, at most four."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 4)
    return min(os.cpu_count() or 1, 4)
