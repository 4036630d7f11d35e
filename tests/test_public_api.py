import subprocess
import sys

import pytest

import vit_lightning


@pytest.mark.parametrize("name", vit_lightning.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(vit_lightning, name)
    assert name in dir(vit_lightning)
    if name != "PRESETS":
        assert value.__doc__
        assert value.__module__.startswith("vit_lightning.")


def test_public_names_stand_once() -> None:
    assert len(set(vit_lightning.__all__)) == len(vit_lightning.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vit_lightning' has no attribute 'nothing'"):
        vit_lightning.nothing  # noqa: B018


def _heavy_modules_after(code: str) -> str:
    """What of the heavy packages is loaded after ``code`` in a fresh interpreter."""
    heavy = ("torch", "lightning", "torchmetrics", "sklearn", "matplotlib", "tensorboard", "scipy")
    report = f"print([name for name in {heavy!r} if name in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return finished.stdout.splitlines()[-1]


def test_import_loads_nothing_heavy() -> None:
    code = "import vit_lightning; vit_lightning.InputError; vit_lightning.load_experiment"
    assert _heavy_modules_after(code) == "[]"


def test_model_needs_torch_alone() -> None:
    assert _heavy_modules_after("import vit_lightning; vit_lightning.create_model") == "['torch']"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["train", "no.json"], ["eval", "no.json"]]
)
def test_help_and_errors_of_the_file_come_without_the_heavy_packages(arguments: list[str]) -> None:
    code = f"from vit_lightning.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass"
    assert _heavy_modules_after(code) == "[]"


def test_training_begins_without_what_only_its_end_needs() -> None:
    loaded = _heavy_modules_after("import lightning, vit_lightning.run")
    assert "sklearn" not in loaded
