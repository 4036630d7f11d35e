"""The losses against their formulas in float64."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vit_lightning.errors import InputError
from vit_lightning.settings import OptimSettings
from vit_lightning.training.losses import Loss

CLASSES = ("ant", "bee", "wasp", "fly")
Floats = NDArray[np.float64]


def _logits(size: int = 7) -> Floats:
    return np.random.default_rng(1).normal(0, 3, (size, len(CLASSES)))


def _labels(size: int = 7) -> NDArray[np.int64]:
    return np.random.default_rng(2).integers(0, len(CLASSES), size)


def _shares(size: int = 7) -> Floats:
    return np.random.default_rng(3).dirichlet(np.ones(len(CLASSES)), size)


def _hot(size: int = 7) -> Floats:
    return np.random.default_rng(4).integers(0, 2, (size, len(CLASSES))).astype(float)


def _one_hot(labels: NDArray[np.int64]) -> Floats:
    return np.eye(len(CLASSES))[labels]


def _log_softmax(logits: Floats) -> Floats:
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def _log_sigmoid(logits: Floats) -> Floats:
    return -np.log1p(np.exp(-logits))


def _loss(
    targets: Floats | NDArray[np.int64], multi_label: bool = False, **settings: object
) -> Floats:
    loss = Loss(
        OptimSettings(**settings), classes=CLASSES, counts=(8, 4, 2, 2), multi_label=multi_label
    )
    values = loss(torch.from_numpy(_logits()).float(), torch.from_numpy(targets))
    assert values.shape == (7,)
    assert values.dtype == torch.float32
    return values.double().numpy()


def _near(got: Floats, expected: Floats) -> None:
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy(soft: bool, smoothing: float) -> None:
    targets = _shares() if soft else _labels()
    shares = _shares() if soft else _one_hot(_labels())
    smoothed = (1 - smoothing) * shares + smoothing / 4
    expected = -(smoothed * _log_softmax(_logits())).sum(1)
    _near(_loss(targets, label_smoothing=smoothing), expected)
    _near(_loss(targets, label_smoothing=smoothing, loss="cross_entropy"), expected)
    _near(_loss(targets, label_smoothing=smoothing, loss="focal", focal_gamma=0.0), expected)


def test_the_loss_of_labels_is_torchs_to_the_bit() -> None:
    logits, labels = torch.from_numpy(_logits()).float(), torch.from_numpy(_labels())
    settings = OptimSettings(label_smoothing=0.1)
    expected = torch.nn.functional.cross_entropy(
        logits, labels, reduction="none", label_smoothing=0.1
    )
    assert torch.equal(Loss(settings)(logits, labels), expected)


@pytest.mark.parametrize("soft", [False, True])
def test_binary_cross_entropy_of_one_label(soft: bool) -> None:
    targets = _shares() if soft else _labels()
    smoothed = 0.9 * (_shares() if soft else _one_hot(_labels())) + 0.1 / 4
    log_p, log_not_p = _log_sigmoid(_logits()), _log_sigmoid(-_logits())
    expected = -(smoothed * log_p + (1 - smoothed) * log_not_p).sum(1)
    _near(_loss(targets, loss="binary_cross_entropy", label_smoothing=0.1), expected)


def test_several_labels_take_the_binary_one_and_are_smoothed_towards_one_half() -> None:
    smoothed = 0.9 * _hot() + 0.05
    log_p, log_not_p = _log_sigmoid(_logits()), _log_sigmoid(-_logits())
    expected = -(smoothed * log_p + (1 - smoothed) * log_not_p).sum(1)
    _near(_loss(_hot(), multi_label=True, label_smoothing=0.1), expected)
    _near(_loss(_hot().astype(np.uint8), multi_label=True, label_smoothing=0.1), expected)
    _near(
        _loss(_hot(), multi_label=True, label_smoothing=0.1, loss="focal", focal_gamma=0.0),
        expected,
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal(gamma: float) -> None:
    log_p = _log_softmax(_logits())
    terms = -((1 - np.exp(log_p)) ** gamma) * log_p
    _near(_loss(_labels(), loss="focal", focal_gamma=gamma), terms[np.arange(7), _labels()])
    _near(_loss(_shares(), loss="focal", focal_gamma=gamma), (terms * _shares()).sum(1))
    p = 1 / (1 + np.exp(-_logits()))
    binary = -_hot() * (1 - p) ** gamma * np.log(p) - (1 - _hot()) * p**gamma * np.log(1 - p)
    _near(_loss(_hot(), multi_label=True, loss="focal", focal_gamma=gamma), binary.sum(1))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_the_focal_gradient_is_finite_where_the_model_is_sure(
    gamma: float, multi_label: bool
) -> None:
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0], [9.0, -9.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0]] * 3)
    settings = OptimSettings(loss="focal", focal_gamma=gamma)
    Loss(settings, multi_label=multi_label)(logits, targets).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1, 0] == pytest.approx(-1.0, abs=1e-6)  # surely wrong: no focusing


def test_weights_are_of_the_classes_that_are_present() -> None:
    chosen = {"class_weights": {"bee": 3.0, "fly": 0.5}}
    weights = np.array([1.0, 3.0, 1.0, 0.5])
    log_p, labels = _log_softmax(_logits()), _labels()
    own = -log_p[np.arange(7), labels]
    _near(_loss(labels, **chosen), weights[labels] * own)
    _near(_loss(_shares(), **chosen), -(weights * _shares() * log_p).sum(1))
    _near(
        _loss(labels, loss="focal", focal_gamma=1.0, **chosen),
        weights[labels] * (1 - np.exp(-own)) * own,
    )
    present, absent = _hot() * _log_sigmoid(_logits()), (1 - _hot()) * _log_sigmoid(-_logits())
    expected = -(weights * present + absent).sum(1)
    _near(_loss(_hot(), multi_label=True, **chosen), expected)
    _near(_loss(_hot(), multi_label=True, loss="focal", focal_gamma=0.0, **chosen), expected)
    one_hot = _one_hot(labels)
    positive = weights * one_hot * _log_sigmoid(_logits())
    negative = (1 - one_hot) * _log_sigmoid(-_logits())
    _near(_loss(labels, loss="binary_cross_entropy", **chosen), -(positive + negative).sum(1))


def test_balanced_weights_are_the_inverse_shares_with_mean_one() -> None:
    counts = np.array([8, 4, 2, 0])
    settings = OptimSettings(class_weights="balanced")
    weights = Loss(settings, classes=CLASSES, counts=counts.tolist()).weights
    assert weights is not None
    # scikit-learn's n_samples / (n_classes * bincount), of the three classes that occur
    np.testing.assert_allclose(weights, [14 / 24, 14 / 12, 14 / 6, 1.0])
    assert float(weights.numpy() @ counts) / counts.sum() == pytest.approx(1.0)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(InputError, match="cross_entropy is for pictures of one label each"):
        Loss(OptimSettings(loss="cross_entropy"), multi_label=True)
    with pytest.raises(InputError, match="no class 'beee'; did you mean 'bee'"):
        Loss(OptimSettings(class_weights={"beee": 2.0}), classes=CLASSES)
    with pytest.raises(InputError, match="no class 'whale'; the classes are ant, bee, wasp, fly"):
        Loss(OptimSettings(class_weights={"whale": 2.0}), classes=CLASSES)
    with pytest.raises(InputError, match="nothing can be learned"):
        Loss(OptimSettings(class_weights=dict.fromkeys(CLASSES, 0.0)), classes=CLASSES)
    with pytest.raises(InputError, match="need class names"):
        Loss(OptimSettings(class_weights={"bee": 2.0}))
    with pytest.raises(InputError, match="number of pictures by class"):
        Loss(OptimSettings(class_weights="balanced"), classes=CLASSES)
