"""What `vit export` refuses before it begins, also where its packages are not installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tiny_models import bundle_of, random_model
from vit_lightning import export
from vit_lightning.cli import main
from vit_lightning.errors import InputError
from vit_lightning.export import export_onnx

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def test_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> object:
        return None if name in ("onnxscript", "onnxruntime") else object()

    monkeypatch.setattr(export, "find_spec", found)
    message = r"onnxscript and onnxruntime must be installed; use: pip install 'vit-lightning\[onnx"
    with pytest.raises(InputError, match=message):
        export_onnx(bundle_of(random_model()), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(all(map(find_spec, PACKAGES)), reason="they are installed")
def test_packages_that_are_missing_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "vit-lightning/tiny-imagenet", str(tmp_path / "x.onnx")]) == 2
    assert "pip install 'vit-lightning[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x", "x.pt", "x.onnx.data"])
def test_another_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"the file is a \.onnx; give it that suffix"):
        export_onnx(bundle_of(random_model()), tmp_path / name)


@pytest.mark.parametrize("name", ["x.onnx", "x.onnx.data"])
def test_what_is_there_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{name} is already there; remove it, or name another"):
        export_onnx(bundle_of(random_model()), tmp_path / "x.onnx")
    assert (tmp_path / name).read_text() == "mine"


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        export_onnx(bundle_of(random_model()), tmp_path / "file" / "x.onnx")
