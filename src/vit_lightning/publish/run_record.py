"""What the folder of a run tells to those who look at it later."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment, parse_experiment
from vit_lightning.json_file import read_json
from vit_lightning.run_folder import (
    ATTENTION_FILE,
    BEST_CHECKPOINT,
    DATA_FILE,
    EXPERIMENT_FILE,
    MODEL_FILE,
    RESULT_FILE,
)

SPLITS = ("train", "val", "test")

_ENVIRONMENT_FILE = "environment.json"
_METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Score:
    """What weights reached on a split; see :mod:`vit_lightning.evaluation`.

    Args:
        num_images: pictures evaluated.
        measure: "top-1", or "mAP" where a picture has any number of labels.
        value: in [0, 1]; None where it is undefined.
        interval: of 95 %, likewise.
        loss: in nats.
    """

    num_images: int
    measure: str
    value: float | None
    interval: tuple[float, float] | None
    loss: float

    def __str__(self) -> str:
        """The value, such as ``97.30%`` or ``0.9730``."""
        return "–" if self.value is None else self._text(self.value)

    @property
    def interval_text(self) -> str:
        """Both ends, in the same way."""
        return "–" if self.interval is None else " to ".join(map(self._text, self.interval))

    def _text(self, value: float) -> str:
        return f"{value:.2%}" if self.measure == "top-1" else f"{value:.4f}"


@dataclass(frozen=True)
class Measured:
    """Weights that were measured after the training.

    Args:
        step: optimizer steps behind them.
        scores: split → what they reached.
    """

    step: int
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class RunRecord:
    """A run, by its files.

    Args:
        folder: the run's.
        experiment: its settings.
        counts: split → pictures, of the splits that the data set has.
        precision: of the training, if known.
        versions: package → version that it ran with.
        best: the weights that the run hands over; None if it is not finished.
        final: the weights at its end; likewise.
        reports: split → the plain values of the best weights' evaluation, where there is one.
    """

    folder: Path
    experiment: Experiment
    counts: Mapping[str, int]
    precision: str | None
    versions: Mapping[str, str]
    best: Measured | None
    final: Measured | None
    reports: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The experiment's name and that of the folder, without what lies above."""
        return f"{self.experiment.name}/{self.folder.resolve().name}"

    @property
    def weights(self) -> Path:
        """The file of its best weights.

        Raises:
            InputError: it has none yet.
        """
        for name in (MODEL_FILE, BEST_CHECKPOINT):
            if (self.folder / name).is_file():
                return self.folder / name
        raise InputError(
            f"{self.folder}: this run has no weights yet: neither {MODEL_FILE}, which it writes "
            f"at its end, nor {BEST_CHECKPOINT}, which it writes after a validation"
        )

    @property
    def figure(self) -> Path | None:
        """The picture of what the best weights attend to, if there is one."""
        path = self.folder / ATTENTION_FILE
        return path if path.is_file() else None


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a run."""
    return (path / EXPERIMENT_FILE).is_file()


def read_run(folder: Path) -> RunRecord:
    """Read the files of a run, finished or not; the weights are not opened.

    Raises:
        InputError: a file is missing or damaged.
    """
    experiment = folder / EXPERIMENT_FILE
    environment = _read_if_there(folder / _ENVIRONMENT_FILE)
    result = _read_if_there(folder / RESULT_FILE)
    try:
        best, final = (_measured(result[key]) if result else None for key in ("best", "final"))
        versions = environment.get("versions", {})
        return RunRecord(
            folder,
            parse_experiment(read_json(experiment), str(experiment)),
            count_pictures(read_json(folder / DATA_FILE, "data set's")),
            environment.get("precision"),
            {name: str(number) for name, number in versions.items() if number},
            best,
            final,
            _reports(folder, best),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{folder}: {RESULT_FILE} or another file of this run is damaged ({error!r})"
        ) from None


def count_pictures(fingerprint: Any) -> dict[str, int]:
    """Split → pictures, from what tells a data set from another; it may be anything."""
    counts: dict[str, int] = {}
    if not isinstance(fingerprint, Mapping):
        return counts
    for split in SPLITS:
        known = fingerprint.get(split)
        if isinstance(known, Mapping) and type(known.get("count")) is int:
            counts[split] = known["count"]
    return counts


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path, "run's") if path.exists() else {}


def _measured(values: Mapping[str, Any]) -> Measured:
    scores = {}
    for split in SPLITS:
        if split in values:
            found = values[split]
            key = "top1" if "top1" in found else "mean_average_precision"
            value, interval = found[key], found[f"{key}_interval"]
            scores[split] = Score(
                int(found["num_images"]),
                "top-1" if key == "top1" else "mAP",
                None if value is None else float(value),
                None if interval is None else (float(interval[0]), float(interval[1])),
                float(found["loss"]),
            )
    return Measured(int(values["step"]), scores)


def _reports(folder: Path, best: Measured | None) -> dict[str, dict[str, Any]]:
    """The evaluations in a run's folder, if they are of its best weights."""
    reports = {}
    for split in best.scores if best else ():
        values = _read_if_there(folder / f"eval-{split}" / _METRICS_FILE)
        if best and values.get("step") == best.step:
            reports[split] = values
    return reports
