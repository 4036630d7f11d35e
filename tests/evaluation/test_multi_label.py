"""The metrics of several labels against scikit-learn and hand-made cases."""

import json
import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    hamming_loss,
    precision_score,
    recall_score,
)

from vit_lightning.errors import InputError
from vit_lightning.evaluation.multi_label import (
    bootstrap_interval,
    compute_multi_label_metrics,
    sigmoid,
    weighted_average_precision,
)


def outputs(num_images: int, num_classes: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Right more often than chance, with equal logits among them."""
    draw = np.random.default_rng(seed)
    labels = (draw.random((num_images, num_classes)) < 0.3).astype(np.uint8)
    logits = draw.normal(size=labels.shape) + 2.0 * labels - 1.0
    return logits.round(1).astype(np.float32), labels


def test_against_scikit_learn() -> None:
    logits, labels = outputs(150, 6)
    metrics = compute_multi_label_metrics(logits, labels, list("abcdef"))
    guesses, p = (logits >= 0).astype(int), sigmoid(logits)
    assert metrics.num_images == 150
    assert metrics.mean_average_precision == pytest.approx(average_precision_score(labels, logits))
    assert metrics.score == metrics.mean_average_precision
    expected = average_precision_score(labels, logits, average=None)
    assert metrics.average_precision == pytest.approx(expected.tolist())
    assert metrics.micro_f1 == pytest.approx(f1_score(labels, guesses, average="micro"))
    assert metrics.macro_f1 == pytest.approx(f1_score(labels, guesses, average="macro"))
    assert metrics.hamming_loss == pytest.approx(hamming_loss(labels, guesses))
    assert metrics.exact_match == pytest.approx((labels == guesses).all(axis=1).mean())
    loss = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(axis=1).mean()
    assert metrics.loss == pytest.approx(loss)
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        found = [getattr(row, name) for row in metrics.per_class]
        assert found == pytest.approx(score(labels, guesses, average=None).tolist())
    assert [row.support for row in metrics.per_class] == labels.sum(axis=0).tolist()
    low, high = metrics.mean_average_precision_interval
    assert 0 < low < metrics.mean_average_precision < high < 1


def test_what_is_undefined_is_none() -> None:
    logits = np.array([[3, -1, -2], [2, -2, 1]], np.float32)
    labels = np.array([[1, 0, 0], [1, 0, 0]], np.uint8)
    metrics = compute_multi_label_metrics(logits, labels, ["a", "b", "c"])
    assert metrics.average_precision == (1.0, None, None)
    assert metrics.mean_average_precision == 1.0
    never, wrongly = metrics.per_class[1:]
    assert (never.support, never.precision, never.recall, never.f1) == (0, None, None, None)
    assert (wrongly.precision, wrongly.recall, wrongly.f1) == (0.0, None, 0.0)
    assert (metrics.micro_f1, metrics.macro_f1) == (pytest.approx(4 / 5), 1.0)
    nothing = compute_multi_label_metrics(-np.ones((2, 3)), np.zeros((2, 3), int), ["a", "b", "c"])
    assert nothing.mean_average_precision is None
    assert nothing.mean_average_precision_interval is None
    assert (nothing.micro_f1, nothing.macro_f1, nothing.exact_match) == (None, None, 1.0)
    assert nothing.score == 0.0
    for found in (metrics, nothing):
        values = found.to_dict()
        assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert nothing.loss == pytest.approx(3 * math.log1p(math.exp(-1)))


def test_one_class_and_one_picture() -> None:
    metrics = compute_multi_label_metrics(np.array([[2.0]]), np.array([[1]]), ["bee"])
    assert metrics.mean_average_precision_interval == (1.0, 1.0)
    assert (metrics.exact_match, metrics.hamming_loss) == (1.0, 0.0)


def test_weights_count_pictures_several_times() -> None:
    logits, labels = outputs(40, 2)
    weights = np.random.default_rng(1).integers(0, 4, (5, 40))
    found = weighted_average_precision(logits[:, 0], labels[:, 0], weights.T)
    expected = [
        average_precision_score(labels[:, 0], logits[:, 0], sample_weight=row) for row in weights
    ]
    np.testing.assert_allclose(found, expected)
    none = weighted_average_precision(logits[:, 0], labels[:, 0], 1 - labels[:, :1])
    assert np.isnan(none).all()


def test_the_interval_holds_what_it_promises() -> None:
    """Of samples of a large population, most intervals hold the population's value."""
    population, truth = outputs(20_000, 3, seed=8)
    value = average_precision_score(truth, population)
    draw = np.random.default_rng(2)
    held = 0
    for _ in range(40):
        chosen = draw.integers(0, len(truth), 120)
        own = average_precision_score(truth[chosen], population[chosen])
        low, high = bootstrap_interval(population[chosen], truth[chosen], own)
        held += low <= value <= high
    assert 33 <= held <= 40


def rare(
    draw: np.random.Generator, count: int, num_classes: int, share: float, gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which few are set, where resamples have a higher mean average precision."""
    labels = (draw.random((count, num_classes)) < share).astype(np.uint8)
    return (draw.normal(size=labels.shape) + gap * labels).astype(np.float32), labels


def mean_average_precision(logits: np.ndarray, labels: np.ndarray) -> float:
    once = np.ones((len(logits), 1), int)
    columns = [pair for pair in zip(logits.T, labels.T, strict=True) if pair[1].any()]
    return float(np.mean([weighted_average_precision(*pair, once) for pair in columns]))


@pytest.mark.parametrize(
    ("count", "num_classes", "share", "gap"),
    [(1000, 80, 0.03, 1.5), (60, 8, 0.15, 0.0), (100, 20, 0.03, 2.0), (100, 3, 0.5, 4.0)],
)
def test_the_interval_holds_its_estimate(
    count: int, num_classes: int, share: float, gap: float
) -> None:
    logits, labels = rare(np.random.default_rng(4), count, num_classes, share, gap)
    estimate = mean_average_precision(logits, labels)
    low, high = bootstrap_interval(logits, labels, estimate)
    assert 0 <= low < estimate < high <= 1


def test_classes_of_few_pictures_shift_no_interval() -> None:
    """It holds what as many pictures give on average, about as often below as above."""
    draw, shape = np.random.default_rng(6), (200, 20, 0.05, 1.0)
    mean = np.mean([mean_average_precision(*rare(draw, *shape)) for _ in range(300)])
    below = above = 0
    for _ in range(60):
        logits, labels = rare(draw, *shape)
        estimate = mean_average_precision(logits, labels)
        low, high = bootstrap_interval(logits, labels, estimate)
        below += int(high < mean)
        above += int(mean < low)
    # Not shifted, a fifth of them lie above.
    assert below + above <= 8
    assert max(below, above) <= 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.full((2, 3), np.nan)}, "not finite for 2 of 2"),
        ({"logits": np.zeros((0, 3)), "labels": np.zeros((0, 3), int)}, "no pictures"),
        ({"labels": np.array([0, 1])}, r"labels of shape \(2,\)"),
        ({"labels": np.full((2, 3), 2)}, "0 or 1, got 2 to 2"),
        ({"classes": ["a", "b"]}, "3 classes apart, but the data has 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], message: str) -> None:
    usual = {"logits": np.zeros((2, 3)), "labels": np.ones((2, 3), int), "classes": ["a", "b", "c"]}
    with pytest.raises(InputError, match=message):
        compute_multi_label_metrics(**{**usual, **change})
