"""The card of a published model: README.md of its repository on the Hugging Face Hub."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vit_lightning.data.transforms import Preprocessing
from vit_lightning.factory import ModelBundle
from vit_lightning.info import count_parameters
from vit_lightning.models.config import ViTConfig
from vit_lightning.prediction import preprocessing_of
from vit_lightning.publish.markdown import escape, table
from vit_lightning.publish.run_card import (
    base_on_hub,
    count_validations,
    data_section,
    dataset_name,
    dataset_on_hub,
    results_section,
    training_section,
    weights_name,
)
from vit_lightning.publish.run_record import Measured, RunRecord, count_pictures

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_MOST_CLASSES = 50  # that are named
_PICTURE_CHANNELS = {1: "L", 3: "RGB"}  # what picture files give, as Pillow calls it


@dataclass(frozen=True)
class Layout:
    """The layout in which weights are published.

    Args:
        only_ours: why timm, and with it transformers, cannot load them; None if they can.
        notes: what differs there all the same.
    """

    only_ours: str | None = None
    notes: tuple[str, ...] = ()


def model_card(
    repo_id: str,
    bundle: ModelBundle,
    layout: Layout,
    run: RunRecord | None = None,
    *,
    license_id: str | None = None,
    figure: str | None = None,
) -> str:
    """The card, in Markdown below metadata in YAML; what is not known is left out.

    Args:
        repo_id: ``org/name``, where the model can be loaded from.
        bundle: the model.
        layout: in which it is published.
        run: that trained it, if known.
        license_id: as the Hub calls it.
        figure: name of the picture, in the same folder, of what the model attends to.

    Raises:
        InputError: what the weights' file says of its preprocessing cannot be.
    """
    config = bundle.model.config
    # Other channels than a picture's are for tensors of one's own.
    known = config.in_channels in _PICTURE_CHANNELS
    preprocessing = preprocessing_of(bundle) if known else None
    counts = run.counts if run else count_pictures((bundle.origin or {}).get("data"))
    sections = [
        f"# {escape(repo_id.partition('/')[2])}",
        _introduction(bundle, run),
        _figure(figure) if figure else "",
        _model_section(bundle, run),
        _classes_section(bundle),
        data_section(counts, run),
        results_section(run) if run else "",
        training_section(run, config, preprocessing) if run and preprocessing else "",
        _preprocessing_section(bundle, preprocessing) if preprocessing else "",
        _loading_section(repo_id, bundle, layout),
    ]
    front = _front_matter(repo_id, bundle, layout, run, license_id)
    return f"---\n{front}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _classifies(config: ViTConfig) -> bool:
    """Whether the model gives one row of logits for a picture."""
    return bool(config.num_classes) and config.pool != "none"


def _front_matter(
    repo_id: str,
    bundle: ModelBundle,
    layout: Layout,
    run: RunRecord | None,
    license_id: str | None,
) -> str:
    """The metadata that the Hub reads, as YAML."""
    from huggingface_hub import ModelCardData

    task = (
        "image-classification" if _classifies(bundle.model.config) else "image-feature-extraction"
    )
    start = run.experiment.model.weights if run else bundle.source
    dataset = dataset_on_hub(run.experiment.data) if run else None
    results = (_eval_results(run, run.best) if run and run.best else None) or None
    ours = layout.only_ours is not None
    data = ModelCardData(
        license=license_id,
        library_name="vit-lightning" if ours else "timm",
        pipeline_tag=task,
        tags=[task, "vit", *([] if ours else ["timm", "transformers"]), "vit-lightning"],
        base_model=base_on_hub(start),
        datasets=None if dataset is None else [dataset],
        metrics=[results[0].metric_type] if results else None,
        model_name=repo_id.partition("/")[2] if results else None,
        eval_results=results,
    )
    return str(data.to_yaml())


def _eval_results(run: RunRecord, best: Measured) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    data = run.experiment.data
    count = count_validations(run, run.final) if run.final and "train" in run.counts else 1
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset_on_hub(data) or ("imagefolder" if data.root else data.name),
            dataset_name=dataset_name(data),
            dataset_split=split,
            metric_type="accuracy" if score.measure == "top-1" else "mean_average_precision",
            metric_name=("Top-1 accuracy" if score.measure == "top-1" else "Mean average precision")
            + (f", best of {count} on this split" if split == "val" and count > 1 else ""),
            metric_value=score.value,
        )
        for split, score in best.scores.items()
        if score.value is not None
    ]


def _introduction(bundle: ModelBundle, run: RunRecord | None) -> str:
    config = bundle.model.config
    does = "turns a picture into features"
    if _classifies(config):
        does = f"tells {config.num_classes:,} classes of pictures apart"
        if bundle.multi_label:
            does = f"tells which of {config.num_classes:,} classes a picture shows, any number"
    elif config.num_classes:
        does = f"gives logits of {config.num_classes:,} classes for each of its tokens"
    made = ", trained with vit-lightning" if run else ""
    words = f"A Vision Transformer that {does}{made}."
    description = escape(run.experiment.description, limit=2000) if run else ""
    return f"{words}\n\n{description}" if description else words


def _figure(name: str) -> str:
    return (
        f"![What the model attends to in a few pictures]({name})\n\n"
        f"*A few validation pictures: the picture, the same lit by the attention rollout over all "
        f"layers, the rollout as heat.*"
    )


def _model_section(bundle: ModelBundle, run: RunRecord | None) -> str:
    config = bundle.model.config
    height, width = config.image_size
    colours = {1: "grey", 3: "colour"}.get(config.in_channels, f"{config.in_channels} channels")
    down, across = config.grid_size
    reads = {"token": "the class token", "gap": "the mean over the patches", "none": "every token"}
    rows = [
        ["parameters", f"{count_parameters(config):,}"],
        ["picture", f"{height} × {width} px, {colours}"],
        ["patches", f"{down} × {across}" + ("" if config.class_token else ", no class token")],
        [
            "encoder",
            f"depth {config.depth}, width {config.embed_dim}, heads {config.num_heads}, "
            f"MLP {config.mlp_dim}",
        ],
        ["activation", "GELU" + (", tanh approximation" if "tanh" in config.activation else "")],
        ["the head reads", reads[config.pool]],
    ]
    if config.resnet is not None:
        depths = ", ".join(map(str, config.resnet.stage_depths)) or "none, its root alone"
        rows.insert(2, ["stem", f"ResNet of width {config.resnet.width}, stages: {depths}"])
    if any(config.dropped_pixels):
        rows_left, columns_left = config.dropped_pixels
        left = f"the last {rows_left} rows and {columns_left} columns"
        rows.append(["not covered by patches", left])
    if config.representation_size is not None:
        rows.append(["before the head", f"a layer of width {config.representation_size} and tanh"])
    if run is None and bundle.source != "config":
        rows.append(["weights", escape(weights_name(bundle.source))])
    return f"## Model\n\n{table(['', ''], rows)}"


def _classes_section(bundle: ModelBundle) -> str:
    """The first class names, numbered as the outputs; empty if they are not known."""
    if not bundle.classes:
        return ""
    names = bundle.classes[:_MOST_CLASSES]
    lines = [f"{index}. {escape(name, limit=100)}" for index, name in enumerate(names)]
    more = len(bundle.classes) - len(names)
    beyond = f"\n\nand {more:,} more, in `config.json` or the weights' header." if more else ""
    several = (
        "; a picture has any number of them, each with the sigmoid of its output as probability"
        if bundle.multi_label
        else ""
    )
    count = f"{len(bundle.classes):,} classes, in the order of the outputs{several}:"
    return f"## Classes\n\n{count}\n\n" + "\n".join(lines) + beyond


def _preprocessing_section(bundle: ModelBundle, preprocessing: Preprocessing) -> str:
    words = _geometry(preprocessing)
    mean, std = preprocessing.mean, preprocessing.std
    if preprocessing.in_channels == 1:
        words += " Colours become grey (luma)."
        mean, std = ((sum(values) / len(values),) for values in (mean, std))
    words += (
        f" Pixels, divided by 255, are normalised with mean {_channels(mean)} and std "
        f"{_channels(std)}."
    )
    if bundle.preprocessing is None:
        words += " (The weights' file does not say so: it is what the original does.)"
    return f"## Preprocessing\n\n{words}"


def _channels(values: Sequence[float]) -> str:
    """A number for each channel, or one if all are the same."""
    return ", ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))


def _geometry(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.image_size
    size, filtered = f"{height} × {width} px", f"{preprocessing.interpolation}, anti-aliased"
    fraction = preprocessing.crop_fraction
    larger = " × ".join(str(math.floor(side / fraction)) for side in preprocessing.image_size)
    if preprocessing.mode == "paper":
        return (
            f"The whole picture is resized to {size} whatever its proportions, bilinear without "
            f"anti-aliasing, as the original does."
        )
    if preprocessing.mode == "modern" or (preprocessing.mode == "crop" and fraction == 1):
        return (
            f"The largest central part of the proportions of {size} is resized to that size "
            f"({filtered})."
        )
    if preprocessing.mode == "crop":
        return (
            f"The picture is resized in its own proportions until it covers {larger} px "
            f"({filtered}), and the central {size} are cut out."
        )
    if fraction == 1:
        return f"The whole picture is resized to {size} whatever its proportions ({filtered})."
    return (
        f"The whole picture is resized to {larger} px whatever its proportions ({filtered}), and "
        f"the central {size} are cut out."
    )


def _loading_section(repo_id: str, bundle: ModelBundle, layout: Layout) -> str:
    config = bundle.model.config
    usable = _classifies(config) and config.in_channels in _PICTURE_CHANNELS
    blocks = ["## How to load it", "With vit-lightning:", _ours(repo_id, predicts=usable)]
    if layout.only_ours is not None:
        blocks.append(
            f"timm and transformers do not load these weights: {escape(layout.only_ours, 500)}."
        )
        return "\n\n".join(blocks)
    mode = _PICTURE_CHANNELS.get(config.in_channels)
    blocks += ["With timm:", _timm(repo_id, mode, bundle)]
    if _classifies(config):
        blocks += [
            "With transformers, which needs timm for it:",
            _transformers(repo_id, mode, bundle),
        ]
    blocks += [f"What differs in these two: {escape(note, 500)}." for note in layout.notes]
    return "\n\n".join(blocks)


def _ours(repo_id: str, *, predicts: bool) -> str:
    lines = ["from vit_lightning import load_model", "", f'model = load_model("{repo_id}")']
    if not predicts:
        return _code("python", *lines)
    lines[0] = "from vit_lightning import load_model, predict"
    lines += [
        f'prediction = predict("{repo_id}", ["picture.jpg"])[0]',
        "print(prediction.classes[0], prediction.probabilities[0])",
    ]
    shell = _code("sh", f"vit predict picture.jpg --model {repo_id}")
    return f"{_code('python', *lines)}\n\n{shell}"


def _timm(repo_id: str, mode: str | None, bundle: ModelBundle) -> str:
    made = f'model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()'
    if mode is None:
        return _code("python", "import timm", "", made)
    lines = [
        "import timm",
        "import torch",
        "from PIL import Image",
        "",
        made,
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        f'picture = Image.open("picture.jpg").convert("{mode}")',
        "with torch.inference_mode():",
        "    outputs = model(transform(picture)[None])",
    ]
    if bundle.classes and _classifies(bundle.model.config):
        lines += _printed('model.pretrained_cfg["label_names"]', "outputs", bundle)
    return _code("python", *lines)


def _printed(names: str, outputs: str, bundle: ModelBundle) -> list[str]:
    """The lines that print what the outputs for a picture say."""
    if not bundle.multi_label:
        return [f"print({names}[int({outputs}.argmax())])"]
    return [
        f"present = ({outputs}[0].sigmoid() >= 0.5).nonzero().flatten()",
        f"print([{names}[index] for index in present.tolist()])",
    ]


def _transformers(repo_id: str, mode: str | None, bundle: ModelBundle) -> str:
    loaded = f'AutoModelForImageClassification.from_pretrained("{repo_id}")'
    if mode is None:
        imported = "from transformers import AutoModelForImageClassification"
        return _code("python", imported, "", f"model = {loaded}")
    return _code(
        "python",
        "import torch",
        "from PIL import Image",
        "from transformers import AutoImageProcessor, AutoModelForImageClassification",
        "",
        f'processor = AutoImageProcessor.from_pretrained("{repo_id}")',
        f"model = {loaded}",
        f'picture = Image.open("picture.jpg").convert("{mode}")',
        "with torch.inference_mode():",
        "    logits = model(**processor(picture)).logits",
        *_printed("model.config.id2label", "logits", bundle),
    )


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])
