"""The README and the docs tell the truth: their commands and their Python run.

Trainings are cut short and their models made tiny by settings added to the command; nothing else of
a command is changed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_lightning.checkpoints.shipped import PREFIX
from vit_lightning.cli import _parser, main, main_by_mode
from vit_lightning.experiment import load_experiment
from vit_lightning.factory import create_model, save_model

ROOT = Path(__file__).parents[1]
PICTURES = os.environ.get("VIT_LIGHTNING_DATA")
DOCS = (
    "docs/adaptation.md",
    "docs/augmentation.md",
    "docs/baseline.md",
    "docs/data.md",
    "docs/input.md",
    "docs/models.md",
    "docs/performance.md",
    "docs/pictures.md",
    "docs/runs.md",
    "docs/tiny_imagenet.md",
    "docs/weights.md",
)
TINY = {"embed_dim": 24, "depth": 1, "num_heads": 2, "mlp_dim": 24}
SHORT = [
    "optim.warmup_steps=0",
    "trainer.max_steps=2",
    "trainer.val_every_steps=2",
    "data.workers=0",
]
# Not run here: set-up needs a network and minutes. That the targets exist is checked below.
SETUP = ("make ", "python3 -m venv", ".venv/bin/pip install", ".venv/bin/ruff format --check")


def _blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.split("  #")[0].strip()
    for block in _blocks("README.md", "sh")
    for line in block.splitlines()
    if line.strip()
]


def _small_model(arguments: list[str]) -> list[str]:
    """Settings that make a model tiny; the weights that come with the package are small already."""
    path = next(argument for argument in arguments if argument.endswith(".json"))
    if str(load_experiment(ROOT / path).model.weights).startswith(PREFIX):
        return []
    return [f"model.{name}={value}" for name, value in TINY.items()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that looks like a checkout in which data and weights are where they should be."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / "data" / "my_pictures" / name).mkdir(parents=True)
        for number in range(5):
            pixels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"data/my_pictures/{name}/{number}.jpg")
    shutil.copytree(folder / "data/my_pictures/dogs", folder / "data/my_test_set/dogs")
    if PICTURES:
        (folder / "data" / "hymenoptera_data").symlink_to(Path(PICTURES) / "hymenoptera_data")
    weights = folder / "checkpoint" / "imagenet21k" / "ViT-B_16.npz"
    save_model(create_model("ViT-B_16", **TINY), weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIT_LIGHTNING_CACHE", str(folder / "kept"))
        patch.chdir(folder)
        yield folder


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 15
    assert "python3 main.py --mode train --expt experiments/hymenoptera_pretrain.json" in COMMANDS
    assert (
        "python3 main.py --mode eval --expt experiments/hymenoptera_pretrain.json "
        "--ckpt_path checkpoint/your_model.ckpt"
    ) in COMMANDS


# In the order of the README: an evaluation finds what the training before it has left.
@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(SETUP)])
def test_command_runs(checkout: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "hymenoptera" in command and not PICTURES:
        pytest.skip("VIT_LIGHTNING_DATA does not say where the photographs are")
    program, *arguments = shlex.split(command)
    if "train" in arguments:
        arguments += SHORT + _small_model(arguments)
    if "checkpoint/your_model.ckpt" in arguments:
        shutil.copy("checkpoint/hymenoptera_pretrain.ckpt", "checkpoint/your_model.ckpt")
    if program.endswith("python3"):
        assert arguments[0] == "main.py"
        assert main_by_mode(arguments[1:]) == 0
    elif program == "vit":
        assert main(arguments) == 0
    else:
        assert program in {"ls", "tensorboard"}
        inspect = ["--inspect"] if program == "tensorboard" else []  # instead of serving for ever
        activated = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        found = shutil.which(program, path=activated)
        assert found is not None
        subprocess.run([found, *arguments, *inspect], check=True, timeout=120)
    if "eval" in arguments:
        assert "right, 95 % interval" in capsys.readouterr().out


def test_what_the_commands_leave(checkout: Path) -> None:
    assert {"quickstart", "my_pictures"} <= {path.name for path in Path("runs").iterdir()}
    rows = Path("predictions.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 11
    with Image.open("attention.png") as figure:
        assert min(figure.size) > 200


def test_commands_of_the_docs_are_understood() -> None:
    """They name weights that only a network has; that the words are right is seen without."""
    commands = [
        shlex.split(line, comments=True)
        for name in DOCS
        for block in _blocks(name, "sh")
        for line in block.splitlines()
    ]
    found = [words[1:] for words in commands if words and words[0] == "vit"]
    assert len(found) >= 10
    for arguments in found:
        assert _parser().parse_args(arguments).command is not None


@pytest.mark.parametrize("target", [c.split()[1] for c in COMMANDS if c.startswith("make ")])
def test_make_target_exists(target: str) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make here")
    dry = subprocess.run([make, "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {"quickstart": "main.py --mode train --expt experiments/quickstart.json"}
    assert expected.get(target, "bin/pytest") in dry.stdout


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (name, number)
        for name in ("README.md", *DOCS)
        for number in range(len(_blocks(name, "python")))
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # a plain Trainer gives its hints
@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")  # Lightning 2.6 on torch 2.13
def test_python_runs(checkout: Path, name: str, number: int) -> None:
    block = _blocks(name, "python")[number]
    exec(compile(block, f"{name}, block {number}", "exec"), {})


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", *DOCS):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"
