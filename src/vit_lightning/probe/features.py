"""Features of pictures: what a new head would be given of them.

That is the class token, or the mean over the patches, after the last norm, in float32. A layer
``pre_logits`` is left out, as fine-tuning leaves it out unless it is told otherwise.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from vit_lightning.backend import PICTURES_WORTH_PACKING, choose_backend, with_backend
from vit_lightning.console import printable, say_notes
from vit_lightning.data.datamodule import EvalData
from vit_lightning.data.lent import ReusedMemory
from vit_lightning.data.partition import Divisible
from vit_lightning.data.pictures import Labels, Pictures
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.precision import exact_convolutions
from vit_lightning.probe.store import FeatureStore, picture_keys
from vit_lightning.progress import Progress
from vit_lightning.settings import DataSettings
from vit_lightning.waiting import threads_wait_while_alone

_KEPT_AT_ONCE = 2048  # pictures whose features are written together
_MOST_SECONDS = 60.0  # of work that an interruption may cost


@dataclass(frozen=True, eq=False)
class Features:
    """The features of one split.

    Args:
        values: (N, D) of the pictures that could be read, in order.
        labels: theirs, as of ``Pictures``.
        unreadable: names of the others.
        kept: how many of the N were known from before.
        seconds: spent on them.
    """

    values: NDArray[np.float32]
    labels: Labels
    unreadable: tuple[str, ...]
    kept: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Extractor:
    """What features are computed with.

    Args:
        model: without head and ``pre_logits``.
        preprocessing: of a picture.
        settings: batch size and workers.
        store: where features are kept.
    """

    model: VisionTransformer
    preprocessing: Preprocessing
    settings: DataSettings
    store: FeatureStore

    def features(self, pictures: Pictures, split: str) -> Features:
        """The features of a split, those that are not kept computed, and then kept.

        An interruption loses a minute of work at most.

        Raises:
            InputError: no picture can be read, or the model gives what is no number.
        """
        start = time.perf_counter()
        keys = picture_keys(pictures)
        if keys is None:
            say_notes([f"{split}: features of pictures of this kind are not kept"])
            values = np.zeros((len(pictures), self.model.config.embed_dim), dtype=np.float32)
            known = np.zeros(len(pictures), dtype=bool)
        else:
            values, known = self.store.get(keys)
        kept = int(known.sum())
        missing = np.flatnonzero(~known)
        if len(missing):
            self._compute(cast(Divisible, pictures), missing, keys, values, known, split)
        unreadable = tuple(pictures.name(index) for index in np.flatnonzero(~known).tolist())
        if len(unreadable) == len(pictures):
            raise InputError(f"{split}: none of the pictures can be read: vit check tells why")
        seconds = time.perf_counter() - start
        return Features(values[known], pictures.labels[known], unreadable, kept, seconds)

    def _compute(
        self,
        pictures: Divisible,
        missing: NDArray[np.int64],
        keys: Sequence[bytes] | None,
        values: NDArray[np.float32],
        known: NDArray[np.bool_],
        split: str,
    ) -> None:
        """Fill in the missing rows of ``values`` and ``known``."""
        pending: list[int] = []
        saved = time.monotonic()

        def keep() -> None:
            if keys is not None and pending:
                self.store.put([keys[index] for index in pending], values[pending])
            pending.clear()

        try:
            with Progress(len(missing), f"features of {split}") as progress:
                for places, rows in self._batches(pictures.subset(missing)):
                    indices = missing[places]
                    values[indices], known[indices] = rows, True
                    pending += indices.tolist()
                    late = time.monotonic() - saved > _MOST_SECONDS
                    if late or len(pending) >= _KEPT_AT_ONCE:
                        keep()
                        saved = time.monotonic()
                    progress.update(len(rows))
        finally:
            keep()

    def _batches(self, pictures: Pictures) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Indices of pictures that can be read, and their features (B, D)."""
        settings = self.settings.model_copy(update={"on_bad_image": "skip"})
        data = EvalData(pictures, self.preprocessing, settings)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, memory = self.model.to(device).eval(), ReusedMemory()
        on_cpu = device.type == "cpu"
        waiting = threads_wait_while_alone(on_cpu=on_cpu)
        if len(pictures) >= PICTURES_WORTH_PACKING:
            backend = choose_backend("auto", "inference", model.config, on_cpu=on_cpu)
            model = with_backend(model, backend)
        first = 0
        with data.naming_pictures(), exact_convolutions(), waiting:
            for batch in data.predict_dataloader():
                left_out = batch.unreadable.tolist()
                for index in left_out:
                    name = printable(pictures.name(index))
                    say_notes([f"left out, as it cannot be read: {name}"])
                last = first + len(batch.labels) + len(left_out)
                places = [index for index in range(first, last) if index not in left_out]
                first = last
                if places:
                    images = self.preprocessing.normalised(batch.to(device).pixels, memory)
                    with torch.inference_mode():  # not around the loader, whose memory comes back
                        rows = model(images).cpu().numpy()
                    if not np.isfinite(rows).all():
                        raise InputError(
                            "the model gives what is no number: are its weights whole?"
                        )
                    yield places, rows
