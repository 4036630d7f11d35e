"""Training batches by torchvision's usual pipeline, on demand: the peer of ``batches.py``.

Arguments: a folder with a folder for each class, pictures of a batch, loading processes. Reads
lines, each a number of batches; answers each with the wall and the processor seconds that they
took, after as many as lay ready have been passed over. The first line it writes is its versions.
Runs where torchvision is.
"""

import json
import sys
import time

import torch
from processor_time import processor_seconds
from torchvision_views import declare_operators

PREFETCHED = 2  # batches of each worker that lie ready


def main() -> None:
    """Answer until the input ends."""
    declared = declare_operators()
    import PIL
    import torchvision
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    folder, batch_size, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    half = (0.5, 0.5, 0.5)
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(half, half),
        ]
    )
    dataset = ImageFolder(folder, view)
    endless = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**8)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size, sampler=endless, num_workers=workers, prefetch_factor=PREFETCHED
    )
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
    }
    print(json.dumps(versions), flush=True)
    batches = iter(loader)
    for line in sys.stdin:
        for _ in range(PREFETCHED * workers):
            next(batches)
        wall, processor = time.perf_counter(), processor_seconds()
        for _ in range(int(line)):
            images, _ = next(batches)
            assert images.dtype == torch.float32
        spent = time.perf_counter() - wall, processor_seconds() - processor
        print(json.dumps(spent), flush=True)
    del declared


if __name__ == "__main__":
    main()
