"""The card of a published model: what it says, and that nothing in it can break it."""

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from finished_run import Finished
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.publish.markdown import escape, one_line
from vit_lightning.publish.model_card import Layout, model_card
from vit_lightning.publish.run_card import base_on_hub, weights_name
from vit_lightning.publish.run_record import Measured, RunRecord, Score, read_run
from vit_lightning.settings import AugmentationSettings

TINY = ViTConfig(
    image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, mlp_dim=16, num_classes=3
)
REPO = "someone/tiny_model"
HOSTILE = [
    "---",
    "a\n---\nlicense: mit\n---\nb",
    "```",
    "`rm -rf`",
    "<script>alert(1)</script>",
    "<!-- a",
    "[a](javascript:alert)",
    "![a](https://example.org/a.png)",
    "a | b",
    "| --- |",
    "# heading",
    "- item",
    "3. item",
    "> quote",
    "    code",
    "*a* _b_ ~~c~~",
    "$$x$$",
    "\\(x\\)",
    "&lt;b&gt;",
    "{{ a }} {% b %}",
    "key: [value",
    "'\"",
    "\ud800",
    "\x00\x1b[31m",
    "a\u202eb",
    "\u2028",
    "ünïcödé 猫 🐝",
    "",
]


def render(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def bundle_of(config: ViTConfig = TINY, **fields: Any) -> ModelBundle:
    values = {"classes": None, "preprocessing": None, "origin": None, "report": None}
    return ModelBundle(VisionTransformer(config), **(values | {"source": "config"} | fields))


def body(card: str) -> str:
    return str(ModelCard(card).text)


@pytest.fixture(scope="module")
def run(finished: Finished) -> RunRecord:
    return read_run(finished.result.run)


@pytest.fixture(scope="module")
def card(run: RunRecord) -> str:
    return model_card(REPO, load_bundle(run.weights), Layout(), run, figure="attention.png")


def test_the_metadata(card: str, run: RunRecord) -> None:
    data = ModelCard(card).data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-classification"
    assert data.tags == ["image-classification", "vit", "timm", "transformers", "vit-lightning"]
    for unknown in ("license", "base_model", "datasets", "language"):
        assert unknown not in data.to_dict()
    result = json.loads((run.folder / "result.json").read_text())
    (entry,) = data.eval_results
    assert entry.metric_value == result["best"]["val"]["top1"]
    assert entry.metric_type == "accuracy"
    assert entry.metric_name == "Top-1 accuracy, best of 2 on this split"
    assert (entry.task_type, entry.dataset_type) == ("image-classification", "digits")
    assert entry.dataset_split == "val"
    licensed = ModelCard(model_card(REPO, bundle_of(), Layout(), run, license_id="cc-by-4.0")).data
    assert licensed.license == "cc-by-4.0"


def test_the_figures_are_those_of_the_result(card: str, run: RunRecord) -> None:
    result = json.loads((run.folder / "result.json").read_text())
    text = body(card)
    for name in ("best", "final"):
        score = result[name]["val"]
        low, high = score["top1_interval"]
        line = (
            f"| {result[name]['step']} | val | {score['num_images']} | {score['top1']:.2%} | "
            f"{low:.2%} to {high:.2%} | {score['loss']:.4f} |"
        )
        assert line in text
    metrics = json.loads((run.folder / "eval-val" / "metrics.json").read_text())
    assert f"macro F1 {metrics['macro_f1']:.4f}" in text
    assert f"area under the ROC curve {metrics['roc_auc']:.4f}" in text
    assert f"top-5 {metrics['top5']:.2%}" in text
    assert "best of several is a little too good" in text
    counts = json.loads((run.folder / "data.json").read_text())
    assert f"| train | {counts['train']['count']:,} |" in text
    assert f"| val | {counts['val']['count']} |" in text
    assert "| test |" not in text


def test_the_words_of_the_run(card: str, run: RunRecord) -> None:
    text = body(card)
    for words in (
        "# tiny\\_model",
        "tells 10 classes of pictures apart, trained with vit-lightning",
        "Digits, looked at from all sides.",
        "](attention.png)",
        "| parameters | 3,034 |",
        "| picture | 18 × 20 px, grey |",
        "the last 2 rows and 4 columns",
        "UCI Optical Recognition of Handwritten Digits",
        "| start | from scratch |",
        "| length | 4 steps, 0.1 epochs |",
        "| batch | 32 pictures a step |",
        "AdamW, betas 0.9 and 0.999, weight decay 0, gradients clipped to norm 1",
        "| learning rate | 0.01 at its peak, cosine decay |",
        "| augmentation | none |",
        "| precision | 32 |",
        f"torch {run.versions['torch']}",
        "Colours become grey (luma). Pixels, divided by 255, are normalised with mean 0.5 and std",
    ):
        assert words in text
    assert "".join(f"{index}. {index}\n" for index in range(10)) in text
    assert str(run.folder) not in card


def test_a_run_with_a_test_split_whose_best_is_not_its_end(run: RunRecord) -> None:
    score = Score(50, "top-1", 0.75, (0.61, 0.85), 0.5)
    best = Measured(2, {"val": score, "test": Score(40, "top-1", 0.7, (0.54, 0.82), 0.6)})
    other = replace(run, best=best, final=Measured(4, {"val": score}), reports={})
    card = model_card(REPO, load_bundle(run.weights), Layout(), other)
    assert "| best, published here | 2 | test | 40 | 70.00% | 54.00% to 82.00% | 0.6000 |" in card
    assert "| final | 4 | val | 50 | 75.00% |" in card
    assert "weights of step 2 were chosen, the best of 2 measurements on val" in card
    assert "The test pictures had no part in the choice." in card
    names = {entry.dataset_split: entry.metric_name for entry in ModelCard(card).data.eval_results}
    assert names == {
        "val": "Top-1 accuracy, best of 2 on this split",
        "test": "Top-1 accuracy",
    }


def experiment(run: RunRecord, **parts: dict[str, Any]) -> RunRecord:
    """The run with other settings, the parts' names before what they change."""
    changed = {
        name: getattr(run.experiment, name).model_copy(update=change)
        for name, change in parts.items()
    }
    return replace(run, experiment=run.experiment.model_copy(update=changed))


def test_the_recipe(run: RunRecord) -> None:
    crop = AugmentationSettings(degrees=10.0, translate=0.1, scale=0.2)
    other = experiment(
        run,
        model={"name": "ViT-B_16", "weights": "imagenet21k/ViT-B_16"},
        data={"name": "folder", "root": "/home/x/my_pictures", "val_fraction": 0.2,
              "augmentation": crop},
        optim={"name": "sgd", "momentum_dtype": "bfloat16", "decay": "linear",
               "warmup_steps": 2, "label_smoothing": 0.1, "clip_norm": None},
    )  # fmt: skip
    bundle = bundle_of(TINY.replace(drop_path=0.1, dropout=0.2))
    text = body(model_card(REPO, bundle, Layout(), other))
    for words in (
        "my\\_pictures, a folder of pictures for each class.",
        "val is 0.2 of the pictures of each class, held out by seed 0.",
        "| start | fine-tuned from imagenet21k/ViT-B\\_16, with a new head |",
        "SGD, momentum 0.9 kept in bfloat16, weight decay 0 |",
        "0.01 at its peak, linear decay after 2 steps of warm-up",
        "| label smoothing | 0.1 |",
        "| dropout | 0.2 |",
        "| stochastic depth, last block | 0.1 |",
        "random crop by the original's law, flip left to right, rotation up to 10 degrees, shift "
        "up to 0.1 of a side, zoom by up to 0.2",
    ):
        assert words in text
    assert "/home/x" not in text
    modern = bundle_of(preprocessing={"mode": "modern"})
    assert "random resized crop, flip" in model_card(REPO, modern, Layout(), other)


def test_a_data_set_of_the_hub(run: RunRecord) -> None:
    other = experiment(run, data={"name": "cifar10", "root": "data"})
    data = ModelCard(model_card(REPO, bundle_of(), Layout(), other)).data
    assert data.datasets == ["uoft-cs/cifar10"]
    assert data.eval_results[0].dataset_type == "uoft-cs/cifar10"


def test_a_file_without_a_run() -> None:
    card = model_card(REPO, bundle_of(), Layout())
    assert set(ModelCard(card).data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    text = body(card)
    for absent in (
        "## Classes",
        "## Data",
        "## Results",
        "## Training",
        "trained with",
        "| weights |",
    ):
        assert absent not in text
    assert "The weights' file does not say so" in text
    for data in (None, 3, ["train"], {"train": 4}):
        assert "## Data" not in model_card(REPO, bundle_of(origin={"data": data}), Layout())
    origin = {"data": {"train": {"count": 1200}, "val": {"count": "x"}, "test": None}}
    known = bundle_of(origin=origin, classes=("a", "b", "c"), source="/home/x/model.npz")
    text = body(model_card(REPO, known, Layout()))
    assert "| train | 1,200 |" in text
    assert "| val |" not in text
    assert "| weights | model.npz |" in text
    assert "/home/x" not in text


def test_many_classes() -> None:
    bundle = bundle_of(TINY.replace(num_classes=60), classes=tuple(f"c{i}" for i in range(60)))
    text = body(model_card(REPO, bundle, Layout()))
    assert "60 classes, in the order of the outputs:" in text
    assert "\n49. c49\n\nand 10 more" in text
    assert "c50" not in text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_can_break_nothing(name: str, run: RunRecord) -> None:
    bundle = bundle_of(classes=(name, "bee", name))
    other = experiment(run, data={"name": "folder", "root": f"/data/{name}" if name else "/"})
    other = replace(other, experiment=other.experiment.model_copy(update={"description": name}))
    card = model_card(REPO, bundle, Layout(only_ours=name, notes=(name,)), other)
    card.encode("utf-8")
    plain = ModelCard(
        model_card(REPO, replace(bundle, classes=("a", "bee", "c")), Layout("x"), other)
    ).data
    data = ModelCard(card).data
    assert data.to_dict() == plain.to_dict()
    assert "license" not in data.to_dict()
    front = card.split("\n---\n")[0].removeprefix("---\n")
    assert yaml.safe_load(front)["tags"] == ["image-classification", "vit", "vit-lightning"]
    html = render(body(card))
    assert html.count("<h2>") == 7
    assert html.count("<table>") == 4
    assert html.count("<pre>") == 2
    shown = one_line(name)
    listed = html.partition("<ol")[2].partition("</ol>")[0]
    assert listed.count("<li>") == 3
    for tag in ("<script", "<!--", "<a ", "<img", "<em>", "<s>", "<code>", "<blockquote"):
        assert tag not in listed
    if shown:
        written = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert listed.count(f"<li>{written.replace(chr(34), '&quot;')}</li>") == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_renders_as_it_stands(text: str) -> None:
    shown = one_line(text)
    for before, after in (("", ""), ("0. ", ""), ("| ", " | x |\n| --- | --- |\n| y | z |")):
        inline = [token for token in MarkdownIt("commonmark").enable("table").parse(
            f"{before}{escape(text)}{after}"
        ) if token.type == "inline"]  # fmt: skip
        if shown:
            children = inline[0].children or []
            assert "".join(child.content for child in children) == shown
            assert {child.type for child in children} <= {"text", "text_special"}


def test_long_text_is_shortened() -> None:
    assert one_line("a" * 300, limit=10) == "a" * 9 + "…"
    assert one_line(" a\n\tb ") == "a b"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mode": "paper"}, "whatever its proportions, bilinear without anti-aliasing"),
        ({"mode": "modern"}, "The largest central part of the proportions of 24 × 36 px"),
        ({"mode": "crop"}, "The largest central part of the proportions of 24 × 36 px"),
        (
            {"mode": "crop", "crop_fraction": 0.9},
            "until it covers 26 × 40 px (bicubic, anti-aliased), and the central 24 × 36 px are",
        ),
        (
            {"mode": "squash", "interpolation": "bilinear"},
            "The whole picture is resized to 24 × 36 px whatever its proportions (bilinear, anti",
        ),
        (
            {"mode": "squash", "crop_fraction": 0.5, "mean": (0.1, 0.2, 0.3)},
            "resized to 48 × 72 px whatever its proportions (bicubic, anti-aliased), and the "
            "central 24 × 36 px are cut out. Pixels, divided by 255, are normalised with mean 0.1, "
            "0.2, 0.3 and std 0.5.",
        ),
    ],
)
def test_preprocessing_in_words(fields: dict[str, Any], words: str) -> None:
    preprocessing = Preprocessing(image_size=(24, 36), **fields).to_dict()
    bundle = bundle_of(TINY.replace(image_size=(24, 36)), preprocessing=preprocessing)
    assert words in model_card(REPO, bundle, Layout())


