"""What `vit export` refuses before it begins, also where its packages are not installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tiny_models import bundle_of, random_model
from vit_lightning import export
from vit_lightning.cli import main
from vit_lightning.errors import InputError
from vit_lightning.export import export_onnx
from vit_lightning.factory import load_bundle

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def test_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> object:
        return None if name in ("onnxscript", "onnxruntime") else object()

    monkeypatch.setattr(export, "find_spec", found)
    message = r"onnxscript, onnxruntime cannot be found; use: pip install 'vit-lightning\[onnx\]'"
    with pytest.raises(InputError, match=message):
        export_onnx(bundle_of(random_model()), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(all(map(find_spec, PACKAGES)), reason="they are installed")
def test_packages_that_are_missing_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "vit-lightning/tiny-imagenet", str(tmp_path / "x.onnx")]) == 2
    assert "pip install 'vit-lightning[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x", "x.pt", "x.ONNX", "x.onnx.data"])
def test_another_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"the name of an exported model must end in \.onnx"):
        export_onnx(bundle_of(random_model()), tmp_path / name)


def test_what_can_be_refused_is_before_weights_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.onnx").write_text("mine")
    assert main(["export", "somebody/nothing", str(tmp_path / "x.onnx")]) == 2
    assert "x.onnx is already there" in capsys.readouterr().err


def test_a_program_is_no_weights(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\n\x12\x07pytorch\x1a\n2.13.0+cpu:\xa3\xc2")
    with pytest.raises(InputError, match=r"is an exported program .*; name the model that"):
        load_bundle(tmp_path / "x.onnx")


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
