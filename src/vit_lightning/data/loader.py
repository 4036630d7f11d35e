"""Loaders over batches that are assembled by the workers themselves."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from torch.utils.data import DataLoader

from vit_lightning.data.batches import PictureDataset, RawBatch, TrainDataset, UnderWay, as_is
from vit_lightning.data.held_looks import HeldDataset
from vit_lightning.data.ring import SharedRing
from vit_lightning.data.stream import StreamBatchSampler

# torch's words: "DataLoader worker (pid 12) is killed by signal: Killed." and "DataLoader
# worker(s) (pid(s) 12, 13) exited unexpectedly".
_DEAD_WORKER = re.compile(r"DataLoader worker.*?\(pid(?:\(s\))? ([\d, ]+)\)")


# Places of a worker in the ring: for what torch lets it prepare, what Lightning holds, and what the
# model gets.
_PREFETCHED = 2
_PLACES = _PREFETCHED + 2

# Of a loading process beside a model on the CPU: more would leave it next to nothing of cores that
# other programs keep busy.
_NICENESS = 10

_DEATH_IS_TOLD = 5.0  # seconds after a worker's death, at the latest


def give_way(worker: int) -> None:
    """Let the threads that compute go first, where they do so on the same cores.

    These meet at the end of every operation: as long as one waits for a core that a loading process
    has, all do. Loading then has the cores while the model waits for a batch, and what is left.

    Args:
        worker: the number of this loading process, as torch tells it.
    """
    if hasattr(os, "nice"):  # not on Windows
        os.nice(_NICENESS)


def told_death(error: Exception) -> str | None:
    """Torch's words on loading processes that have died, if that is what an error comes from."""
    said = str(error)
    if not isinstance(error, RuntimeError):
        # What the dead worker had promised to send did not come: its death is told at once, or on
        # a busy machine soon, by a signal that ends the sleep.
        try:
            time.sleep(_DEATH_IS_TOLD)
        except RuntimeError as told:
            said = str(told)
    return said.splitlines()[0] if _DEAD_WORKER.search(said) else None


def describe_death(said: str, loaders: Sequence["PictureLoader"], workers: int) -> str:
    """What to say of loading processes that have died, and what to do.

    Args:
        said: torch's words.
        loaders: one of which they may have been of.
        workers: how many there are.
    """
    found = _DEAD_WORKER.search(said)
    pids = [int(pid) for pid in found[1].split(",")] if found else []
    names = [name for loader in loaders for name in loader.was_reading(pids)]
    reading = f" while it read {' and '.join(names)}" if names else ""
    return (
        f"a loading process died{reading} ({said}). Most often memory is short: lower "
        f"data.workers (now {workers}); or a picture breaks its decoder: try data.workers=0 to "
        "see, and remove it"
    )


class PictureLoader(DataLoader[RawBatch]):
    """A loader that uses its memory again, and knows which picture each worker is reading.

    Args:
        dataset: what assembles the batches.
        most: pictures of a batch.
        **options: of torch's loader.
    """

    def __init__(self, dataset: PictureDataset, most: int, **options: Any) -> None:
        # torch knows no data sets that assemble their batches themselves, only how to use them.
        assemble = cast(Callable[[list[RawBatch]], RawBatch], as_is)
        super().__init__(dataset, collate_fn=assemble, **options)
        self._source = dataset
        dataset.under_way = UnderWay(self.num_workers)
        self._most = most

    def __iter__(self) -> Iterator[RawBatch]:  # type: ignore[override]
        """The batches."""
        if self.num_workers and (self._source.ring is None or not self.persistent_workers):
            # Of workers that were stopped early, places may never come back.
            nbytes = self._most * self._source.bytes_per_picture
            self._source.ring = SharedRing(self.num_workers, _PLACES, nbytes)
        ring = self._source.ring  # which lives as long as batches from it may come
        yield from super().__iter__()
        del ring

    def was_reading(self, pids: Sequence[int]) -> list[str]:
        """The pictures that workers of this loader were reading when they died, as far as known."""
        return [self._source.pictures.name(index) for index in self._source.under_way.of(pids)]


class _OfStream(DataLoader[Any]):
    """A loader over a :class:`StreamBatchSampler` whose state is the step it has reached.

    Lightning stores the state in every checkpoint and hands it back on resume. Counted are the
    batches handed out, not those that workers have prepared ahead.

    Attributes:
        waited: seconds spent waiting for batches so far.
    """

    batch_sampler: StreamBatchSampler
    waited = 0.0
    _handed_out = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches from the state's step on, timed."""
        self._handed_out = self.batch_sampler.start_step * self.batch_sampler.micro_batches_per_step
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
        return {"step": self._handed_out // self.batch_sampler.micro_batches_per_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at the state's step."""
        self.batch_sampler.start_step = state["step"]


class StreamLoader(_OfStream, PictureLoader):
    """Pictures of the training stream.

    Args:
        dataset: what assembles the batches.
        sampler: the stream.
        **options: of torch's loader.
    """

    def __init__(self, dataset: TrainDataset, sampler: StreamBatchSampler, **options: Any) -> None:
        super().__init__(dataset, sampler.most, batch_sampler=sampler, **options)


class LookLoader(_OfStream):
    """Looks of held pictures, of the training stream.

    Args:
        dataset: what draws them.
        sampler: the stream.
        **options: of torch's loader.
    """

    def __init__(self, dataset: HeldDataset, sampler: StreamBatchSampler, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=sampler, collate_fn=as_is, **options)
