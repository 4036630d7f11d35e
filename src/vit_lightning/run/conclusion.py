"""What remains of a training run: results, reports, the model."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_lightning.account import say_results
from vit_lightning.assemble import eval_data
from vit_lightning.assess import Assessment, assess
from vit_lightning.console import is_main_process
from vit_lightning.evaluation.multi_label import AnyMetrics
from vit_lightning.factory import load_bundle, save_model
from vit_lightning.figures import save_figure
from vit_lightning.files import atomic_write
from vit_lightning.json_file import write_json
from vit_lightning.models.lora import merge_lora
from vit_lightning.run.preparation import Run, checkpoint_copy
from vit_lightning.run_folder import (
    ATTENTION_FILE,
    EXPERIMENT_FILE,
    MODEL_FILE,
    RESULT_FILE,
    checkpoint_step,
)
from vit_lightning.training.loggers import build_loggers


@dataclass(frozen=True)
class TrainResult:
    """What a training run gave.

    Args:
        run: the run's folder.
        checkpoint: copy of the best checkpoint, under the experiment's name.
        best: split → metrics of the best weights, chosen on "val".
        best_step: optimizer steps after which they were reached.
        final: split → metrics of the last weights.
        final_step: optimizer steps made; fewer than planned after early stopping.
    """

    run: Path
    checkpoint: Path
    best: dict[str, AnyMetrics]
    best_step: int
    final: dict[str, AnyMetrics]
    final_step: int


def conclude(run: Run, path: Path | None) -> TrainResult:
    """Measure the final and the best weights, write what remains of the run, say where it is."""
    merge_lora(run.task.model)  # as those that are loaded into it
    final_step = checkpoint_step(run.last)
    final = _assess_weights(run, run.last)
    best, best_step = final, final_step
    if run.best_path.exists() and checkpoint_step(run.best_path) != final_step:
        candidate = _assess_weights(run, run.best_path)
        # The end of a run is not always a step that was validated: it may be the best of all.
        if candidate["val"].metrics.score >= final["val"].metrics.score:
            best, best_step = candidate, checkpoint_step(run.best_path)
    checkpoint = checkpoint_copy(run.experiment)
    if is_main_process():
        if best is final:
            _copy(run.last, run.best_path)
        _write_reports(run, best, best_step)
        _copy(run.best_path, checkpoint)
        result: dict[str, Any] = {
            "chosen_on": "val",
            "best": {"step": best_step, **_headlines(best)},
            "final": {"step": final_step, **_headlines(final)},
            "unreadable": run.unreadable,
        }
        write_json(run.folder / RESULT_FILE, result)  # comes last: the run is finished
        say_results(
            {"best": best, "final": final},
            f"best is step {best_step} of {final_step}, chosen on val"
            + (
                "; all of the averaged weights"
                if run.experiment.optim.ema_decay is not None
                else ""
            ),
            run.folder,
            checkpoint,
            path or run.folder / EXPERIMENT_FILE,
            run.experiment.runs_dir,
        )
    return TrainResult(
        run.folder,
        checkpoint,
        {split: item.metrics for split, item in best.items()},
        best_step,
        {split: item.metrics for split, item in final.items()},
        final_step,
    )


def _assess_weights(run: Run, checkpoint: Path) -> dict[str, Assessment]:
    """A checkpoint's weights on val, and on test where there is one; the task keeps them."""
    # Measured in float32, also after a training in bf16-true.
    run.task.model.float().load_state_dict(load_bundle(checkpoint).model.state_dict())
    splits = run.data.splits
    assessments = {}
    for split in ("val", "test") if splits.test is not None else ("val",):
        data = eval_data(run.experiment, splits, run.data.preprocessing, split)
        assessments[split] = assess(run.experiment.trainer, run.task, data, split, splits.classes)
    return assessments


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_reports(run: Run, best: dict[str, Assessment], best_step: int) -> None:
    """The model, the reports of the best weights, the attention figure."""
    bundle = load_bundle(run.best_path)
    save_model(
        bundle.model,
        run.folder / MODEL_FILE,
        classes=bundle.classes,
        preprocessing=bundle.preprocessing,
        origin=bundle.origin,
        multi_label=bundle.multi_label,
    )
    boards = [name for name in run.experiment.loggers if name == "tensorboard"]
    loggers = build_loggers(boards, run.folder, run_name="", step=0)
    for split, assessment in best.items():
        header = {"checkpoint": str(run.best_path), "split": split, "step": best_step}
        folder = run.folder / f"eval-{split}"
        assessment.write(folder, header, loggers, best_step)
    for logger in loggers:
        logger.finalize("success")
    save_figure(run.draw_attention(bundle.model), run.folder / ATTENTION_FILE)


def _headlines(assessments: dict[str, Assessment]) -> dict[str, Any]:
    return {split: item.metrics.headlines() for split, item in assessments.items()}
