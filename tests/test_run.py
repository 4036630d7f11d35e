"""Whole runs, through the doors that users take."""

import csv
import dataclasses
import gc
import json
import math
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from run_files import read_events, read_rows, read_weights
from vit_lightning.assess import Assessment, evaluate
from vit_lightning.data import datamodule
from vit_lightning.data.datamodule import TrainData
from vit_lightning.data.folder import open_folder
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.errors import InputError
from vit_lightning.experiment import load_experiment
from vit_lightning.factory import create_bundle, load_bundle, load_model, save_model
from vit_lightning.run import TrainResult, conclusion, train
from vit_lightning.run_folder import checkpoint_step
from vit_lightning.settings import DataSettings

REFERENCE = Path(__file__).parent / "reference"
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _few_figures(request: pytest.FixtureRequest) -> None:
    """Only the run that is looked at from all sides draws its figures."""
    if "finished" not in request.fixturenames:
        request.getfixturevalue("few_figures")


# What a finished run leaves


def test_settings_and_surroundings_are_kept(finished: Any) -> None:
    run = finished.result.run
    assert load_experiment(run / "experiment.json") == load_experiment(finished.experiment)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["precision"] in {"32", "bf16-mixed"}
    assert environment["versions"]["torch"] == torch.__version__


def test_metrics_are_in_the_table(finished: Any) -> None:
    run = finished.result.run
    losses = read_rows(run, "train/loss")
    assert list(losses) == [0, 1, 2, 3]
    assert losses[0] == pytest.approx(math.log(10), abs=1e-5)  # a head of zeros
    assert list(read_rows(run, "val/loss")) == [1, 3]
    accuracy = read_rows(run, "val/accuracy")
    assert accuracy[3] == pytest.approx(finished.result.final["val"].top1, abs=1e-6)
    rates = list(read_rows(run, "train/lr").values())
    assert rates[0] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)
    assert all(value > 0 for value in read_rows(run, "train/grad_norm").values())
    assert all(value > 0 for value in read_rows(run, "train/images_per_second").values())
    assert all(value > 0.01 for value in read_rows(run, "train/peak_memory_gb").values())
    assert all(0 <= value <= 1 for value in read_rows(run, "train/data_wait_share").values())
    assert all(0 <= value <= 1 for value in read_rows(run, "train/accuracy").values())


def test_tensorboard_shows_the_run(finished: Any) -> None:
    events = read_events(finished.result.run)
    scalars = {
        "train/loss",
        "train/accuracy",
        "train/lr",
        "train/grad_norm",
        "train/images_per_second",
        "train/data_wait_share",
        "train/peak_memory_gb",
        "val/loss",
        "val/accuracy",
    }
    assert set(events.Tags()["scalars"]) == scalars | {"epoch"}
    for tag in scalars:
        steps = [1, 3] if tag.startswith("val/") else [0, 1, 2, 3]
        assert [event.step for event in events.Scalars(tag)] == steps, tag
    table = read_rows(finished.result.run, "train/loss")
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        list(table.values())
    )


def test_tensorboard_shows_pictures(finished: Any) -> None:
    events = read_events(finished.result.run)
    steps = {
        "train/batch": [0],
        "val/attention": [1, 3],
        "model/position_embedding": [1, 3],
        "val/confusion_matrix": [finished.result.best_step],
        "val/roc_curves": [finished.result.best_step],
    }
    assert set(events.Tags()["images"]) == set(steps)
    for tag, expected in steps.items():
        images = events.Images(tag)
        assert [image.step for image in images] == expected, tag
        assert images[0].encoded_image_string.startswith(b"\x89PNG")
        assert min(images[0].width, images[0].height) > 100


