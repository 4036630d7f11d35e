import csv
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vit_lightning as vl
from vit_lightning.cli import main, main_by_mode
from vit_lightning.console import tool

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"
Write = Callable[..., Path]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that has to be refused; its message."""

    def run(*arguments: str | Path, door: Callable[[list[str]], int] = main) -> str:
        capsys.readouterr()
        assert door([str(argument) for argument in arguments]) == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    return run


def _usage_error(*arguments: str | Path, door: Callable[[list[str]], int] = main) -> None:
    with pytest.raises(SystemExit) as stopped:
        door([str(argument) for argument in arguments])
    assert stopped.value.code == 2


# Doors


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert vl.__version__ in printed
    for command in ("train", "eval", "predict", "attend", "info"):
        assert f"\n    {command} " in printed


def test_main_without_the_package_says_so_in_one_line(tmp_path: Path) -> None:
    # -S leaves out site-packages, and with it the installed package; src/ is not on the path.
    command = [sys.executable, "-S", ROOT / "main.py", "--mode", "train", "--expt", "it.json"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert finished.returncode == 1
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("vit-lightning is not ready")
    assert "pip install" in line


def test_main_with_the_package_takes_the_documented_commands(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "main.py", "--mode", "train", "--expt", "none.json"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert finished.returncode == 2
    assert finished.stderr == "none.json: there is no such experiment file\n"


def test_wrong_use_is_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _usage_error()
    _usage_error("eval", "it.json")
    assert "--ckpt-path" in capsys.readouterr().err
    _usage_error("train", "it.json", "--resme", "auto")
    _usage_error("info", "ViT-B_16", "another")
    assert "unrecognized arguments: another" in capsys.readouterr().err
    _usage_error("--mode", "test", "--expt", "it.json", door=main_by_mode)
    _usage_error("--mode", "eval", "--expt", "it.json", door=main_by_mode)
    assert "--mode eval needs --ckpt_path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("door", "arguments"),
    [
        (main, ["train", "{file}", "optim.lr=-1", "seed=-1"]),
        (main, ["train", "{file}", "optim.lr=-1", "--resume", "auto", "seed=-1"]),
        (main, ["train", "--resume", "auto", "{file}", "optim.lr=-1", "seed=-1"]),
        (main, ["eval", "{file}", "--ckpt-path", "m.ckpt", "optim.lr=-1", "seed=-1"]),
        (main, ["eval", "{file}", "optim.lr=-1", "--ckpt-path", "m.ckpt", "seed=-1"]),
        (main_by_mode, ["--mode", "train", "--expt", "{file}", "optim.lr=-1", "seed=-1"]),
        (
            main_by_mode,
            [
                "optim.lr=-1",
                "--mode",
                "eval",
                "--expt",
                "{file}",
                "seed=-1",
                "--ckpt_path",
                "m.ckpt",
            ],
        ),
    ],
)
def test_overrides_may_stand_anywhere(
    refused: Callable[..., str],
    write: Write,
    tiny: dict[str, Any],
    door: Callable[[list[str]], int],
    arguments: list[str],
) -> None:
    path = str(write(tiny))
    message = refused(*(text.format(file=path) for text in arguments), door=door)
    assert message.splitlines() == [
        "command line: optim.lr: input should be greater than 0 (got -1)",
        "command line: seed: input should be greater than or equal to 0 (got -1)",
    ]


def test_error_of_the_system_is_no_traceback(
    refused: Callable[..., str], finished: Any, pictures: Path, tmp_path: Path
) -> None:
    table = tmp_path / ("x" * 300)  # longer than a name can be
    message = refused("predict", pictures, "--model", finished.result.checkpoint, "--csv", table)
    assert message.startswith("a file cannot be read or written: ")
    assert str(tmp_path) in message


# eval


def test_eval_through_both_doors(
    finished: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = str(finished.result.checkpoint)
    expt, overrides = str(finished.experiment), [f"runs_dir={tmp_path}", 'loggers=["csv"]']
    reports = []
    for door, arguments in (
        (main, ["eval", expt, "--ckpt-path", checkpoint]),
        (main_by_mode, ["--mode", "eval", "--expt", expt, "--ckpt_path", checkpoint]),
    ):
        assert door([*arguments, "--split", "val", *overrides]) == 0
        printed = capsys.readouterr().out
        assert f"top-1     {finished.result.best['val'].top1:7.2%}" in printed
        folder = Path(printed.splitlines()[-1].removeprefix("report: "))
        assert folder.parent == tmp_path / "finished"
        reports.append(json.loads((folder / "metrics.json").read_text()))
        assert {path.name for path in folder.iterdir()} == {
            "metrics.json",
            "predictions.csv",
            "confusion_matrix.png",
            "roc_curves.png",
        }
    assert reports[0]["confusion"] == reports[1]["confusion"]


def test_eval_of_what_is_not_there(refused: Callable[..., str], finished: Any) -> None:
    expt, checkpoint = finished.experiment, finished.result.checkpoint
    message = refused("eval", expt, "--ckpt-path", "checkpoint/none.npz")
    assert message.startswith("checkpoint/none.npz: there is no such weights file.\n")
    assert "vit-lightning/tiny-imagenet" in message
    message = refused("eval", expt, "--ckpt-path", checkpoint, "--split", "test")
    assert message == "there is no split 'test': this data set has train, val\n"


def test_eval_of_a_head_of_zeros_is_refused(
    refused: Callable[..., str], finished: Any, tmp_path: Path
) -> None:
    model = vl.load_model(finished.result.checkpoint)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    vl.save_model(model, tmp_path / "zeros.safetensors")
    message = refused("eval", finished.experiment, "--ckpt-path", tmp_path / "zeros.safetensors")
    assert "the model's head is all zeros" in message
    assert "train the model first" in message


def test_eval_on_other_classes_is_refused(
    refused: Callable[..., str], finished: Any, write: Write, tiny: dict[str, Any], tmp_path: Path
) -> None:
    expt = write(tiny)
    message = refused("eval", expt, "--ckpt-path", finished.result.checkpoint)
    assert (
        "classes that the model was not trained on: cat, dog, and only the model knows" in message
    )
    assert "knows 0, 1, 2, 3, 4, 5, 6, 7 and 2 more;" in message
    message = refused("eval", expt, "--ckpt-path", REFERENCE / "vit_token_small.npz")
    assert "the model's head has 10 classes, the pictures have 2 (cat, dog)" in message
    assert not (tmp_path / "runs").exists()


def test_classes_in_another_order_are_mapped_by_name(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], few_figures: None
) -> None:
    bundle = vl.load_bundle(finished.result.checkpoint)
    assert bundle.classes is not None
    for parameter in bundle.model.head.parameters():
        parameter.data = parameter.data.flip(0)
    swapped = tmp_path / "swapped.safetensors"
    vl.save_model(bundle.model, swapped, bundle.classes[::-1], bundle.preprocessing)
    overrides = [f"runs_dir={tmp_path / 'runs'}"]
    found = vl.evaluate(finished.experiment, swapped, overrides=overrides).metrics
    expected = finished.result.best["val"]
    assert found.top1 == expected.top1
    assert [row.name for row in found.per_class] == list("9876543210")
    assert {row.name: row for row in found.per_class} == {r.name: r for r in expected.per_class}
    output = capsys.readouterr().out
    assert "note: the pictures' classes stand in another order than the model's" in output


def test_pictures_of_some_of_the_models_classes_are_mapped_by_name(
    tiny: dict[str, Any],
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    few_figures: None,
) -> None:
    model = vl.create_model("ViT-Ti_16", num_classes=3, image_size=16)
    torch.nn.init.normal_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 100.0]))
    vl.save_model(model, tmp_path / "model.safetensors", ["bird", "cat", "dog"])
    metrics = vl.evaluate(write(tiny), tmp_path / "model.safetensors").metrics
    assert metrics.confusion == ((0, 0, 0), (0, 0, 3), (0, 0, 3))  # all are called dogs
    bird, _, dog = metrics.per_class
    assert (bird.name, bird.support, bird.recall, bird.f1) == ("bird", 0, None, None)
    assert (dog.name, dog.support, dog.recall) == ("dog", 3, 1.0)
    assert "have 2 of the model's 3 classes: mapped by name" in capsys.readouterr().out


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_hostile_file_is_not_executed(
    refused: Callable[..., str], finished: Any, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    torch.save({"state_dict": Hostile(made)}, tmp_path / "hostile.ckpt")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Hostile(made)))
    for name, text in (
        ("hostile.ckpt", "nothing was executed"),
        ("bare.npz", "is a bare pickle"),
    ):
        message = refused("eval", finished.experiment, "--ckpt-path", tmp_path / name)
        assert message.startswith(str(tmp_path / name))
        assert text in message
    assert not made.exists()


def test_file_that_is_no_model_is_refused(
    refused: Callable[..., str], finished: Any, tmp_path: Path
) -> None:
    checkpoint = finished.result.checkpoint
    model = finished.result.run / "model.safetensors"
    npz = REFERENCE / "vit_token_small.npz"
    contents = {
        "half.ckpt": checkpoint.read_bytes()[:-3000],
        "half.safetensors": model.read_bytes()[:-100],
        "half.npz": npz.read_bytes()[:-3000],
        "start.npz": npz.read_bytes()[:100],
        "empty.ckpt": b"",
        "text.npz": b"<html>403 Forbidden</html>",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        message = refused("eval", finished.experiment, "--ckpt-path", path)
        assert message.startswith(str(path)), name
    assert "a web page" in message
    assert "is a folder" in refused("eval", finished.experiment, "--ckpt-path", tmp_path)
    mixer = REFERENCE / "mixer_small.npz"
    assert "MLP-Mixer" in refused("eval", finished.experiment, "--ckpt-path", mixer)


@pytest.mark.parametrize(
    ("preprocessing", "text"),
    [
        ({"mode": "none", "image_size": [18, 20]}, "mode of preprocessing must be one of"),
        ({"colour": "red"}, "does not describe a preprocessing"),
    ],
)
def test_checkpoint_with_a_description_that_cannot_be(
    refused: Callable[..., str],
    finished: Any,
    tmp_path: Path,
    preprocessing: dict[str, Any],
    text: str,
) -> None:
    contents = torch.load(finished.result.checkpoint, weights_only=True)
    contents["vit_lightning"]["preprocessing"] = preprocessing
    torch.save(contents, tmp_path / "changed.ckpt")
    assert text in refused("eval", finished.experiment, "--ckpt-path", tmp_path / "changed.ckpt")


# train


def test_train_with_wrong_settings_leaves_nothing(
    refused: Callable[..., str], write: Write, tiny: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tiny)
    message = refused("train", path, "model.weights=checkpoint/ViT-B_16.npz")
    assert message.startswith("checkpoint/ViT-B_16.npz: there is no such weights file.\n")
    assert "any copy of the .npz" in message.lower()
    assert "data.root" not in message
    message = refused("train", path, "--resume", tmp_path)
    assert "holds no last.ckpt" in message
    assert {item.name for item in tmp_path.iterdir()} == {"tiny.json"}


def test_unreadable_training_picture_is_named(
    refused: Callable[..., str], write: Write, tiny: dict[str, Any], tmp_path: Path
) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(folder / "a.png")
    broken = tmp_path / "pictures" / "train" / "dog" / "a.png"
    broken.write_bytes(b"no picture")
    path = write(tiny, data={"root": str(tmp_path / "pictures"), "workers": 1})
    message = refused("train", path)
    assert message.startswith("1 picture of ")
    assert f"{broken}: cannot be read as a picture" in message


# predict, attend, info


def test_predict(
    finished: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = pictures / "val" / "cat", tmp_path / "table.csv"
    model = str(finished.result.checkpoint)
    arguments = ["predict", str(folder), "--model", model, "--top", "3", "--csv", str(table)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(folder / "0.png")
    names = [line.split()[-1] for line in lines[1:4]]
    assert all(name in "0123456789" for name in names)
    assert "%" in lines[1]
    assert lines[4] == str(folder / "1.png")
    assert lines[-1] == str(table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert [rows[0][f"class_{rank}"] for rank in (1, 2, 3)] == names


def test_predict_refuses(
    refused: Callable[..., str], finished: Any, pictures: Path, tmp_path: Path
) -> None:
    model = finished.result.checkpoint
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no more")
    message = refused("predict", broken, "--model", model)
    assert message.startswith(f"{broken}: cannot be read as a picture")
    assert refused("predict", "none.jpg", "--model", model) == "none.jpg: no such picture\n"
    message = refused("predict", pictures, "--model", model, "--top", 0)
    assert message == "--top: at least one class, got 0\n"
    message = refused("predict", pictures, "--model", tmp_path / "none.ckpt")
    assert "there is no such weights file" in message


def test_attend_writes_a_picture(
    finished: Any,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    picture, model = str(pictures / "val" / "dog" / "0.png"), str(finished.result.checkpoint)
    assert main(["attend", "--model", model, picture]) == 0
    assert capsys.readouterr().out == "attention.png\n"
    assert main(["attend", picture, "--model", model, "-o", "new/folder/a.png"]) == 0
    for path in ("attention.png", "new/folder/a.png"):
        with Image.open(path) as drawn:
            assert drawn.format == "PNG"


def test_info(
    finished: Any, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info"]) == 0
    table = capsys.readouterr().out
    for name in vl.PRESETS:
        assert f"\n{name} " in table
    assert "86,567,656" in table  # ViT-B_16 with 1,000 classes
    assert main(["info", "R50-ViT-B_16"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("R50+ViT-B_16\n  parameters: 98,659,112\n")
    assert "  embed_dim: 768" in printed
    assert main(["info", str(finished.result.checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "  image_size: (18, 20)" in printed
    assert "  classes: 10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in printed
    assert "  preprocessing: " in printed
    assert "Did you mean 'ViT-B_16'?" in refused("info", "ViT-B_166")
    assert "there is no such weights file" in refused("info", "none.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "train", "--ckpt_path", "x.ckpt"], "are for --mode eval"),
        (["--mode", "train", "--split", "val"], "are for --mode eval"),
        (
            ["--mode", "eval", "--ckpt_path", "x", "--resume", "auto"],
            "--resume is for --mode train",
        ),
    ],
)
def test_an_option_of_the_other_mode_is_not_ignored(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main_by_mode([*arguments, "--expt", "it.json"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_tools_of_an_environment_that_is_not_active_are_named_by_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, inside = tmp_path / "usr" / "bin", tmp_path / ".venv" / "bin"
    for folder in (outside, inside):
        folder.mkdir(parents=True)
    (outside / "python3").touch(mode=0o755)
    (inside / "python3").symlink_to(outside / "python3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(inside / "python3"))
    monkeypatch.setenv("PATH", str(outside))
    assert tool("python3") == ".venv/bin/python3"
    monkeypatch.setenv("PATH", f"{inside}{os.pathsep}{outside}")
    assert tool("python3") == "python3"


def test_what_was_taken_for_granted_is_said_beside_the_results(
    finished: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = vl.create_model("Ti_16", image_size=16, depth=1, num_classes=2)
    torch.nn.init.normal_(model.head.weight)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    assert main(["predict", str(pictures / "val"), "--weights", str(tmp_path / "x.pth")]) == 0
    printed = capsys.readouterr()
    assert "note: no config.json stands beside the weights" in printed.err
    assert "note" not in printed.out
    target = str(tmp_path / "x.safetensors")
    assert main(["convert", str(tmp_path / "x.pth"), target, "--to", "safetensors"]) == 0
    assert "taken for 3" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "x.pth")]) == 0
    assert "\nnote: no config.json" in capsys.readouterr().out


def test_weights_that_say_what_they_take_are_evaluated_as_they_say(
    tiny: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    """Also those of other libraries: the experiment's model is another's."""
    model = vl.create_model("Ti_16", image_size=32, depth=1, num_classes=2)
    torch.nn.init.normal_(model.head.weight)
    vl.save_model(model, tmp_path / "own.safetensors", ("cat", "dog"))
    own = vl.load_bundle(tmp_path / "own.safetensors")
    vl.convert_model(own, tmp_path / "folder", "timm")
    same = [
        vl.evaluate(write(tiny), path).metrics
        for path in (tmp_path / "own.safetensors", tmp_path / "folder")
    ]
    assert same[0].loss == pytest.approx(same[1].loss, abs=1e-6)
    assert same[0].top1 == same[1].top1
