"""The report of an evaluation: files for later, a block of text for the terminal."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vit_lightning.errors import InputError
from vit_lightning.evaluation.metrics import (
    ClassMetrics,
    FloatArray,
    IntArray,
    Metrics,
    softmax,
)
from vit_lightning.figures import confusion_figure, roc_figure, save_figure, short_name
from vit_lightning.files import atomic_write, write_text
from vit_lightning.models.vit import VisionTransformer

_MAX_ROWS = 20  # classes in the terminal's table, and columns of probabilities in the CSV


def refuse_zero_head(model: VisionTransformer) -> None:
    """Refuse a model that cannot have an opinion.

    Raises:
        InputError: the head is absent, all zeros, or applied to every token.
    """
    if model.config.pool == "none":
        raise InputError(
            'the model has pool "none": it gives logits for every token, not one class for a '
            'picture; load it with pool="token" or "gap", and save that'
        )
    parameters = list(model.head.parameters())
    if not parameters:
        raise InputError(
            "the model has no head (num_classes is 0): it gives features, not classes, and cannot "
            "be evaluated; train it on the data set first"
        )
    if not any(bool(torch.any(parameter != 0)) for parameter in parameters):
        raise InputError(
            "the model's head is all zeros, as training starts from: every class gets the same "
            "score, so there is nothing to evaluate; train the model first, or name the "
            "checkpoint that training wrote"
        )


def write_report(
    folder: Path,
    *,
    metrics: Metrics,
    logits: FloatArray,
    labels: IntArray,
    names: Sequence[str],
    classes: Sequence[str],
    header: Mapping[str, Any],
) -> dict[str, Path]:
    """Write an evaluation's four files, each whole or not at all.

    Args:
        folder: made if needed; files of an earlier report are replaced.
        metrics: of :func:`vit_lightning.evaluation.metrics.compute_metrics`.
        logits: (N, C), finite.
        labels: (N,), indices of the true classes.
        names: N names of pictures, in the order of the rows.
        classes: C names.
        header: plain JSON values that say what was evaluated (model, split, preprocessing,
            precision, …); they open ``metrics.json``, before the fields of ``metrics``.

    Returns:
        The files: ``metrics`` (JSON), ``predictions`` (CSV), ``confusion_matrix`` and
        ``roc_curves`` (PNG).
    """
    paths = {
        "metrics": folder / "metrics.json",
        "predictions": folder / "predictions.csv",
        "confusion_matrix": folder / "confusion_matrix.png",
        "roc_curves": folder / "roc_curves.png",
    }
    content = {**header, **metrics.to_dict()}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(paths["metrics"], text + "\n")
    _write_predictions(paths["predictions"], logits, labels, names, classes)
    save_figure(confusion_figure(metrics.confusion, classes), paths["confusion_matrix"])
    save_figure(roc_figure(logits, labels, classes), paths["roc_curves"])
    return paths


def _write_predictions(
    path: Path,
    logits: FloatArray,
    labels: IntArray,
    names: Sequence[str],
    classes: Sequence[str],
) -> None:
    """A row a picture; every probability, or with many classes the five largest."""
    all_classes = len(classes) <= _MAX_ROWS
    columns = (
        [f"p({name})" for name in classes] if all_classes else [f"top{k}" for k in range(1, 6)]
    )
    # A file name that is not valid UTF-8 reaches Python as lone surrogates: write them as \udcXX.
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["picture", "label", "prediction", "correct", "confidence", *columns])
        rows = zip(names, labels.tolist(), logits, softmax(logits), strict=True)
        for name, label, scores, row in rows:
            order = np.argsort(-scores, kind="stable")  # equals stay in the order of the classes
            guess = int(order[0])
            shown = (
                [f"{p:.6g}" for p in row]
                if all_classes
                else [f"{classes[k]}:{row[k]:.6g}" for k in order[:5]]
            )
            right = "true" if guess == label else "false"
            writer.writerow(
                [name, classes[label], classes[guess], right, f"{row[guess]:.6g}", *shown]
            )


def summary_text(metrics: Metrics, classes: Sequence[str]) -> str:
    """The metrics as a readable block of lines, without a line end at the last."""
    low, high = metrics.top1_interval
    right = sum(metrics.confusion[i][i] for i in range(len(classes)))
    lines = [
        f"top-1     {metrics.top1:7.2%}   {right} of {metrics.num_images} right, "
        f"95 % interval {low:.2%} to {high:.2%}"
    ]
    if metrics.top5 is not None:
        lines.append(f"top-5     {metrics.top5:7.2%}")
    lines.append(f"loss      {metrics.loss:7.4f}   mean cross-entropy")
    lines.append(f"macro F1  {metrics.macro_f1:7.4f}")
    note = (
        f"   {metrics.roc_auc_note}" if metrics.roc_auc_note else "   each class against the rest"
    )
    lines.append(f"ROC AUC   {_number(metrics.roc_auc, 4):>7}{note}")
    return "\n".join([*lines, "", *_class_table(metrics.per_class)])


def _class_table(rows: Sequence[ClassMetrics]) -> list[str]:
    """A line a class; of many classes the ones with the lowest recall."""
    lines = []
    if len(rows) > _MAX_ROWS:
        lines.append(f"The {_MAX_ROWS} of {len(rows)} classes with the lowest recall:")
        with_pictures = [row for row in rows if row.recall is not None]
        rows = sorted(with_pictures, key=lambda row: row.recall or 0.0)[:_MAX_ROWS]
    names = [short_name(row.name, 40) for row in rows]
    width = max(len("class"), *map(len, names))
    lines.append(f"{'class':<{width}}  pictures  precision  recall      F1")
    lines += [
        f"{name:<{width}}  {row.support:>8}  {_number(row.precision):>9}  "
        f"{_number(row.recall):>6}  {_number(row.f1):>6}"
        for name, row in zip(names, rows, strict=True)
    ]
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
