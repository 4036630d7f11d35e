"""What computes the dense layers: fixed, measured, or remembered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tiny_models import TINY, bundle_of, random_model
from vit_lightning import assess, backend, onednn
from vit_lightning.backend import choose_backend, measure, with_backend
from vit_lightning.dense import OneDNNLinear
from vit_lightning.errors import InputError
from vit_lightning.experiment import load_experiment
from vit_lightning.factory import save_model
from vit_lightning.inference import InferenceModel, for_inference
from vit_lightning.prediction import predict
from vit_lightning.run import train
from vit_lightning.run.choices import choose
from vit_lightning.training.task import VisionTask

SMALL = TINY.replace(embed_dim=96)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, empty."""
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "backends"


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Let the measurement find what is said; returns a list that its calls are added to."""

    def set_found(**found: float) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def measured(*arguments: Any) -> dict[str, float]:
            calls.append(arguments)
            return {"torch": 1.0} | {name.replace("_", " "): x for name, x in found.items()}

        monkeypatch.setattr(backend, "measure", measured)
        return calls

    return set_found


def _auto(config: Any = TINY, **options: Any) -> str:
    return choose_backend("auto", "inference", config, **({"on_cpu": True} | options))


@pytest.mark.parametrize("purpose", ["inference", "training"])
def test_it_is_measured_and_draws_nothing(purpose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_SECONDS", 0.01)
    state = torch.get_rng_state()
    found = measure(purpose, TINY, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found) == ["torch", "onednn", "onednn with gelu"][: 3 if purpose[0] == "i" else 2]
    assert found["torch"] == 1.0
    assert all(0.001 < ratio < 1000 for ratio in found.values())


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"onednn": 2.0, "onednn_with_gelu": 1.9}, "onednn"),
        ({"onednn": 2.0, "onednn_with_gelu": 2.1}, "onednn with gelu"),
        ({"onednn": 1.06}, "onednn"),
        ({"onednn": 1.04, "onednn_with_gelu": 0.9}, "torch"),
        ({"onednn": 0.5}, "torch"),
    ],
)
def test_it_has_to_win_by_a_margin(
    finds: Callable[..., Any], found: dict[str, float], expected: str
) -> None:
    finds(**found)
    assert _auto() == expected
    assert _auto() == expected


def test_it_is_measured_once(finds: Callable[..., Any], folder: Path) -> None:
    calls = finds(onednn=2.0)
    assert _auto() == _auto() == "onednn"
    assert calls == [("inference", TINY, torch.float32)]
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "again",
    [
        lambda: _auto(TINY.replace(mlp_dim=128)),
        lambda: _auto(TINY.replace(activation="gelu")),
        lambda: choose_backend("auto", "training", TINY, on_cpu=True),
    ],
)
def test_what_differs_is_measured_for_itself(
    finds: Callable[..., Any], again: Callable[[], object]
) -> None:
    calls = finds(onednn=2.0)
    _auto()
    again()
    assert len(calls) == 2


def test_another_machine_is_measured_for_itself(
    finds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = finds(onednn=2.0)
    _auto()
    here = backend.describe_hardware()
    for changed in ({"cpu": "another"}, {"cpu_capability": "none"}, {"torch_threads": 99}):
        monkeypatch.setattr(backend, "describe_hardware", lambda changed=changed: here | changed)
        _auto()
    monkeypatch.setattr(torch, "__version__", "3.0")
    _auto()
    assert len(calls) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace("2.0", "NaN"),
        lambda text: text.replace("2.0", '"fast"'),
        lambda text: text.replace('"onednn"', '"another"'),
        lambda text: text.replace("192", "193"),
        lambda text: json.dumps(json.loads(text) | {"times_faster": {}}),
    ],
)
def test_a_damaged_file_is_measured_anew(
    finds: Callable[..., Any], folder: Path, damage: Callable[[str], str]
) -> None:
    calls = finds(onednn=2.0)
    _auto()
    (file,) = folder.iterdir()
    whole = file.read_text()
    assert damage(whole) != whole
    file.write_text(damage(whole))
    assert _auto() == "onednn"
    assert len(calls) == 2
    assert file.read_text() == whole


def test_a_cache_that_cannot_be_written_is_done_without(
    finds: Callable[..., Any], folder: Path
) -> None:
    calls = finds(onednn=2.0)
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("in the way")
    assert _auto() == _auto() == "onednn"
    assert len(calls) == 2


def test_what_needs_no_measurement(
    finds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = finds(onednn=2.0)
    assert _auto(SMALL) == "torch"
    assert _auto(on_cpu=False) == "torch"
    assert _auto(dtype=torch.float64) == "torch"
    assert choose_backend("torch", "inference", TINY, on_cpu=True) == "torch"
    assert choose_backend("onednn", "training", SMALL, on_cpu=True) == "onednn"
    monkeypatch.setattr(onednn, "available", lambda dtype=None: False)
    assert _auto() == "torch"
    assert not calls


def test_onednn_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"another device; set trainer\.accelerator=cpu"):
        choose_backend("onednn", "inference", TINY, on_cpu=False)
    half: dict[str, Any] = {"on_cpu": True, "dtype": torch.bfloat16}
    with pytest.raises(InputError, match=r"trains in float32 only; set trainer\.precision=32"):
        choose_backend("onednn", "training", TINY, **half)
    monkeypatch.setattr(onednn, "available", lambda dtype=torch.float32: dtype == torch.float32)
    with pytest.raises(InputError, match=r"has no torch\.bfloat16 for it; compute in float32"):
        choose_backend("onednn", "inference", TINY, **half)
    monkeypatch.setattr(onednn, "available", lambda dtype=None: False)
    with pytest.raises(InputError, match="this torch has not the operators for it"):
        choose_backend("onednn", "inference", TINY, on_cpu=True)


def test_models_are_packed_if_they_can_be() -> None:
    model = random_model()
    assert with_backend(model, "torch") is model
    snapshot = with_backend(model, "onednn with gelu", in_place=True)
    assert snapshot is model
    assert isinstance(snapshot.blocks[0].mlp.act, torch.nn.Identity)
    assert with_backend(snapshot, "onednn") is snapshot


# Where the choice is used


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """As many pictures as packing is worth."""
    paths = [tmp_path / f"{number}.png" for number in range(backend.PICTURES_WORTH_PACKING)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 32), (number, 2 * number, 90)).save(path)
    return paths


def _packed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """In place or not, of each model that is packed from now on."""
    seen = list[bool]()

    def noted(model: Any, *, in_place: bool, **options: Any) -> InferenceModel:
        seen.append(in_place)
        return for_inference(model, in_place=in_place, **options)

    monkeypatch.setattr(backend, "for_inference", noted)
    return seen


def test_many_pictures_are_predicted_with_packed_weights(
    finds: Callable[..., Any],
    many: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finds(onednn=2.0)
    model = random_model()
    save_model(model, tmp_path / "model.safetensors")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    seen = _packed(monkeypatch)
    few = predict(bundle_of(model), many[:3])
    assert not seen
    lent, own = predict(bundle_of(model), many), predict(tmp_path / "model.safetensors", many)
    assert seen == [False, True]
    assert not isinstance(model, InferenceModel)
    for predictions in (lent, own):
        assert [one.classes for one in predictions[:3]] == [one.classes for one in few]
        for one, other in zip(predictions, few, strict=False):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_training_and_evaluation_by_onednn_give_what_torch_gives(
    tiny: dict[str, Any],
    write: Callable[..., Path],
    few_figures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = set[type]()
    step = VisionTask.training_step

    def noted(self: VisionTask, *arguments: Any) -> torch.Tensor:
        kinds.add(type(self.model.blocks[0].mlp.fc1))
        return step(self, *arguments)

    monkeypatch.setattr(VisionTask, "training_step", noted)
    seen = _packed(monkeypatch)
    losses = []
    for linear in ("torch", "onednn"):
        fixed = {"linear": linear, "accelerator": "cpu"}
        path = write(tiny, trainer=fixed, optim={"lr": 0.01})
        result = train(path)
        assert f"linear {linear}" in capsys.readouterr().out
        evaluated = assess.evaluate(path, result.checkpoint)
        assert ("with packed weights" in capsys.readouterr().out) == (linear == "onednn")
        assert evaluated.metrics.loss == pytest.approx(result.best["val"].loss, abs=1e-5)
        losses.append(evaluated.metrics.loss)
    assert kinds == {torch.nn.Linear, OneDNNLinear}
    assert seen == [True]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    environment = json.loads((result.run / "environment.json").read_text())
    assert environment["linear"] == "onednn"


def test_a_run_refuses_onednn_for_bfloat16(
    tiny: dict[str, Any], write: Callable[..., Path]
) -> None:
    fixed = {"linear": "onednn", "accelerator": "cpu", "precision": "bf16-mixed"}
    experiment = load_experiment(write(tiny, trainer=fixed))
    with pytest.raises(InputError, match="trains in float32 only"):
        choose(experiment, TINY)
