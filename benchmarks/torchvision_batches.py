"""Training batches by torchvision's usual pipeline, on demand: the peer of ``batches.py``.

Arguments: a folder with a folder for each class, pictures of a batch, loading processes. Asked with
a number of batches, it answers with the wall and the processor seconds that they took. Runs where
torchvision is, and needs nothing else.
"""

import sys
from functools import partial

import torch
from torchvision_import import declare_operators
from torchvision_views import usual_view, versions
from turns import PREFETCHED, answer, seconds_of


def main() -> None:
    """Answer until the input ends."""
    declared = declare_operators()
    from torchvision.datasets import ImageFolder

    folder, batch_size, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    dataset = ImageFolder(folder, usual_view())
    endless = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**8)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size, sampler=endless, num_workers=workers, prefetch_factor=PREFETCHED
    )
    batches = iter(loader)
    assert next(batches)[0].dtype == torch.float32
    answer(versions(), partial(seconds_of, batches, workers))
    del declared


if __name__ == "__main__":
    main()