def test_checkpoints_and_model_agree(finished: Any) -> None:
    result: TrainResult = finished.result
    assert result.checkpoint == finished.experiment.parent / "checkpoint" / "finished.ckpt"
    best = result.run / "best.ckpt"
    assert result.checkpoint.read_bytes() == best.read_bytes()
    assert checkpoint_step(best) == result.best_step
    assert checkpoint_step(result.run / "last.ckpt") == result.final_step == 4
    stored = torch.load(result.checkpoint, weights_only=True)["vit_lightning"]
    assert stored["origin"]["run"] == str(result.run)
    assert stored["origin"]["data"] == json.loads((result.run / "data.json").read_text())
    assert stored["origin"]["data"]["val"]["count"] == 359
    expected = read_weights(best)
    for key, value in read_weights(result.run / "model.safetensors").items():
        assert torch.equal(value, expected[key]), key


def test_model_carries_classes_and_preprocessing(finished: Any) -> None:
    for name in ("model.safetensors", "best.ckpt", "last.ckpt"):
        bundle = load_bundle(finished.result.run / name)
        assert bundle.classes == tuple("0123456789")
        assert bundle.preprocessing is not None
        assert bundle.preprocessing["mode"] == "paper"
        assert list(bundle.preprocessing["image_size"]) == [18, 20]
        assert bundle.preprocessing["in_channels"] == 1
        assert bundle.model.config.image_size == (18, 20)
        assert not bundle.model.training


def test_result_says_best_and_final(finished: Any) -> None:
    result: TrainResult = finished.result
    written = json.loads((result.run / "result.json").read_text())
    assert written["chosen_on"] == "val"
    assert written["best"]["step"] == result.best_step
    assert written["final"]["step"] == 4
    for name, metrics in (("best", result.best["val"]), ("final", result.final["val"])):
        assert written[name]["val"] == {
            "num_images": 359,
            "top1": metrics.top1,
            "top1_interval": list(metrics.top1_interval),
            "loss": metrics.loss,
        }
    assert result.best["val"].top1 >= result.final["val"].top1
    assert set(result.best) == {"val"}


