"""How long a linear probe takes beside scikit-learn's, and beside 100 epochs of SGD.

    python -m benchmarks linear_probe [--pictures N] [--features D] [--classes C] [--rounds R]

Features are overlapping clusters, seeded, with a spectrum that falls as that of a network's does
and scales that differ. Sides take turns in one process: this package's probe, which chooses its
penalty among five on a part of the training pictures; scikit-learn's LogisticRegression with the
penalty that was chosen, once, on the same standardised features; 100 epochs of SGD with momentum in
torch, batches of 256, the learning rate falling along a cosine; and this package's nearest
neighbours. Prints a table of the least seconds of the rounds, on the clock and of all cores, and
the accuracy on 2,000 other pictures, and writes ``results/DATE-linear-probe.json`` beside this
file. On a machine that others use, the seconds of the cores tell more than those of the clock.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from report import versions, write_report
from sklearn.linear_model import LogisticRegression

from vit_lightning.probe.linear import LinearProbe, fit_probe
from vit_lightning.probe.neighbours import vote

TESTED = 2000
EPOCHS, BATCH, RATE = 100, 256, 0.01

Array = NDArray[np.float32]
Set = tuple[Array, NDArray[np.int64]]


def clusters(count: int, dim: int, classes: int) -> Set:
    """Features and labels."""
    generator = np.random.default_rng(0)
    spectrum = np.arange(1, dim + 1) ** -0.7
    axes = np.linalg.qr(generator.standard_normal((dim, dim)))[0]
    centres = 0.15 * generator.standard_normal((classes, dim)) * spectrum
    labels = generator.integers(0, classes, count)
    values = (centres[labels] + generator.standard_normal((count, dim)) * spectrum) @ axes
    return (values * generator.uniform(0.3, 3, dim)).astype(np.float32), labels


def standardised(train: Array, test: Array) -> tuple[Array, Array]:
    """Both by the mean and deviation of the first."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / std, (test - mean) / std


def by_sklearn(train: Set, test: Array, penalty: float) -> NDArray[np.int64]:
    """The classes that scikit-learn tells."""
    own, other = standardised(train[0], test)
    model = LogisticRegression(C=1 / (penalty * len(own)), max_iter=1000).fit(own, train[1])
    return np.asarray(model.predict(other))


def by_sgd(train: Set, test: Array, classes: int) -> NDArray[np.int64]:
    """The classes that a layer tells after 100 epochs."""
    own, other = (torch.from_numpy(values) for values in standardised(train[0], test))
    labels = torch.from_numpy(train[1])
    torch.manual_seed(0)
    layer = torch.nn.Linear(own.shape[1], classes)
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE, momentum=0.9)
    steps = EPOCHS * -(-len(own) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(own)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(layer(own[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return layer(other).argmax(dim=1).numpy()


def timed(side: Callable[[], NDArray[np.int64]]) -> tuple[float, float, NDArray[np.int64]]:
    """Seconds on the clock and of all cores, and the classes told."""
    start, core_start = time.perf_counter(), time.process_time()
    found = side()
    return time.perf_counter() - start, time.process_time() - core_start, found


def main() -> None:
    """Time all sides in turns."""
    parser = argparse.ArgumentParser()
    for name, default in (("pictures", 10_000), ("features", 768), ("classes", 10), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    classes = options.classes
    values, labels = clusters(options.pictures + TESTED, options.features, classes)
    train = values[:-TESTED], labels[:-TESTED]
    test, truth = values[-TESTED:], labels[-TESTED:]
    probe: LinearProbe = fit_probe(*train, classes)

    def by_probe() -> NDArray[np.int64]:
        return np.asarray(fit_probe(*train, classes).logits(test).argmax(axis=1))

    def by_neighbours() -> NDArray[np.int64]:
        return np.asarray(vote(*train, classes, test, 20)[0].argmax(axis=1))

    sides: dict[str, Callable[[], NDArray[np.int64]]] = {
        "linear probe, penalty chosen": by_probe,
        "scikit-learn, that penalty": lambda: by_sklearn(train, test, probe.penalty),
        f"SGD, {EPOCHS} epochs": lambda: by_sgd(train, test, classes),
        "k-NN, k = 20": by_neighbours,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    core_seconds: dict[str, list[float]] = {name: [] for name in sides}
    accuracy: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, side in sides.items():
            spent, spent_by_cores, found = timed(side)
            seconds[name].append(round(spent, 3))
            core_seconds[name].append(round(spent_by_cores, 3))
            accuracy[name] = float((found == truth).mean())
    print(f"{'':<30} seconds  of cores   top-1")
    for name, share in accuracy.items():
        clock, cores = min(seconds[name]), min(core_seconds[name])
        print(f"{name:<30} {clock:7.2f}  {cores:8.2f}  {share:6.2%}")
    write_report(
        "linear-probe",
        {
            "versions": versions("scikit-learn"),
            "sizes": vars(options) | {"tested": TESTED},
            "penalty": probe.penalty,
            "seconds": seconds,
            "core_seconds": core_seconds,
            "top1": accuracy,
        },
    )


if __name__ == "__main__":
    main()
