"""The metrics against hand-made cases and scikit-learn's own averages."""

import json
import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, roc_auc_score, top_k_accuracy_score

from vit_lightning.errors import InputError
from vit_lightning.evaluation.metrics import compute_metrics, softmax, wilson_interval


def outputs(num_images: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Right more often than chance; every class occurs."""
    draw = np.random.default_rng(3)
    labels = draw.permutation(np.arange(num_images) % num_classes)
    logits = draw.normal(size=(num_images, num_classes)).astype(np.float32)
    logits[np.arange(num_images), labels] += 1.5
    return logits, labels, [f"class {k}" for k in range(num_classes)]


def test_against_scikit_learn() -> None:
    logits, labels, classes = outputs(200, 8)
    metrics = compute_metrics(logits, labels, classes)
    guesses = logits.argmax(axis=1)
    probabilities = softmax(logits)
    assert metrics.num_images == 200
    assert metrics.loss == pytest.approx(log_loss(labels, probabilities), abs=1e-12)
    assert metrics.top1 == pytest.approx((guesses == labels).mean())
    assert metrics.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert metrics.macro_f1 == pytest.approx(f1_score(labels, guesses, average="macro"))
    area = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert metrics.roc_auc == pytest.approx(area)
    assert metrics.roc_auc_note is None
    assert metrics.top1_interval == wilson_interval(round(metrics.top1 * 200), 200)


def test_by_hand() -> None:
    logits = np.array([[2, 0], [2, 0], [0, 2], [2, 0]], np.float32)
    metrics = compute_metrics(logits, np.array([0, 0, 1, 1]), ["ants", "bees"])
    assert metrics.confusion == ((2, 0), (1, 1))
    assert metrics.top1 == 0.75
    assert metrics.top5 is None
    ants, bees = metrics.per_class
    assert (ants.name, ants.support, ants.precision, ants.recall) == (
        "ants",
        2,
        pytest.approx(2 / 3),
        1.0,
    )
    assert (bees.precision, bees.recall, bees.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    assert metrics.loss == pytest.approx((3 * math.log1p(math.exp(-2)) + math.log1p(math.e**2)) / 4)
    assert metrics.roc_auc_per_class == (0.75, 0.75)


def test_class_without_pictures_is_left_out_and_counted() -> None:
    logits, labels, classes = outputs(60, 3)
    labels = np.where(labels == 1, 0, labels)
    metrics = compute_metrics(logits, labels, classes)
    absent = metrics.per_class[1]
    assert (absent.support, absent.recall) == (0, None)
    assert absent.precision == 0.0  # it was predicted, always wrongly
    assert metrics.roc_auc_per_class[1] is None
    rest = [metrics.roc_auc_per_class[0], metrics.roc_auc_per_class[2]]
    assert metrics.roc_auc == pytest.approx(sum(rest) / 2)
    assert metrics.macro_f1 == pytest.approx(
        (metrics.per_class[0].f1 + metrics.per_class[2].f1) / 2
    )
    assert metrics.roc_auc_note == "without 1 of 3 classes, which have no pictures"


def test_constant_outputs_are_no_knowledge() -> None:
    labels = np.arange(14) % 7
    metrics = compute_metrics(np.zeros((14, 7), np.float32), labels, list("abcdefg"))
    assert metrics.top1 == pytest.approx(1 / 7)
    assert metrics.top5 == pytest.approx(5 / 7)
    assert metrics.roc_auc == 0.5
    assert metrics.loss == pytest.approx(math.log(7))
    assert metrics.per_class[3].precision is None
    assert metrics.per_class[3].f1 == 0.0


@pytest.mark.parametrize("num_classes", [1, 2, 6])
def test_one_picture(num_classes: int) -> None:
    logits = np.arange(num_classes, dtype=np.float32)[None]
    classes = [str(k) for k in range(num_classes)]
    metrics = compute_metrics(logits, np.array([num_classes - 1]), classes)
    assert metrics.top1 == 1.0
    assert metrics.roc_auc is None
    assert "of one class" in metrics.roc_auc_note
    json.dumps(metrics.to_dict(), allow_nan=False)


def test_loss_of_extreme_logits_is_exact() -> None:
    logits = np.array([[3e38, -3e38], [1000, 0]], np.float32)
    metrics = compute_metrics(logits, np.array([0, 1]), ["a", "b"])
    assert metrics.loss == 500.0


def test_to_dict_survives_json() -> None:
    logits, labels, classes = outputs(30, 6)
    metrics = compute_metrics(logits, np.minimum(labels, 4), classes)
    values = metrics.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["per_class"][5]["recall"] is None
    assert sum(map(sum, values["confusion"])) == 30


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(8, 10, 0.4901625, 0.9433178), (0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0)],
)
def test_wilson_interval(successes: int, total: int, low: float, high: float) -> None:
    """Against R's ``prop.test(..., correct = FALSE)``."""
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=1e-6)


def test_wilson_interval_holds_what_it_promises() -> None:
    """Exact coverage over the binomial law is near 95 % for a middling proportion."""
    total, share = 150, 0.8
    covered = 0.0
    for successes in range(total + 1):
        low, high = wilson_interval(successes, total)
        if low <= share <= high:
            weight = math.comb(total, successes)
            covered += weight * share**successes * (1 - share) ** (total - successes)
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.full((2, 3), np.nan, np.float32)}, "not finite for 2 of 2 .*learning rate"),
        ({"logits": np.array([[0, 0, 0], [0, np.inf, 0]], np.float32)}, "first is number 2"),
        ({"logits": np.zeros((0, 3), np.float32), "labels": np.zeros(0, int)}, "no pictures"),
        ({"logits": np.zeros((2, 5, 3), np.float32)}, 'pool "none"'),
        ({"labels": np.array([0])}, "labels of shape"),
        ({"labels": np.array([0, 3])}, r"0\.\.2, got 0\.\.3"),
        ({"labels": np.array([-1, 0])}, r"got -1\.\.0"),
        ({"classes": ["a", "b"]}, "3 classes apart, but the data has 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], message: str) -> None:
    usual = {
        "logits": np.zeros((2, 3), np.float32),
        "labels": np.array([0, 1]),
        "classes": ["a", "b", "c"],
    }
    with pytest.raises(InputError, match=message):
        compute_metrics(**{**usual, **change})
