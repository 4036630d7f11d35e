"""The linear probe beside scikit-learn, and at the edges of what can be fitted."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from vit_lightning.data.draws import hold_out
from vit_lightning.probe import linear
from vit_lightning.probe.linear import PENALTIES, LinearProbe, fit_probe

Features = NDArray[np.float32]


def _clusters(count: int, classes: int, seed: int = 0) -> tuple[Features, NDArray[np.int64]]:
    """Overlapping clusters of strongly correlated features on scales far apart."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((classes, 6))
    labels = np.arange(count) % classes
    inner = centres[labels] + generator.standard_normal((count, 6))
    mixing = np.random.default_rng(2).standard_normal((6, 24)) * np.logspace(-2, 2, 24)
    noise = 0.1 * generator.standard_normal((count, 24)) * np.logspace(-2, 2, 24)
    return (inner @ mixing + noise + 5).astype(np.float32), labels


def _standardised(features: Features) -> NDArray[np.float64]:
    wide = features.astype(np.float64)
    return (wide - wide.mean(axis=0)) / wide.std(axis=0)


def _reference(features: Features, labels: NDArray[np.int64], penalty: float) -> Features:
    """scikit-learn's logits of the same loss."""
    model = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-8, max_iter=5000)
    values = _standardised(features)
    model.fit(values, labels)
    logits = model.decision_function(values)
    return np.asarray(logits)


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_it_finds_the_minimum_that_scikit_learn_finds(
    penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = _clusters(300, 3)
    monkeypatch.setattr(linear, "PENALTIES", (penalty,))
    monkeypatch.setattr(linear, "_GRADIENT", 1e-6)
    probe = fit_probe(features, labels, 3)
    assert probe.penalty == penalty
    logits = probe.logits(features)
    centred = logits - logits.mean(axis=1, keepdims=True)
    expected = _reference(features, labels, penalty)
    np.testing.assert_allclose(centred, expected, atol=2e-2 * float(np.abs(expected).max()))


def test_the_usual_tolerance_costs_no_accuracy() -> None:
    digits = load_digits()
    features = digits.data.astype(np.float32)
    probe = fit_probe(features[:1200], digits.target[:1200], 10)
    right = probe.logits(features[1200:]).argmax(axis=1) == digits.target[1200:]
    model = LogisticRegression(C=1 / (probe.penalty * 1200), max_iter=2000)
    mean, std = features[:1200].mean(axis=0), features[:1200].std(axis=0)
    std[std == 0] = 1
    model.fit((features[:1200] - mean) / std, digits.target[:1200])
    theirs = model.score((features[1200:] - mean) / std, digits.target[1200:])
    assert right.mean() > 0.9
    assert right.mean() == pytest.approx(theirs, abs=0.006)


def test_the_penalty_is_the_best_of_what_is_held_out_of_train() -> None:
    features, labels = _clusters(240, 4)
    probe = fit_probe(features, labels, 4, seed=3)
    kept, held = hold_out(labels, 0.2, 3)
    assert probe.held_out == len(held)
    losses = {}
    values = _standardised(features)
    for penalty in PENALTIES:
        model = LogisticRegression(C=1 / (penalty * len(kept)), max_iter=5000)
        model.fit(values[kept], labels[kept])
        chances = model.predict_proba(values[held])[np.arange(len(held)), labels[held]]
        losses[penalty] = -np.log(chances).mean()
    assert losses[probe.penalty] == pytest.approx(min(losses.values()), rel=0.02)


def test_pieces_and_seeds_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _clusters(100, 3)
    whole = fit_probe(features, labels, 3)
    monkeypatch.setattr(linear, "_AT_ONCE", 21)
    pieces = fit_probe(features, labels, 3)
    assert pieces.penalty == whole.penalty
    # Rounding may end a search a round earlier or later.
    np.testing.assert_array_equal(
        pieces.logits(features).argmax(axis=1), whole.logits(features).argmax(axis=1)
    )


def test_several_labels_are_regressions_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _clusters(200, 4)
    several = np.stack([labels % 2 == 0, labels >= 2, labels == 1], axis=1).astype(np.uint8)
    monkeypatch.setattr(linear, "PENALTIES", (0.01,))
    monkeypatch.setattr(linear, "_GRADIENT", 1e-6)
    logits = fit_probe(features, several, 3).logits(features)
    assert logits.shape == (200, 3)
    for own, truth in zip(logits.T, several.T, strict=True):
        expected = _reference(features, truth.astype(np.int64), 0.01)
        np.testing.assert_allclose(own, expected, atol=2e-2 * float(np.abs(expected).max()))


@pytest.mark.parametrize("count", [2, 3])
def test_one_picture_of_each_class_is_fitted_without_a_choice(count: int) -> None:
    features = np.eye(count, 5, dtype=np.float32)
    probe = fit_probe(features, np.arange(count), count)
    assert probe.held_out == 0
    assert probe.logits(features).argmax(axis=1).tolist() == list(range(count))


def test_odd_features_give_finite_answers() -> None:
    features, labels = _clusters(60, 3)
    features[:, 3] = 7.0  # always the same
    features[:, 4] = features[:, 5]
    for values in (features, np.zeros_like(features), features[:, :1]):
        probe = fit_probe(np.ascontiguousarray(values), labels, 4)  # and a class without pictures
        assert np.isfinite(probe.logits(values)).all()


def test_torch_is_left_as_it_was() -> None:
    features, labels = _clusters(30, 3)
    before = torch.random.get_rng_state()
    probe = fit_probe(features, labels, 3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert isinstance(probe, LinearProbe)
    assert probe.weight.dtype == np.float32
