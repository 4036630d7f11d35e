"""The account a run gives of itself on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_lightning.assemble import Plan
from vit_lightning.assess import Assessment
from vit_lightning.console import evaluate_command, say, tool
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.evaluation.metrics import Metrics
from vit_lightning.evaluation.multi_label import AnyMetrics
from vit_lightning.experiment import Experiment
from vit_lightning.factory import ModelBundle
from vit_lightning.models.lora import is_factor
from vit_lightning.models.merging import describe_merging
from vit_lightning.run_folder import ATTENTION_FILE, MODEL_FILE
from vit_lightning.settings import AdaptSettings, LoRASettings


def say_plan(
    experiment: Experiment,
    plan: Plan,
    choices: str,
    bundle: ModelBundle,
    preprocessing: Preprocessing,
    notes: Sequence[str],
) -> None:
    """Say what a run is going to do.

    Args:
        experiment: its settings.
        plan: its lengths.
        choices: what it computes with.
        bundle: the model it begins with.
        preprocessing: of the pictures.
        notes: what is to be said of the pictures.
    """
    config = bundle.model.config
    named = list(bundle.model.named_parameters())
    count = sum(parameter.numel() for name, parameter in named if not is_factor(name))
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
    if experiment.adapt != AdaptSettings():
        total = sum(parameter.numel() for _, parameter in named)
        trained = sum(parameter.numel() for _, parameter in named if parameter.requires_grad)
        say(f"trained    {trained:,} of {total:,} parameters ({_adaptation(experiment.adapt)})")
    say(f"augmented  {_augmentation(experiment, preprocessing)}")
    if unusual := _unusual(experiment):
        say(f"           {unusual}")
    say(f"length     {plan}")
    if plan.steps_per_epoch < 1:
        say(
            f"           a batch of {experiment.data.batch_size} pictures holds every training "
            f"picture {1 / plan.steps_per_epoch:.1f} times (data.batch_size)"
        )
    evaluation = experiment.trainer.eval_precision
    say(f"computes   {choices}; evaluation after the training in {evaluation}")
    if pairs := experiment.trainer.merge_tokens:
        say(f"           {describe_merging(config, pairs)}")


def _augmentation(experiment: Experiment, preprocessing: Preprocessing) -> str:
    """What happens to training pictures, in the words of the settings."""
    settings = experiment.data.augmentation
    crop = settings.crop or ("paper" if preprocessing.mode == "paper" else "modern")
    values = settings.model_dump(exclude={"bundle", "crop", "flip"}, exclude_defaults=True)
    return ", ".join([f"crop {crop}", *(["flip"] if settings.flip else []), *_in_words(values)])


def _adaptation(settings: AdaptSettings) -> str:
    """What is trained, in the words of the settings."""
    words = [settings.method]
    if settings.method == "lora":
        lora = settings.lora or LoRASettings()
        words += [f"of rank {lora.rank}, alpha {lora.alpha:g} on {' '.join(lora.targets)}"]
        words += [f"with dropout {lora.dropout:g}"] if lora.dropout else []
    values = settings.model_dump(exclude={"method", "lora"}, exclude_defaults=True)
    return ", ".join([" ".join(words), *_in_words(values)])


def _unusual(experiment: Experiment) -> str:
    """What else a reader of the figures should know of how pictures and classes are treated."""
    data = experiment.data.model_dump(
        include={"decoding", "cache", "on_device", "sampling", "on_bad_image"},
        exclude_defaults=True,
    )
    optim = experiment.optim.model_dump(
        include={"loss", "focal_gamma", "class_weights", "label_smoothing"}, exclude_defaults=True
    )
    return ", ".join(_in_words(data | optim))


def _in_words(values: Mapping[str, Any]) -> list[str]:
    """Settings as ``name value``, those within others in brackets."""
    words = []
    for name, value in values.items():
        if value is True:
            words.append(name)
        elif isinstance(value, Mapping):
            inner = ", ".join(_in_words(value))
            words.append(f"{name} ({inner})" if inner else name)
        elif value is not None and value is not False:
            words.append(f"{name} {value}")
    return words


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
