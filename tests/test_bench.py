"""``vit bench``: what is timed, what is said of it, and what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import HYBRID, TINY, random_model
from vit_lightning import dense, onednn
from vit_lightning.bench import parts, run, steps, trials, turns
from vit_lightning.bench.parts import PARTS, Stopwatch, seconds_of_parts
from vit_lightning.bench.run import Request, bench
from vit_lightning.bench.steps import Steps, said_plainly
from vit_lightning.bench.text import as_text
from vit_lightning.bench.turns import in_turns
from vit_lightning.cli import main
from vit_lightning.errors import InputError
from vit_lightning.factory import save_model
from vit_lightning.models.config import ViTConfig

FORWARD = PARTS[: PARTS.index("backward")]


@pytest.fixture(autouse=True)
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense layers by torch, without a measurement that would be kept."""
    monkeypatch.setattr(steps, "choose_backend", lambda *_, **__: "torch")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny model, and measurements without patience."""
    for name, value in {"_FEWEST": 2, "_MOST": 2, "_SHORTEST": 0.0}.items():
        monkeypatch.setattr(turns, name, value)
    monkeypatch.setattr(run, "memory_bandwidth", lambda *_: 1e10)
    monkeypatch.setattr(run, "keep_freed_memory", lambda: None)  # it is for the whole process
    path = tmp_path / "tiny.safetensors"
    save_model(random_model(), path)
    return str(path)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_figures(weights: str, mode: str) -> None:
    values = bench(Request(weights=weights, batch=3, mode=mode, precision="32"))
    values = json.loads(json.dumps(values, allow_nan=False))
    assert (values["batch"], values["image_size"], values["mode"]) == (3, [32, 32], mode)
    rate, slow, fast = values["images_a_second"]
    assert slow <= rate <= fast
    median, longest, shortest = values["milliseconds_a_picture"]
    assert shortest <= median <= longest
    assert median * rate == pytest.approx(1000, rel=0.05)
    assert values["of_the_limit"] > 0
    assert len(values["limit"]["matrix"]["layers"]) == 5
    expected = set(FORWARD) | {"rest"}
    if mode == "training":
        expected |= {"backward", "optimizer"}
    assert set(values["parts"]) == expected
    assert sum(values["parts"].values()) == pytest.approx(1, abs=0.001)
    assert [trial["what"] for trial in values["trials"]][:2] == ["batch 1", "bf16-mixed"]
    text = as_text(values)
    assert "attention itself" in text
    assert ("backward" in text) == (mode == "training")


@pytest.mark.skipif(not onednn.available(), reason="this torch has no such operators")
@pytest.mark.parametrize(
    ("mode", "backend"),
    [("inference", "onednn"), ("inference", "onednn with gelu"), ("training", "onednn")],
)
def test_layers_are_computed_by_what_was_chosen(
    weights: str, monkeypatch: pytest.MonkeyPatch, mode: str, backend: str
) -> None:
    seen = []
    linear = onednn.linear if mode == "training" else onednn.Pack.linear
    where = dense.onednn if mode == "training" else onednn.Pack

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append(backend)
        return linear(*arguments, **options)

    monkeypatch.setattr(where, "linear", counted)
    monkeypatch.setattr(steps, "choose_backend", lambda *_, **__: backend)
    values = bench(Request(weights=weights, batch=2, mode=mode, precision="32"))
    assert seen
    assert values["linear"] == backend
    assert set(FORWARD) <= set(values["parts"])
    assert f"dense layers by {backend}, OMP" in as_text(values)
    assert ("fc1 with GELU" in as_text(values)) == (backend == "onednn with gelu")


def test_the_last_queries_are_found_and_hybrids_patches_hold_their_stem() -> None:
    for config in (TINY.replace(depth=1), HYBRID):
        model = random_model(config)
        step = Steps(model, "inference", "cpu").of(2, "32")
        spent = seconds_of_parts(model, step, "cpu")
        assert set(spent) == {*FORWARD, "rest"}
        assert all(seconds > 0 for seconds in spent.values())
        assert not model.patch_embed._forward_hooks


def test_a_moment_belongs_to_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    monkeypatch.setattr(parts.time, "perf_counter", lambda: next(clock))
    watch = Stopwatch("cpu")
    watch.switch("rest")
    watch.enter("attention")
    watch.enter("qkv")
    watch.leave()
    watch.leave()
    watch.switch("rest")
    assert watch.seconds() == {"rest": 1.0 + 16.0, "attention": 2.0 + 8.0, "qkv": 4.0}


def test_training_changes_the_weights_and_keeps_them_finite() -> None:
    model = random_model(TINY, num_classes=0, pool="none")
    before = model.blocks[0].mlp.fc1.weight.detach().clone()
    step = Steps(model, "training", "cpu").of(2, "bf16-mixed")
    step(None)
    after = model.blocks[0].mlp.fc1.weight
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)


def test_turns_alternate_and_short_runs_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_FEWEST", 2)
    monkeypatch.setattr(turns, "_MOST", 2)
    monkeypatch.setattr(
        turns, "_seconds", lambda run, repeats, device: calls.append(repeats) or 0.02
    )
    calls: list[int] = []
    assert in_turns({"a": list, "b": list}, lambda: 7.0, "cpu") == {
        "limit": [7.0, 7.0],
        "a": [0.02, 0.02],
        "b": [0.02, 0.02],
    }
    assert calls == [1, 1, 1, 1, 5, 5, 5, 5]


def test_other_threads_are_tried_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(trials, "usable_cores", lambda: before + 1)
    monkeypatch.setattr(trials, "_bfloat16_products", lambda _: 2.0)
    model = random_model()
    seen: list[int] = []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    found, hopeless = trials.trials(Steps(model, "inference", "cpu"), 1, "32")
    for trial in found:
        trial.run()
    assert [trial.what for trial in found] == ["batch 4", "bf16-mixed", f"{before + 1} threads"]
    assert seen == [before, before, before + 1]
    assert torch.get_num_threads() == before
    assert not hopeless


def test_slow_bfloat16_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_bfloat16_products", lambda _: 0.1)
    steps = Steps(random_model(), "inference", "cpu")
    found, hopeless = trials.trials(steps, 2, "32")
    assert hopeless == {"bf16-mixed": 0.1}
    assert "bf16-mixed" not in {trial.what for trial in found}
    found, hopeless = trials.trials(steps, 2, "bf16-mixed")
    assert "32" in {trial.what for trial in found}
    assert not hopeless


def _said(times: float, **changes: Any) -> str:
    spread = {"spread": [times, times], "how": "do this", "batch": 4}
    values = {
        "model": "ViT-B_16",
        "image_size": [224, 224],
        "parameters": 10**6,
        "batch": 4,
        "mode": "inference",
        "precision": "32",
        "linear": "torch",
        "hardware": {
            **{"gpus": [], "cpu": "X", "usable_cores": 1, "cores": 2, "torch_threads": 1},
            **{"cpu_capability": "AVX2", "cpu_flags": [], "omp_wait_policy": "ACTIVE"},
            "gomp_spincount": "",
        },
        "versions": {"torch": "2", "python": "3"},
        "turns": 3,
        "images_a_second": [2.0, 1.0, 3.0],
        "milliseconds_a_picture": [500.0, 1000.0, 333.0],
        "of_the_limit": 0.8,
        "limit": {
            "matrix": {"gflop_a_second": 50.0, "layers": [{"way": "linear"}]},
            "memory_gb_a_second": 10.0,
        },
        "parts": {"qkv": 0.5, "rest": 0.5},
        "trials": [{"what": "this", "times": times} | spread | changes],
    }
    return as_text(values)


@pytest.mark.parametrize(
    ("times", "spread", "batch", "said"),
    [
        (1.10, [1.0, 1.2], 4, "pays, do this"),
        (1.10, [0.9, 1.2], 4, "no clear gain"),
        (1.05, [1.0, 1.1], 4, "no clear gain"),
        (0.95, [0.9, 1.0], 4, "no clear gain"),
        (0.80, [0.7, 0.9], 4, "slower, leave it"),
        (0.80, [0.7, 1.1], 4, "no clear gain"),
        (0.80, [0.7, 0.9], 1, "slower, batches of 4 pay"),
    ],
)
def test_only_what_pays_is_recommended(
    times: float, spread: list[float], batch: int, said: str
) -> None:
    text = _said(times, spread=spread, batch=batch)
    low, high = spread
    assert f"{times:.2f}×  as many images/s ({low:.2f} to {high:.2f}): {said}\n" in text


def test_the_rest_of_the_text() -> None:
    text = _said(1.0)
    assert "1.0M parameters, 224 x 224: inference in 32, 4 pictures at once\n" in text
    assert "2 images/s (1 to 3 in 3 turns), 500 ms a picture (333 to 1000)" in text
    assert "80% of the speed of the dense layers alone, which is 50 GFLOP/s" in text
    assert "reading the weights takes 0.4 ms" in text
    assert "  attention, qkv           50.0%  ███████████████\n" in text
    assert "OMP_WAIT_POLICY ACTIVE, GOMP_SPINCOUNT not set\n" in text
    assert "compare with it unset" in text


def test_the_command_writes_what_it_prints(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "figures.json"
    assert main(["bench", "--weights", weights, "--batch", "1", "--json", str(target)]) == 0
    printed, told = capsys.readouterr()
    assert as_text(json.loads(target.read_text(encoding="utf-8"))) in printed
    assert printed.endswith(f"\n{target}\n")
    assert told.startswith("measuring: reading the weights\n")


@pytest.fixture
def little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:  900000 kB\nMemAvailable:  100000 kB\n", encoding="utf-8")
    monkeypatch.setattr(steps, "_MEMINFO", told)
    return


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nothing"], "unknown model 'nothing'"),
        (["--batch", "0"], "--batch: at least one picture, got 0"),
        (["ViT-Ti_16", "--batch", "1000"], "--batch 1000: the memory of this machine is too small"),
        (["ViT-Ti_16", "--image-size", "9"], "smaller than one patch"),
        (["--weights", "nothing.npz"], "no such weights file"),
    ],
)
def test_bad_input(
    options: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "keep_freed_memory", lambda: None)
    assert main(["bench", *options]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_only_what_fits_is_begun(little_memory: None) -> None:
    config = ViTConfig()
    steps.refuse_more_than_fits(config, 8, "inference", "cpu")
    steps.refuse_more_than_fits(config, 8, "training", "cuda")  # a GPU tells by itself
    with pytest.raises(InputError, match=r"--batch 8: .* lower --batch"):
        steps.refuse_more_than_fits(config, 8, "training", "cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("Storage size calculation overflowed with sizes=[9]"),
    ],
)
def test_too_little_memory_is_said(error: Exception) -> None:
    with pytest.raises(InputError, match="the memory of the GPU"), said_plainly(1, "cuda"):
        raise error


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="something else"), said_plainly(1, "cpu"):
        raise RuntimeError("something else")