@pytest.mark.parametrize(
    ("config", "present", "absent"),
    [
        (TINY, ["transformers", "hf-hub:", 'convert("RGB")', "vit predict"], []),
        (TINY.replace(in_channels=1), ['convert("L")'], ["RGB"]),
        (TINY.replace(in_channels=5), ["from_pretrained", "hf-hub:"], ["picture.jpg", "## Pre"]),
        (TINY.replace(num_classes=0), ["image-feature-extraction"], ["AutoModel", "vit predict"]),
        (TINY.replace(pool="none"), ["logits of 3 classes for each"], ["AutoModel", "vit predict"]),
        (TINY.replace(pool="gap"), ["no class token", "the mean over the patches"], []),
        (TINY.replace(resnet=ResNetConfig(()), image_size=64), ["stages: none"], []),
        (TINY.replace(representation_size=4), ["a layer of width 4 and tanh"], []),
        (TINY.replace(activation="gelu"), ["| activation | GELU |"], []),
    ],
)
def test_what_the_model_is(config: ViTConfig, present: list[str], absent: list[str]) -> None:
    card = model_card(REPO, bundle_of(config), Layout())
    for words in present:
        assert words in card
    for words in absent:
        assert words not in card


def test_the_code_is_code(card: str) -> None:
    blocks = [part.split("\n```")[0] for part in card.split("```python\n")[1:]]
    assert len(blocks) == 3
    for block in blocks:
        ast.parse(block)
        assert REPO in block
    assert f"vit predict picture.jpg --model {REPO}" in card


