import json
from pathlib import Path

import pytest
import torch

from vit_lightning import hardware
from vit_lightning.hardware import describe_hardware


def test_this_machine() -> None:
    told = json.loads(json.dumps(describe_hardware()))
    assert told["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert 1 <= told["usable_cores"] <= told["cores"]
    assert told["torch_threads"] == torch.get_num_threads()
    assert len(told["gpus"]) == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("text", "cpu", "flags"),
    [
        (
            "model name\t: A CPU: fast\nflags\t: fpu amx_bf16 avx2 sse\n\nmodel name\t: B\n",
            "A CPU: fast",
            ["avx2", "amx_bf16"],
        ),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", None, ["asimd", "bf16"]),
    ],
)
def test_what_linux_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cpu: str | None, flags: list[str]
) -> None:
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "cpuinfo")
    told = describe_hardware()
    assert told["cpu_flags"] == flags
    assert cpu is None or told["cpu"] == cpu


def test_other_systems_tell_no_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "nothing")
    assert describe_hardware()["cpu_flags"] == []
