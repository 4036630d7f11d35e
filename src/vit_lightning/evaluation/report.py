"""The report of an evaluation: files for later, a block of text for the terminal."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
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
from vit_lightning.evaluation.multi_label import AnyMetrics, MultiLabelMetrics, sigmoid
from vit_lightning.figures import (
    confusion_figure,
    precision_recall_figure,
    roc_figure,
    save_figure,
    short_name,
)
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
    metrics: AnyMetrics,
    logits: FloatArray,
    labels: IntArray,
    names: Sequence[str],
    classes: Sequence[str],
    header: Mapping[str, Any],
) -> dict[str, Path]:
    """Write an evaluation's files, each whole or not at all.

    Args:
        folder: made if needed; files of an earlier report are replaced.
        metrics: of :func:`~vit_lightning.evaluation.metrics.compute_metrics` or, with several
            labels, :func:`~vit_lightning.evaluation.multi_label.compute_multi_label_metrics`.
        logits: (N, C), finite.
        labels: (N,), indices of the true classes; with several labels (N, C), 0 or 1.
        names: N names of pictures, in the order of the rows.
        classes: C names.
        header: plain JSON values that say what was evaluated (model, split, preprocessing,
            precision, …); they open ``metrics.json``, before the fields of ``metrics``.

    Returns:
        The files: ``metrics`` (JSON), ``predictions`` (CSV), and PNGs: ``confusion_matrix`` and
        ``roc_curves``, or with several labels ``precision_recall_curves``.
    """
    paths = {"metrics": folder / "metrics.json", "predictions": folder / "predictions.csv"}
    content = {**header, **metrics.to_dict()}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(paths["metrics"], text + "\n")
    if isinstance(metrics, Metrics):
        rows = _rows(logits, labels, classes)
        figures = {
            "confusion_matrix": confusion_figure(metrics.confusion, classes),
            "roc_curves": roc_figure(logits, labels, classes),
        }
    else:
        rows = _rows_of_several(logits, labels, classes)
        figures = {"precision_recall_curves": precision_recall_figure(logits, labels, classes)}
    _write_predictions(paths["predictions"], rows, names)
    for name, figure in figures.items():
        paths[name] = folder / f"{name}.png"
        save_figure(figure, paths[name])
    return paths


def _write_predictions(path: Path, rows: Iterator[list[str]], names: Sequence[str]) -> None:
    """A row a picture.

    Args:
        path: the CSV.
        rows: the titles of what stands beside a picture's name, then that for each.
        names: of the pictures.
    """
    # A file name that is not valid UTF-8 reaches Python as lone surrogates: write them as \udcXX.
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        for name, row in zip(["picture", *names], rows, strict=True):
            writer.writerow([name, *row])


def _rows(logits: FloatArray, labels: IntArray, classes: Sequence[str]) -> Iterator[list[str]]:
    """The columns of the CSV: titles, then a row for each picture."""
    yield ["label", "prediction", "correct", "confidence", *_titles(classes)]
    for label, scores, row in zip(labels.tolist(), logits, softmax(logits), strict=True):
        guess = int(np.argsort(-scores, kind="stable")[0])  # of equals, the first
        right = "true" if guess == label else "false"
        shown = _probabilities(scores, row, classes)
        yield [classes[label], classes[guess], right, f"{row[guess]:.6g}", *shown]


def _rows_of_several(
    logits: FloatArray, labels: IntArray, classes: Sequence[str]
) -> Iterator[list[str]]:
    """Likewise, with the classes of a picture, and those called present, between ``|``."""
    yield ["labels", "predictions", "correct", *_titles(classes)]
    for own, scores, row in zip(labels, logits, sigmoid(logits), strict=True):
        called = scores >= 0
        right = "true" if np.array_equal(own == 1, called) else "false"
        sets = [
            "|".join(classes[k] for k in np.flatnonzero(part).tolist()) for part in (own, called)
        ]
        yield [*sets, right, *_probabilities(scores, row, classes)]


def _titles(classes: Sequence[str]) -> list[str]:
    """Of a column for each class, or with many classes for the five most probable."""
    if len(classes) <= _MAX_ROWS:
        return [f"p({name})" for name in classes]
    return [f"top{k}" for k in range(1, 6)]


def _probabilities(scores: FloatArray, row: FloatArray, classes: Sequence[str]) -> list[str]:
    if len(classes) <= _MAX_ROWS:
        return [f"{p:.6g}" for p in row]
    order = np.argsort(-scores, kind="stable")  # equals stay in the order of the classes
    return [f"{classes[k]}:{row[k]:.6g}" for k in order[:5]]


def summary_text(metrics: AnyMetrics, classes: Sequence[str]) -> str:
    """The metrics as a readable block of lines, without a line end at the last."""
    if isinstance(metrics, MultiLabelMetrics):
        return _summary_of_several(metrics)
    low, high = metrics.top1_interval
    right = sum(metrics.confusion[i][i] for i in range(len(classes)))
    lines = [
        f"top-1     {metrics.top1:7.2%}   {right} of {metrics.num_images} right, "
        f"95 % interval {low:.2%} to {high:.2%}"
    ]
    if metrics.top5 is not None:
        lines.append(f"top-5     {metrics.top5:7.2%}")
    lines.append(f"loss      {metrics.loss:7.4f}   mean cross-entropy")
    lines.append(f"macro F1  {metrics.macro_f1:7.4f}{_without_absent(metrics.per_class)}")
    note = (
        f"   {metrics.roc_auc_note}" if metrics.roc_auc_note else "   each class against the rest"
    )
    lines.append(f"ROC AUC   {_number(metrics.roc_auc, 4):>7}{note}")
    return "\n".join([*lines, "", *_class_table(metrics.per_class)])


def _summary_of_several(metrics: MultiLabelMetrics) -> str:
    interval = metrics.mean_average_precision_interval
    note = "   no picture has a label"
    if interval is not None:
        absent = sum(area is None for area in metrics.average_precision)
        without = f", without {absent} classes that have no pictures" if absent else ""
        note = f"   95 % interval {interval[0]:.4f} to {interval[1]:.4f}{without}"
    answers = metrics.num_images * len(metrics.per_class)
    wrong = round(metrics.hamming_loss * answers)
    lines = [
        f"mAP       {_number(metrics.mean_average_precision, 4):>7}{note}",
        f"loss      {metrics.loss:7.4f}   mean binary cross-entropy, summed over the classes",
        f"micro F1  {_number(metrics.micro_f1, 4):>7}   a class is present from probability 0.5 on",
        f"macro F1  {_number(metrics.macro_f1, 4):>7}{_without_absent(metrics.per_class)}",
        f"exact     {metrics.exact_match:7.2%}   of {metrics.num_images} pictures have every class "
        f"told right",
        f"Hamming   {metrics.hamming_loss:7.4f}   {wrong} of {answers} answers wrong",
        "",
    ]
    return "\n".join([*lines, *_class_table(metrics.per_class, metrics.average_precision)])


def _without_absent(rows: Sequence[ClassMetrics]) -> str:
    """Which classes the macro F1 leaves out, if any."""
    absent = sum(not row.support for row in rows)
    return f"   without {absent} of {len(rows)} classes, which have no pictures" if absent else ""


def _class_table(
    rows: Sequence[ClassMetrics], areas: Sequence[float | None] | None = None
) -> list[str]:
    """A line a class; of many classes the ones with the lowest recall or average precision.

    Args:
        rows: of the classes.
        areas: their average precisions, where there are such.
    """
    told = [row.recall for row in rows] if areas is None else list(areas)
    chosen = list(range(len(rows)))
    lines = []
    if len(rows) > _MAX_ROWS:
        measure = "recall" if areas is None else "average precision"
        lines.append(f"The {_MAX_ROWS} of {len(rows)} classes with the lowest {measure}:")
        known = [k for k in chosen if told[k] is not None]
        chosen = sorted(known, key=lambda k: told[k] or 0.0)[:_MAX_ROWS]
    names = [short_name(rows[k].name, 40) for k in chosen]
    width = max(len("class"), *map(len, names))
    title = "" if areas is None else "      AP"
    lines.append(f"{'class':<{width}}  pictures  precision  recall      F1{title}")
    for name, k in zip(names, chosen, strict=True):
        row = rows[k]
        area = "" if areas is None else f"  {_number(areas[k]):>6}"
        lines.append(
            f"{name:<{width}}  {row.support:>8}  {_number(row.precision):>9}  "
            f"{_number(row.recall):>6}  {_number(row.f1):>6}{area}"
        )
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