def test_what_only_we_load() -> None:
    card = model_card(REPO, bundle_of(), Layout(only_ours="it is too new"))
    assert ModelCard(card).data.library_name == "vit-lightning"
    assert "timm and transformers do not load these weights: it is too new." in card
    assert "hf-hub:" not in card


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("imagenet21k/ViT-B_16", "imagenet21k/ViT-B_16"),
        ("imagenet21k+imagenet2012/ViT-B_16", "imagenet21k+imagenet2012/ViT-B_16"),
        ("imagenet21k/ViT-B_16.npz", "imagenet21k/ViT-B_16"),
        ("ViT-B_16.npz", "ViT-B_16.npz"),
        ("imagenet21k/ViT-B_61", "imagenet21k/ViT-B_61"),
        ("timm/vit_base_patch16_224.augreg_in21k", "timm/vit_base_patch16_224.augreg_in21k"),
        ("hf-hub:a/b@main", "a/b@main"),
        ("checkpoint/ViT-B_16.npz", "ViT-B_16.npz"),
        ("/home/x/weights", "weights"),
        ("~/x/y.ckpt", "y.ckpt"),
        ("https://me:secret@example.org/a/b.npz?key=secret#c", "https://example.org/a/b.npz"),
    ],
)
def test_weights_are_named_without_secrets(spec: str, name: str) -> None:
    assert weights_name(spec) == name


