"""Two processes on a CPU do together what one does alone, through the command line."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vit_lightning.factory import create_model, load_model, save_model
from vit_lightning.models.config import ViTConfig
from vit_lightning.run import train

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 150.0  # seconds; processes that wait for each other would wait for ever

MODEL: dict[str, Any] = {
    "image_size": 16,
    "in_channels": 1,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 32,
}
EXPERIMENT: dict[str, Any] = {
    "name": "digits",
    "model": {"name": None, **MODEL},
    "data": {
        "name": "digits",  # 359 pictures to validate on: two processes have shares of two sizes
        "batch_size": 33,  # likewise
        "eval_batch_size": 64,
        "workers": 0,
        "augmentation": {"crop": "none", "flip": False, "degrees": 10.0},
    },
    "optim": {"lr": 0.1},
    "trainer": {
        "max_steps": 6,
        "val_every_steps": 3,
        "log_every_steps": 1,
        "accelerator": "cpu",
        "devices": 1,
    },
    "loggers": ["csv"],
}


def _run(arguments: list[str], folder: Path, code: int = 0) -> str:
    """Run a command in ``folder``; it and all its processes are killed if it takes too long."""
    with subprocess.Popen(
        arguments,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIME_LIMIT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, output
    return output


def _column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file) if row[name]]


@pytest.mark.timeout(TIME_LIMIT + 60)
@pytest.mark.parametrize(
    ("adapt", "data"),
    [
        ({}, {}),
        ({"method": "lora", "head_first_steps": 2}, {}),
        ({}, {"on_device": {}}),
    ],
)
def test_two_processes_are_as_one(
    tmp_path: Path, adapt: dict[str, Any], data: dict[str, Any]
) -> None:
    values = EXPERIMENT | {"adapt": adapt, "data": EXPERIMENT["data"] | data}
    if adapt:  # what is not trained, or not at first, no process may wait for in vain
        weights = tmp_path / "weights.safetensors"
        torch.manual_seed(0)
        save_model(create_model(ViTConfig.from_dict(MODEL), num_classes=10), weights)
        values |= {"model": {"name": None, "weights": str(weights)}}
    (tmp_path / "digits.json").write_text(json.dumps(values))
    places = [f"runs_dir={tmp_path / 'alone'}", f"checkpoint_dir={tmp_path / 'alone'}"]
    alone = train(tmp_path / "digits.json", places)
    command = [sys.executable, str(ROOT / "main.py"), "--mode", "train", "--expt", "digits.json"]
    output = _run([*command, "trainer.devices=2"], tmp_path)
    (together,) = (tmp_path / "runs" / "digits").iterdir()  # one folder for both
    for text in ("experiment digits", "everything", "evaluate it"):
        assert output.count(text) == 1

    expected, result = (
        json.loads((run / "result.json").read_text()) for run in (alone.run, together)
    )
    for name in ("best", "final"):
        assert result[name]["step"] == expected[name]["step"]
        assert result[name]["val"]["num_images"] == 359
        assert result[name]["val"]["top1"] == expected[name]["val"]["top1"]
        assert result[name]["val"]["loss"] == pytest.approx(expected[name]["val"]["loss"], rel=1e-5)
    assert result["final"]["val"]["top1"] > 0.2  # something was learnt

    for column in ("train/loss", "train/accuracy", "train/grad_norm", "val/loss", "val/accuracy"):
        values, others = (
            [float(text) for text in _column(run / "metrics.csv", column)]
            for run in (alone.run, together)
        )
        assert len(values) == (2 if column.startswith("val/") else 6)
        assert others == pytest.approx(values, rel=1e-4), column

    for name in ("last.ckpt", "best.ckpt", "model.safetensors"):
        weights = load_model(alone.run / name).state_dict()
        for key, value in load_model(together / name).state_dict().items():
            torch.testing.assert_close(value, weights[key], rtol=1e-4, atol=1e-5, msg=key)

    tables = [run / "eval-val" / "predictions.csv" for run in (alone.run, together)]
    for column in ("picture", "label", "prediction"):
        assert _column(tables[1], column) == _column(tables[0], column)


@pytest.mark.timeout(TIME_LIMIT + 60)
def test_a_picture_that_one_process_cannot_read_is_named_by_both(
    tmp_path: Path, pictures: Path
) -> None:
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    broken = root / "train" / "dog" / "2.png"
    broken.write_bytes(b"no picture")
    data = {"root": str(root), "batch_size": 4, "workers": 0}
    model = EXPERIMENT["model"] | {"in_channels": 3}
    values = EXPERIMENT | {"name": "broken", "data": data, "model": model}
    (tmp_path / "broken.json").write_text(json.dumps(values))
    command = [sys.executable, str(ROOT / "main.py"), "--mode", "train", "--expt", "broken.json"]
    output = _run([*command, "trainer.devices=2"], tmp_path, code=2)
    assert f"{broken}: cannot be read as a picture" in output
    assert "Traceback" not in output
