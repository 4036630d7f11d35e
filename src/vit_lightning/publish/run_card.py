"""What a model card says of the run behind a model: data, measured figures, recipe."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from vit_lightning.assemble import plan_steps
from vit_lightning.checkpoints import hub
from vit_lightning.checkpoints.official import find_official
from vit_lightning.checkpoints.repository import WEIGHTS_SUFFIXES
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment
from vit_lightning.models.config import ViTConfig
from vit_lightning.publish.markdown import escape, one_line, table
from vit_lightning.publish.run_record import Measured, RunRecord
from vit_lightning.settings import (
    USUAL_CROP_AREA,
    AdaptSettings,
    AugmentationSettings,
    DataSettings,
    LoRASettings,
    OptimSettings,
)

_PUBLISHED = {
    "digits": "UCI Optical Recognition of Handwritten Digits, by way of scikit-learn",
    "hymenoptera": "the photographs of ants and bees of PyTorch's transfer-learning tutorial",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}
_ON_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}


def dataset_name(data: DataSettings) -> str:
    """What to call the pictures of a run: one line of plain text, no path of this machine."""
    if data.name in _PUBLISHED:
        return _PUBLISHED[data.name]
    return one_line(Path(data.root or "").name) or data.name


def dataset_on_hub(data: DataSettings) -> str | None:
    """The Hub's id of the pictures, if they are there."""
    return _ON_HUB.get(data.name)


def weights_name(spec: str) -> str:
    """What to call the weights that a run began with: plain text, no path of this machine."""
    if "://" in spec:
        parts = urlsplit(spec)  # without a password, a key in the query
        return f"{parts.scheme}://{parts.hostname}{parts.path}"
    if Path(spec).exists():
        return Path(spec).name
    try:
        official = find_official(spec)
    except InputError:  # no name that they have
        official = None
    if official is not None:
        return official.full_name
    local = spec.endswith(WEIGHTS_SUFFIXES) or hub.parse_hub_id(spec) is None
    return Path(spec).name if local else spec.removeprefix("hf-hub:")


def base_on_hub(spec: str | None) -> str | None:
    """The Hub's id of the weights that a run began with, if the Hub's cache shows that they are."""
    repository = hub.parse_hub_id(spec or "")
    if repository is None or Path(spec or "").exists():
        return None
    try:
        hub.find_on_hub(*repository, may_fetch=False)
    except hub.HubError:
        return None
    return repository[0]


def data_section(counts: Mapping[str, int], run: RunRecord | None) -> str:
    """The pictures: what they are, how many; empty if nothing is known."""
    if not counts:
        return ""
    blocks = ["## Data"]
    if run is not None:
        data = run.experiment.data
        kind = ", a folder of pictures for each class" if data.name == "folder" else ""
        blocks.append(f"{escape(dataset_name(data))}{kind}.")
    rows = [[split, f"{count:,}"] for split, count in counts.items()]
    blocks.append(table(["split", "pictures"], rows))
    if run is not None and run.experiment.data.val_fraction is not None:
        blocks.append(
            f"val is {run.experiment.data.val_fraction:.4g} of the pictures of each class, held "
            f"out by seed {run.experiment.seed}."
        )
    return "\n\n".join(blocks)


def results_section(run: RunRecord) -> str:
    """What was measured, with intervals, and how far to trust it."""
    title = "## Results"
    if run.best is None or run.final is None:
        words = "The run behind these weights was not finished: nothing was measured at its end."
        return f"{title}\n\n{words}"
    same = run.best.step == run.final.step
    rows = _result_rows("best = final" if same else "best, published here", run.best)
    rows += [] if same else _result_rows("final", run.final)
    measure = next(iter(run.best.scores.values())).measure
    header = ["weights", "step", "split", "pictures", measure, "95 % interval", "loss"]
    blocks = [title, table(header, rows), _about_the_choice(run, run.best, run.final)]
    if more := [line for split in run.reports if (line := _more_figures(run, split))]:
        blocks.append("\n".join(more))
    return "\n\n".join(blocks)