def test_the_base_model_is_named_if_the_hub_had_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "models--timm--vit_tiny"
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    (cache / "snapshots" / "abc" / "config.json").write_text("{}")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert base_on_hub("timm/vit_tiny") == base_on_hub("hf-hub:timm/vit_tiny") == "timm/vit_tiny"
    for other in (None, "timm/vit_small", "imagenet21k/ViT-B_16", "a/b/c", "config"):
        assert base_on_hub(other) is None
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cache, tmp_path / "timm" / "vit_tiny")  # a folder of that name is meant
    assert base_on_hub("timm/vit_tiny") is None


def test_a_model_of_several_labels(run: RunRecord) -> None:
    optim = run.experiment.optim.model_copy(
        update={"loss": "focal", "focal_gamma": 1.5, "class_weights": {"a|b": 2.0}}
    )
    experiment = run.experiment.model_copy(update={"optim": optim})
    undefined = Score(7, "mAP", None, None, 0.25)
    best = Measured(2, {"val": Score(50, "mAP", 0.75, (0.61, 0.85), 1.5), "test": undefined})
    figures = {"val": {"exact_match": 0.5, "micro_f1": 0.625, "macro_f1": None}}
    several = replace(run, experiment=experiment, best=best, final=best, reports=figures)
    bundle = bundle_of(classes=tuple("abc"), multi_label=True)
    card = model_card(REPO, bundle, Layout(), several)
    (entry,) = ModelCard(card).data.eval_results
    assert (entry.metric_type, entry.metric_value) == ("mean_average_precision", 0.75)
    text = body(card)
    for words in (
        "tells which of 3 classes a picture shows, any number",
        "| split | pictures | mAP | 95 % interval | loss |",
        "| val | 50 | 0.7500 | 0.6100 to 0.8500 | 1.5000 |",
        "| test | 7 | – | – | 0.2500 |",
        "The intervals are bootstrapped over the pictures",
        "every class told right 50.00%, micro F1 0.6250.",
        "| loss | focal, γ 1.5 |",
        "| class weights | a\\|b: 2 |",
        "a picture has any number of them, each with the sigmoid",
        "present = (outputs[0].sigmoid() >= 0.5).nonzero().flatten()",
        "print([model.config.id2label[index] for index in present.tolist()])",
    ):
        assert words in text, words
    assert "argmax" not in text


def test_the_result_of_a_run_of_several_labels_is_read(run: RunRecord, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    value = {
        "num_images": 9,
        "mean_average_precision": 0.5,
        "mean_average_precision_interval": [0.25, 0.75],
        "loss": 2.0,
    }
    nothing = value | {"mean_average_precision": None, "mean_average_precision_interval": None}
    result = {"best": {"step": 2, "val": value}, "final": {"step": 4, "val": nothing}}
    (folder / "result.json").write_text(json.dumps(result))
    found = read_run(folder)
    assert found.best.scores == {"val": Score(9, "mAP", 0.5, (0.25, 0.75), 2.0)}
    assert found.final.scores == {"val": Score(9, "mAP", None, None, 2.0)}
