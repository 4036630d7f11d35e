"""The account a run gives of itself on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vit_lightning.assemble import Plan
from vit_lightning.assess import Assessment
from vit_lightning.console import evaluate_command, say, tool
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.evaluation.metrics import Metrics
from vit_lightning.evaluation.multi_label import AnyMetrics
from vit_lightning.experiment import Experiment
from vit_lightning.factory import ModelBundle
from vit_lightning.run_folder import ATTENTION_FILE, MODEL_FILE


def say_plan(
    experiment: Experiment,
    plan: Plan,
    precision: str,
    bundle: ModelBundle,
    preprocessing: Preprocessing,
    notes: Sequence[str],
) -> None:
    """Say what a run is going to do.

    Args:
        experiment: its settings.
        plan: its lengths.
        precision: of the training.
        bundle: the model it begins with.
        preprocessing: of the pictures.
        notes: what is to be said of the pictures.
    """
    config = bundle.model.config
    count = sum(parameter.numel() for parameter in bundle.model.parameters())
    say(f"experiment {experiment.name}: {experiment.description}")
    for note in notes:
        say(f"data       {note}")
    height, width = config.image_size
    name = experiment.model.name or "as its weights or shape say"
    say(f"model      {name}, {count:,} parameters, {height} x {width} px, from {bundle.source}")
    say(f"pictures   {preprocessing}")
    known = (bundle.preprocessing or {}).get("mode", preprocessing.mode)
    if known != preprocessing.mode:
        say(
            f"           the weights know pictures preprocessed as {known}, this run does as "
            f"{preprocessing.mode} (data.preprocessing)"
        )
    if any(config.dropped_pixels):
        rows, columns = config.dropped_pixels
        say(
            f"           no patch covers the last {rows} rows and {columns} columns of a "
            f"picture: they are dropped, as the original does"
        )
    if bundle.report is not None:
        say(str(bundle.report))
    say(f"length     {plan}")
    evaluation = experiment.trainer.eval_precision
    say(f"precision  {precision}; evaluation after the training in {evaluation}")


def say_results(
    assessed: Mapping[str, Mapping[str, Assessment]],
    choice: str,
    folder: Path,
    checkpoint: Path,
    experiment: Path,
    runs_dir: str,
) -> None:
    """Say what a run has given, and what can be done with it.

    Args:
        assessed: "best" and "final" → split → what those weights reached.
        choice: how the best was chosen.
        folder: of the run.
        checkpoint: copy of its best checkpoint.
        experiment: the file to evaluate with.
        runs_dir: the folder to give to TensorBoard.
    """
    say("\nresult")
    for name, assessments in assessed.items():
        for split, item in assessments.items():
            say(f"  {name:<10} {split}: {_reached(item.metrics)}, loss {item.metrics.loss:.4f}")
    say(f"  {choice}\n")
    say(f"everything   {folder}")
    say(f"checkpoint   {checkpoint}")
    say(f"model        {folder / MODEL_FILE}")
    say(f"attention    {folder / ATTENTION_FILE}")
    report = folder / "eval-val"
    if isinstance(assessed["best"]["val"].metrics, Metrics):
        say(f"confusion    {report / 'confusion_matrix.png'}\n")
    else:
        say(f"curves       {report / 'precision_recall_curves.png'}\n")
    say(f"evaluate it  {evaluate_command(experiment, checkpoint)}")
    say(f"look at it   {tool('tensorboard')} --logdir {runs_dir}")


def _reached(metrics: AnyMetrics) -> str:
    """The score with its interval."""
    if isinstance(metrics, Metrics):
        low, high = metrics.top1_interval
        return (
            f"{metrics.top1:.2%} of {metrics.num_images} right "
            f"(95 % interval {low:.2%} to {high:.2%})"
        )
    interval = metrics.mean_average_precision_interval
    if interval is None:
        return f"no mAP, as none of {metrics.num_images} pictures has a label"
    return (
        f"mAP {metrics.score:.4f} on {metrics.num_images} pictures "
        f"(95 % interval {interval[0]:.4f} to {interval[1]:.4f})"
    )