def count_validations(run: RunRecord, final: Measured) -> int:
    """From how many measurements on val the best was chosen, the one at the end included."""
    every = plan_steps(run.experiment, run.counts["train"]).val_every_steps
    return -(-final.step // every)


def _result_rows(weights: str, measured: Measured) -> list[list[str]]:
    return [
        [
            weights,
            f"{measured.step:,}",
            split,
            f"{score.num_images:,}",
            str(score),
            score.interval_text,
            f"{score.loss:.4f}",
        ]
        for split, score in measured.scores.items()
    ]


def _about_the_choice(run: RunRecord, best: Measured, final: Measured) -> str:
    several = any(score.measure == "mAP" for score in best.scores.values())
    by = "are bootstrapped over the pictures" if several else "are Wilson's"
    settings = run.experiment.trainer
    pairs = settings.merge_tokens
    merging = f", with {pairs} pairs of tokens merged in each block" if pairs else ""
    words = (
        f"Measured after the training in precision {settings.eval_precision}{merging}. The "
        f"intervals {by}: what the number of pictures allows to say."
    )
    if several:
        words += (
            " mAP is the mean over the classes of the average precision; the loss is the binary "
            "cross-entropy, summed over the classes."
        )
    count = count_validations(run, final) if "train" in run.counts else None
    if count == 1:
        return words
    number = f"of {count} measurements" if count else "of all that were measured"
    if best.step == final.step:
        words += (
            f" The weights at the end of the training were also the best {number} on val; the "
            f"best of several is a little too good."
        )
    else:
        words += (
            f" The weights of step {best.step:,} were chosen, the best {number} on val. The best "
            f"of several is a little too good; the figure at the end of the training is not chosen."
        )
    if "test" in best.scores:
        words += " The test pictures had no part in the choice."
    return words


_MORE_FIGURES = {
    "top5": "top-5 {:.2%}",
    "exact_match": "every class told right {:.2%}",
    "micro_f1": "micro F1 {:.4f}",
    "macro_f1": "macro F1 {:.4f}",
}


def _more_figures(run: RunRecord, split: str) -> str:
    """Further figures of the best weights on a split, as a line of a list."""
    report = run.reports[split]
    found = []
    for name, words in _MORE_FIGURES.items():
        if isinstance(report.get(name), float):
            found.append(words.format(report[name]))
    if isinstance(report.get("roc_auc"), float):
        note = report.get("roc_auc_note") or "mean over classes, each against the rest"
        found.append(f"area under the ROC curve {report['roc_auc']:.4f} ({escape(str(note))})")
    return f"- Best weights on {split}: {', '.join(found)}." if found else ""


def training_section(run: RunRecord, config: ViTConfig, preprocessing: Preprocessing) -> str:
    """The settings that matter, for whoever wants to do it again."""
    experiment = run.experiment
    rows = [["start", _start(experiment)], *_adaptation_rows(experiment.adapt)]
    if "train" in run.counts:
        rows += _length_rows(run)
    rows += [
        ["batch", f"{experiment.data.batch_size:,} pictures a step"],
        ["optimizer", _optimizer(experiment.optim)],
        ["learning rate", _learning_rate(run)],
    ]
    rows += _loss_rows(experiment.optim)
    if experiment.data.sampling == "balanced":
        rows.append(["sampling", "every class equally often"])
    rows += [
        [words, f"{rate:g}"]
        for words, rate in (
            ("dropout", config.dropout),
            ("attention dropout", config.attention_dropout),
            ("stochastic depth, last block", config.drop_path),
        )
        if rate
    ]
    rows.append(["augmentation", _augmentation(experiment.data.augmentation, preprocessing)])
    if run.precision:
        rows.append(["precision", escape(str(run.precision))])
    rows.append(["seed", str(experiment.seed)])
    software = [f"{name} {run.versions[name]}" for name in _SOFTWARE if name in run.versions]
    if software:
        rows.append(["software", escape(", ".join(software))])
    return f"## Training\n\n{table(['', ''], rows)}"


_SOFTWARE = ("vit-lightning", "torch", "lightning", "python")


def _start(experiment: Experiment) -> str:
    model = experiment.model
    if model.weights is None:
        return "from scratch"
    kept = " and its head" if model.keep_head else ", with a new head"
    return f"fine-tuned from {escape(weights_name(model.weights))}{kept}"


def _adaptation_rows(settings: AdaptSettings) -> list[list[str]]:
    """What was trained, where it is not everything."""
    rows = []
    if settings.method == "linear":
        rows.append(["trained", "the head alone (linear probe)"])
    elif settings.method == "lora":
        lora = settings.lora or LoRASettings()
        words = f"LoRA of rank {lora.rank}, α {lora.alpha:g}, on {', '.join(lora.targets)} "
        words += "of every block" + (f", dropout {lora.dropout:g}" if lora.dropout else "")
        rows.append(["trained", f"{words}, merged; and the head"])
    elif settings.last_blocks is not None:
        blocks = "block" if settings.last_blocks == 1 else f"{settings.last_blocks} blocks"
        rows.append(["trained", f"the last {blocks}, the last norm and the head"])
    if settings.head_first_steps:
        rows.append(["head alone", f"for the first {settings.head_first_steps:,} steps"])
    if settings.layer_decay < 1.0:
        words = f"each layer {settings.layer_decay:g} times the rate of the next"
        rows.append(["layer decay", words])
    return rows


def _length_rows(run: RunRecord) -> list[list[str]]:
    plan = plan_steps(run.experiment, run.counts["train"])
    steps = run.final.step if run.final else None
    if steps is None:
        return [["length", f"planned: {plan.total_steps:,} steps"]]
    stopped = f", stopped early of {plan.total_steps:,}" if steps < plan.total_steps else ""
    epochs = f"{steps / plan.steps_per_epoch:.1f} epochs"
    return [["length", f"{steps:,} steps{stopped}, {epochs}"]]


def _optimizer(optim: OptimSettings) -> str:
    if optim.name == "sgd":
        words = f"SGD, momentum {optim.momentum:g}"
        words += " kept in bfloat16" if optim.momentum_dtype == "bfloat16" else ""
    else:
        words = f"AdamW, betas {optim.betas[0]:g} and {optim.betas[1]:g}"
        words = f"Muon, beside it {words}" if optim.name == "muon" else words
    words += f", weight decay {optim.weight_decay:g}"
    clipped = optim.clip_norm
    return words + ("" if clipped is None else f", gradients clipped to norm {clipped:g}")


def _loss_rows(optim: OptimSettings) -> list[list[str]]:
    """The loss, where it is not what is usual."""
    rows = []
    if optim.loss is not None:
        gamma = f", γ {optim.focal_gamma:g}" if optim.loss == "focal" else ""
        rows.append(["loss", optim.loss.replace("_", " ") + gamma])
    if optim.class_weights == "balanced":
        rows.append(["class weights", "the inverse of a class' share"])
    elif optim.class_weights is not None:
        pairs = (f"{name}: {weight:g}" for name, weight in optim.class_weights.items())
        rows.append(["class weights", escape(", ".join(pairs), limit=500)])
    if optim.label_smoothing:
        rows.append(["label smoothing", f"{optim.label_smoothing:g}"])
    return rows


def _learning_rate(run: RunRecord) -> str:
    optim = run.experiment.optim
    warmup = optim.warmup_steps
    if warmup is None and "train" in run.counts:
        warmup = plan_steps(run.experiment, run.counts["train"]).warmup_steps
    words = f"{optim.lr:g} at its peak, {optim.decay} decay"
    return words + (f" after {warmup:,} steps of warm-up" if warmup else "")


def _augmentation(settings: AugmentationSettings, preprocessing: Preprocessing) -> str:
    crop = settings.crop or ("paper" if preprocessing.mode == "paper" else "modern")
    area = settings.min_crop_area
    least = f" above {area:g} of the area" if area != USUAL_CROP_AREA else ""
    words = {
        "paper": ["random crop by the original's law"],
        "modern": ["random resized crop" + least],
        "none": [],
    }[crop]
    words += ["flip left to right"] if settings.flip else []
    words += [f"rotation up to {settings.degrees:g} degrees"] if settings.degrees else []
    words += [f"shift up to {settings.translate:g} of a side"] if settings.translate else []
    words += [f"zoom by up to {settings.scale:g}"] if settings.scale else []
    if settings.randaugment is not None:
        policy = settings.randaugment
        spread = f" ± {policy.magnitude_std:g}" if policy.magnitude_std else ""
        words.append(
            f"RandAugment, {policy.num_ops} operations of magnitude {policy.magnitude:g}{spread}"
        )
    words += ["TrivialAugment"] if settings.trivialaugment else []
    words += [f"colour jitter {settings.color_jitter:g}"] if settings.color_jitter else []
    words += [f"random erasing {settings.erasing:g}"] if settings.erasing else []
    words += [f"Mixup, α {settings.mixup:g}"] if settings.mixup else []
    words += [f"CutMix, α {settings.cutmix:g}"] if settings.cutmix else []
    words += [f"each picture {settings.repeats} times a batch"] if settings.repeats > 1 else []
    return ", ".join(words) or "none"