def test_report_and_figures_of_the_bestweights(finished: Any) -> None:
    run = finished.result.run
    report = json.loads((run / "eval-val" / "metrics.json").read_text())
    assert report["top1"] == finished.result.best["val"].top1
    assert report["step"] == finished.result.best_step
    with (run / "eval-val" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 359
    right = np.mean([row["correct"] == "true" for row in rows])
    assert right == pytest.approx(report["top1"])
    for name in ("attention.png", "eval-val/confusion_matrix.png", "eval-val/roc_curves.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG"), name


def test_run_says_what_it_does_and_where_everything_is(finished: Any) -> None:
    result, output = finished.result, finished.output
    lines = output.splitlines()
    assert lines[0] == "experiment finished: Digits, looked at from all sides."
    assert "no patch covers the last 2 rows and 4 columns of a picture: they are dropped" in output
    assert "4 steps = 0.1 epochs of 44.9 steps; 0 of warm-up; validation every 2" in output
    chosen = (
        "precision 32, optimizer fused adamw, linear torch, activation_checkpointing selective, "
        "micro_batch 32 of 32, compile off"
    )
    said = f"computes   {chosen}; evaluation after the training in 32"
    assert said in output or torch.cuda.is_available()
    assert f"  best is step {result.best_step} of 4, chosen on val" in lines
    assert f"  best       val: {result.best['val'].top1:.2%} of 359 right" in output
    assert f"everything   {result.run}" in lines
    assert f"eval {finished.experiment} --ckpt-path {result.checkpoint}" in lines[-2]
    assert f"--logdir {result.run.parents[1]}" in lines[-1]


# Evaluation


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_evaluation_gives_what_the_run_reported(
    finished: Any, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result: TrainResult = finished.result
    model = result.checkpoint if suffix == "ckpt" else result.run / "model.safetensors"
    evaluation = evaluate(finished.experiment, model)
    assert evaluation.metrics == result.best["val"]
    assert evaluation.split == "val"
    assert evaluation.folder.parent == result.run.parent
    assert evaluation.folder.name.endswith("-eval-val")
    report = json.loads((evaluation.folder / "metrics.json").read_text())
    assert report["checkpoint"] == str(model)
    assert report["preprocessing"]["image_size"] == [18, 20]
    assert report["experiment"]["name"] == "finished"
    assert "val/roc_curves" in read_events(evaluation.folder).Tags()["images"]
    assert f"evaluating {model} on val: 359 pictures" in capsys.readouterr().out


def test_google_file_and_another_split_are_evaluated(finished: Any) -> None:
    model = REFERENCE / "vit_token_small.npz"  # made for ten classes, and trained on nothing
    evaluation = evaluate(finished.experiment, model, "train", ['loggers=["csv"]'])
    assert (evaluation.split, evaluation.metrics.num_images) == ("train", 1438)
    assert 0 < evaluation.metrics.top1 < 0.5
    assert not list(evaluation.folder.glob("events*"))


def test_test_split_is_evaluated_and_reported_where_there_is_one(
    tiny: dict[str, Any], write: Write, tmp_path: Path, pictures: Path
) -> None:
    for split in ("train", "val"):
        (tmp_path / "three" / split).parent.mkdir(exist_ok=True)
        (tmp_path / "three" / split).symlink_to(pictures / split)
    (tmp_path / "three" / "test").symlink_to(pictures / "train")
    path = write(tiny, data={"root": str(tmp_path / "three")})
    result = train(path)
    assert result.best["test"].num_images == 10
    assert result.best["val"].num_images == 6
    evaluation = evaluate(path, result.checkpoint)
    assert (evaluation.split, evaluation.metrics) == ("test", result.best["test"])


# Lengths


def test_epochs_become_steps(
    tiny: dict[str, Any], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tiny, trainer=None)
    result = train(path, ['trainer={"max_epochs": 2, "val_every_epochs": 1}'])
    assert result.final_step == 5  # 20 pictures in batches of 4
    printed = capsys.readouterr().out
    assert "5 steps = 2.0 epochs of 2.5 steps; 0 of warm-up; validation every 3" in printed
    assert f"vit eval {result.run / 'experiment.json'} --ckpt-path" in printed  # as it was run


def test_early_stopping(tiny: dict[str, Any], write: Write) -> None:
    path = write(tiny, optim={"lr": 1e-12}, trainer={"max_steps": 100, "patience": 2})
    result = train(path)
    assert (result.best_step, result.final_step) == (2, 6)
    assert json.loads((result.run / "result.json").read_text())["final"]["step"] == 6


@pytest.mark.parametrize(("last", "best_step"), [(0.9, 3), (0.5, 2), (0.1, 2)])
def test_the_best_may_be_the_last_step_that_was_not_validated(
    tiny: dict[str, Any],
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    last: float,
    best_step: int,
) -> None:
    measured = conclusion._assess_weights

    def assess(run: Any, checkpoint: Path) -> dict[str, Assessment]:
        found = measured(run, checkpoint)["val"]
        top1 = last if checkpoint.name == "last.ckpt" else 0.5
        metrics = dataclasses.replace(found.metrics, top1=top1)
        return {"val": dataclasses.replace(found, metrics=metrics)}

    monkeypatch.setattr(conclusion, "_assess_weights", assess)
    result = train(write(tiny, trainer={"max_steps": 3}))
    assert (result.best_step, result.final_step) == (best_step, 3)
    assert checkpoint_step(result.run / "best.ckpt") == best_step
    assert checkpoint_step(result.checkpoint) == best_step
    assert result.best["val"].top1 == max(last, 0.5)


# Settings that reach the run


def test_bfloat16_weights_are_trained_and_measured(tiny: dict[str, Any], write: Write) -> None:
    result = train(write(tiny, trainer={"precision": "bf16-true"}))
    stored = torch.load(result.run / "last.ckpt", weights_only=True)["state_dict"]
    assert stored["model.pos_embed"].dtype == torch.bfloat16
    losses = list(read_rows(result.run, "train/loss").values())
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.5 * losses[0]
    assert result.final["val"].loss == pytest.approx(read_rows(result.run, "val/loss")[3], rel=0.1)


def test_weights_of_another_size_are_fed_pictures_of_the_models(
    finished: Any, tiny: dict[str, Any], write: Write
) -> None:
    weights = finished.result.run / "model.safetensors"  # grey pictures of 18 x 20
    result = train(write(tiny, model={"weights": str(weights), "image_size": 32, "in_channels": 3}))
    bundle = load_bundle(result.checkpoint)
    assert bundle.preprocessing is not None
    assert list(bundle.preprocessing["image_size"]) == [32, 32]
    assert bundle.preprocessing["in_channels"] == 3
    assert bundle.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("chosen", "geometry", "crop"),
    [
        (None, {"mode": "crop", "interpolation": "bilinear", "crop_fraction": 0.875}, "modern"),
        ("modern", {"mode": "modern", "interpolation": "bicubic", "crop_fraction": 1.0}, "modern"),
        ("paper", {"mode": "paper", "interpolation": "bilinear", "crop_fraction": 1.0}, "paper"),
    ],
)
def test_preprocessing_of_the_weights_goes_into_the_run_and_out_again(
    tiny: dict[str, Any],
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chosen: str | None,
    geometry: dict[str, Any],
    crop: str,
) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    known = {"mode": "crop", "mean": mean, "std": std, "image_size": [99, 99], "in_channels": 3}
    known |= {"interpolation": "bilinear", "crop_fraction": 0.875}
    shape = {name: value for name, value in tiny["model"].items() if name != "name"}
    fresh = create_bundle("ViT-B_16", num_classes=2, **shape)
    save_model(fresh.model, tmp_path / "w.safetensors", preprocessing=known)
    tiny["model"] = {"name": None, "weights": str(tmp_path / "w.safetensors")}
    path = write(tiny, data={"preprocessing": chosen}, trainer={"max_steps": 1})
    crops = []
    drawn = TrainView.__call__

    def draw(view: TrainView, *args: Any) -> Any:
        crops.append(view.crop)
        return drawn(view, *args)

    monkeypatch.setattr(TrainView, "__call__", draw)
    result = train(path)
    expected = known | geometry | {"image_size": [16, 16]}
    assert load_bundle(result.checkpoint).preprocessing == expected
    assert load_bundle(result.run / "model.safetensors").preprocessing == expected
    assert crops == [crop] * 4
    # What the checkpoint says goes first, whatever the experiment says.
    assert (
        evaluate(path, result.checkpoint, None, ["data.preprocessing=modern"]).metrics
        == (result.best["val"])
    )


def test_shape_of_a_preset_can_be_changed(tiny: dict[str, Any], write: Write) -> None:
    tiny["model"] = {
        "name": "R50+ViT-B_16",
        "image_size": 32,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "mlp_dim": 16,
        "resnet": {"stage_depths": [1], "width": 32},
    }
    result = train(write(tiny), ["trainer.max_steps=1"])
    config = load_model(result.checkpoint).config
    assert config.resnet is not None
    assert (config.resnet.stage_depths, config.resnet.width) == ((1,), 32)


def test_shape_of_ones_own_may_have_any_patch(tiny: dict[str, Any], write: Write) -> None:
    model = {"image_size": 256, "patch_size": 256}
    result = train(write(tiny, model=model, trainer={"max_steps": 1}))
    assert load_model(result.checkpoint).config.grid_size == (1, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precision=16-mixed", "trainer.precision: 16-mixed needs a CUDA GPU"),
        ("trainer.strategy=nonsense", "trainer.strategy: input should be 'auto' or 'ddp'"),
        ("optim.warmup_steps=4", "4 steps of warm-up do not fit into a run of 4"),
        ("model.image_size=4", "an image of 4 x 4 pixels is smaller than one patch of 8 x 8"),
        ("model.num_heads=3", r"embed_dim \(16\) must be divisible by num_heads \(3\)"),
        ("data.root=nowhere", "nowhere: no such folder"),
        ("model.name=ViT-B_166", "unknown model 'ViT-B_166'. Did you mean 'ViT-B_16'"),
        (
            "model.weights=no.npz",
            r"no\.npz: there is no such weights file(.|\n)*vit-lightning/tiny-imagenet",
        ),
        ("checkpoint_dir={file}", "cannot be made .* choose another with checkpoint_dir"),
        ("runs_dir={file}", "cannot be made .* choose another with runs_dir"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_step(
    tiny: dict[str, Any], write: Write, tmp_path: Path, override: str, message: str
) -> None:
    if "16-mixed" in override and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    path = write(tiny)
    with pytest.raises(InputError, match=message):
        train(path, [override.format(file=path)])
    assert not list(tmp_path.glob("**/*.ckpt"))


def test_a_head_is_kept_for_its_own_classes_alone(
    tiny: dict[str, Any], write: Callable[..., Path], pictures: Path, tmp_path: Path
) -> None:
    weights = train(write(tiny)).run / "model.safetensors"
    kept = write(tiny, model={"weights": str(weights), "keep_head": True})
    assert train(kept, ["optim.lr=1e-9"]).best["val"].num_images == 6
    root = tmp_path / "others"
    shutil.copytree(pictures, root)
    for split in ("train", "val"):
        (root / split / "cat").rename(root / split / "wolf")
    with pytest.raises(InputError, match=r"keep_head: .* tells cat, dog\s+apart, .* dog, wolf"):
        train(kept, [f"data.root={root}"])


def test_a_model_without_a_name_is_that_of_its_weights(
    tiny: dict[str, Any], write: Callable[..., Path]
) -> None:
    grey = train(write(tiny, model={"in_channels": 1, "activation": "gelu"})).run
    tiny["model"] = {"name": None, "weights": str(grey / "model.safetensors")}
    again = load_model(train(write(tiny)).run / "model.safetensors").config
    assert again == load_model(grey / "model.safetensors").config
    assert (again.in_channels, again.activation) == (1, "gelu")


def test_an_evaluation_on_other_pictures_of_the_split_says_so(
    tiny: dict[str, Any],
    write: Callable[..., Path],
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny["data"] |= {"root": str(pictures / "train"), "val_fraction": 0.4}
    path = write(tiny)
    checkpoint = train(path).checkpoint
    evaluate(path, checkpoint)
    assert "may have been trained on some of them" not in capsys.readouterr().out
    evaluate(path, checkpoint, overrides=["seed=5"])
    assert "may have been trained on some of them" in capsys.readouterr().out


def test_overrides_are_for_files(tiny: dict[str, Any], write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="overrides are for experiment files"):
        train(load_experiment(write(tiny)), ["optim.lr=1"])


# Pictures that cannot be read


def test_unreadable_pictures_are_left_out_and_told(
    write: Write, tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "holes"
    shutil.copytree(tiny["data"]["root"], root)
    broken = [sorted((root / split / "cat").iterdir())[0] for split in ("train", "val")]
    for path in broken:
        path.write_bytes(b"")
    names = {path.parts[-3]: path.relative_to(root).as_posix() for path in broken}
    experiment = write(tiny, data={"root": str(root)}, trainer={"max_steps": 4})
    with pytest.raises(InputError, match="2 pictures of 16 cannot be read") as caught:
        train(experiment)
    assert all(str(path) in str(caught.value) for path in broken)
    result = train(experiment, ["data.on_bad_image=skip"])
    assert result.best["val"].num_images == 5
    said = capsys.readouterr().out
    assert all(f"left out, as it cannot be read: {name}" in said for name in names.values())
    told = json.loads((result.run / "result.json").read_text())["unreadable"]
    assert told == {split: [name] for split, name in names.items()}


@pytest.mark.parametrize("num_labels", [None, 2])
def test_no_picture_to_validate_on_is_an_error(
    write: Write, tiny: dict[str, Any], tmp_path: Path, num_labels: int | None
) -> None:
    root = tmp_path / "holes"
    shutil.copytree(tiny["data"]["root"], root)
    for path in (root / "val").rglob("*.png"):
        path.write_bytes(b"")
    data: dict[str, Any] = {"root": str(root), "on_bad_image": "skip"}
    if num_labels:
        rows = [f"{p},{p.parent.name},{p.parts[-3]}" for p in sorted(root.rglob("*.png"))]
        (root / "all.csv").write_text("\n".join(["path,label,split", *rows]))
        data |= {"name": "manifest", "root": str(root / "all.csv"), "label_separator": "|"}
    with pytest.raises(InputError, match="none of the pictures to validate on can be read"):
        train(write(tiny, data=data))


@pytest.mark.parametrize("workers", [0, 1])
def test_no_picture_to_train_on_is_said_plainly(
    write: Write, tiny: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    root = tmp_path / "holes"
    shutil.copytree(tiny["data"]["root"], root)
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"")
    data = {"root": str(root), "on_bad_image": "skip", "workers": workers}
    with pytest.raises(InputError) as caught:
        train(write(tiny, data=data))
    assert str(caught.value).startswith("none of the training pictures can be read")


def test_pictures_left_out_are_not_forgotten_by_a_resumed_run(
    write: Write, tiny: dict[str, Any], tmp_path: Path
) -> None:
    root = tmp_path / "holes"
    shutil.copytree(tiny["data"]["root"], root)
    sorted((root / "train" / "cat").iterdir())[0].write_bytes(b"")
    result = train(write(tiny, data={"root": str(root), "on_bad_image": "skip"}))
    stored = torch.load(result.run / "last.ckpt", weights_only=True)["TrainData"]
    assert stored == {"train": [0], "val": []}
    splits = open_folder(root, val_fraction=None, seed=0)
    data = TrainData(splits, Preprocessing("paper", 16), DataSettings(root=str(root)), num_steps=1)
    data.load_state_dict(stored)
    assert data.unreadable_names() == {"train": [splits.train.name(0)], "val": []}


# Decoding


def test_fast_decoding_is_not_for_the_papers_preprocessing(
    write: Write, tiny: dict[str, Any], finished: Any
) -> None:
    with pytest.raises(InputError, match="fast decodes at a reduced scale"):
        train(write(tiny, data={"decoding": "fast", "preprocessing": "paper"}))
    with pytest.raises(InputError, match="fast decodes at a reduced scale"):
        evaluate(finished.experiment, finished.result.checkpoint, None, ["data.decoding=fast"])


def test_pictures_in_memory_are_not_kept(write: Write, tiny: dict[str, Any]) -> None:
    data = {"name": "digits", "root": None, "cache": {}}
    with pytest.raises(InputError, match="it is for picture files"):
        train(write(tiny, data=data))


def test_kept_pictures_change_nothing(write: Write, tiny: dict[str, Any], tmp_path: Path) -> None:
    model = {"in_channels": 1}
    data = {"preprocessing": "modern", "augmentation": {"bundle": "deit", "repeats": 1}}
    plain = train(write(tiny, data=data, model=model))
    cache = {"folder": str(tmp_path / "kept")}
    for _ in range(2):  # decoded, then read
        kept = train(write(tiny, data=data | {"cache": cache}, model=model))
        expected, found = (read_weights(result.run / "last.ckpt") for result in (plain, kept))
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_on_the_device_change_nothing_but_roundings(
    write: Write, tiny: dict[str, Any], workers: int
) -> None:
    augmentation = {"bundle": "deit", "erasing": 0, "repeats": 2, "mixup": 0.5}
    data = {"preprocessing": "modern", "augmentation": augmentation, "workers": workers}
    held = {"on_device": {}}
    runs = [
        train(write(tiny, data=data)),
        train(write(tiny, data=data | held)),
        train(write(tiny, data=data | held, trainer={"micro_batch": 2})),
    ]
    expected, *found = (read_rows(result.run, "train/loss") for result in runs)
    for losses in found:
        assert losses == pytest.approx(expected, abs=1e-3)
        assert losses[3] != pytest.approx(losses[0], abs=1e-3)


def test_unreadable_pictures_are_left_out_on_the_device_too(
    write: Write, tiny: dict[str, Any], tmp_path: Path
) -> None:
    root = tmp_path / "broken"
    shutil.copytree(tiny["data"]["root"], root)
    (root / "train" / "cat" / "3.png").write_bytes(b"")
    data = {"root": str(root), "on_device": {}, "preprocessing": "modern"}
    with pytest.raises(InputError, match=r"1 picture of 16 cannot be read.*\n.*3\.png"):
        train(write(tiny, data=data))
    result = train(write(tiny, data=data | {"on_bad_image": "skip"}))
    told = json.loads((result.run / "result.json").read_text())
    assert told["unreadable"]["train"] == ["train/cat/3.png"]


def test_scaled_pictures_on_the_device_are_refused_where_that_would_be_seen(
    write: Write, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"on_device": {"side": 12}}
    with pytest.raises(InputError, match=r"on_device\.side: the paper's.*preprocessing modern"):
        train(write(tiny, data=data | {"preprocessing": "paper"}))
    train(write(tiny, data=data | {"preprocessing": "modern"}))
    said = "".join(capsys.readouterr())
    assert "data.on_device.side: 12 pixels are enlarged for a model of 16" in said


def test_no_room_on_the_device_is_said_before_anything_is_made(
    write: Write, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_lightning.data.held.free_memory", lambda: 100)
    with pytest.raises(InputError, match="training pictures of 20 x 24 px"):
        train(write(tiny, data={"on_device": {}}))
    assert not (tmp_path / "runs" / "tiny").exists()


def test_the_device_is_left_to_what_comes_after_the_training(
    write: Write, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Any]] = []
    hold = datamodule.hold

    def noted(*arguments: Any, **options: Any) -> Any:
        found = hold(*arguments, **options)
        held.append(weakref.ref(found.levels))
        return found

    def conclude(*_: Any) -> Any:
        gc.collect()
        assert [reference() for reference in held] == [None]
        raise InputError("seen")

    monkeypatch.setattr(datamodule, "hold", noted)
    monkeypatch.setattr("vit_lightning.run.conclude", conclude)
    with pytest.raises(InputError, match="seen"):
        train(write(tiny, data={"on_device": {}}))


def test_the_weights_that_a_run_starts_from_are_not_written_over(
    tiny: dict[str, Any], write: Callable[..., Path], few_figures: None
) -> None:
    first = train(write(tiny))
    before = first.checkpoint.read_bytes()
    again = [f"model.weights={first.checkpoint}", "model.name=null"]
    with pytest.raises(InputError, match=r"over the weights it starts from.*another name"):
        train(write(tiny), again)
    assert first.checkpoint.read_bytes() == before
    assert train(write(tiny), [*again, "name=second"]).checkpoint != first.checkpoint


@pytest.mark.parametrize("augmentation", [{}, {"crop": "none"}, {"crop": "paper"}])
def test_the_smallest_crop_is_of_a_modern_crop(
    tiny: dict[str, Any], write: Callable[..., Path], augmentation: dict[str, Any]
) -> None:
    settings = {"augmentation": {**augmentation, "min_crop_area": 0.5}}
    with pytest.raises(InputError, match=r"min_crop_area.*crop modern"):
        train(write(tiny, data=settings))
