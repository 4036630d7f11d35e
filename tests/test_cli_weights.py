"""``vit weights``, by its own parser."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub_server import WEIGHTS, FileServer, hub_at
from vit_lightning.checkpoints import official
from vit_lightning.checkpoints.locate import locate_weights
from vit_lightning.cli_weights import add_weights_command
from vit_lightning.errors import InputError

B16 = "imagenet21k/ViT-B_16"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call the command; returns what it printed."""
    parser = argparse.ArgumentParser()
    add_weights_command(parser.add_subparsers())

    def call(*arguments: str) -> str:
        options = parser.parse_args(["weights", *arguments])
        capsys.readouterr()
        options.command(options)
        return capsys.readouterr().out

    return call


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    with FileServer().running() as server, hub_at(server.url, tmp_path / "hub", monkeypatch):
        monkeypatch.setattr(official, "BUCKET", f"{server.url}/bucket")
        server.put(f"/bucket/{B16}.npz", WEIGHTS.ljust(2_500_000))
        config = b'{"model_type": "vit"}'
        server.put_repository("org/vit", {"model.safetensors": b"x" * 979, "config.json": config})
        yield server


def test_list(run: Callable[..., str], server: FileServer, tmp_path: Path) -> None:
    end = f"\nvit-lightning: {tmp_path}/kept\nhub: {tmp_path}/hub\n"
    assert run("list") == f"0 kept, 0 bytes{end}"
    for name in (B16, "org/vit"):
        locate_weights(name)
    assert run("list") == (
        f"{B16}     2.5 MB  vit-lightning\n"
        f"org/vit                  1.0 kB  hub\n"
        f"2 kept, 2.5 MB{end}"
    )


def test_an_unfinished_file_is_marked(run: Callable[..., str], server: FileServer) -> None:
    part = Path("kept/weights") / f"{B16}.npz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x")
    assert run("list").startswith(f"{B16}    1 bytes  vit-lightning  (unfinished)\n")


def test_path(run: Callable[..., str], server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{B16}: no place has these weights"):
        run("path", B16)
    assert not server.requests
    located = locate_weights(B16)
    assert run("path", B16) == f"{located.path}\n"
    own = Path("checkpoint") / f"{B16}.npz"
    own.parent.mkdir(parents=True)
    own.touch()
    assert run("path", B16) == f"{own}\n"
    assert run("path", str(own)) == f"{own}\n"


def test_remove(run: Callable[..., str], server: FileServer) -> None:
    for name in (B16, "org/vit"):
        locate_weights(name)
    with pytest.raises(InputError, match=rf"no weights 'org/none' .*\n  {B16}\n  org/vit$"):
        run("remove", "org/none")
    assert run("remove", B16, "org/vit") == (
        f"{B16}: removed, 2.5 MB freed\norg/vit: removed, 1.0 kB freed\n"
    )
    assert run("list").startswith("0 kept")
    with pytest.raises(InputError, match="Kept are: nothing"):
        run("remove", B16)


def test_remove_by_an_official_name_says_what_it_was(
    run: Callable[..., str], server: FileServer
) -> None:
    mirror = "google/vit-base-patch16-224-in21k"
    server.put(f"/bucket/{B16}.npz", status=403)
    config = b'{"model_type": "vit"}'
    server.put_repository(mirror, {"model.safetensors": b"x" * 979, "config.json": config})
    locate_weights(B16)
    assert run("remove", B16) == f"{mirror}: removed, 1.0 kB freed\n"
    assert run("list").startswith("0 kept")


def test_torch_is_not_needed(server: FileServer) -> None:
    locate_weights(B16)
    code = (
        "import argparse, sys; from vit_lightning.cli_weights import add_weights_command; "
        "parser = argparse.ArgumentParser(); add_weights_command(parser.add_subparsers())\n"
        f"for words in (['list'], ['path', '{B16}'], ['remove', '{B16}']):\n"
        "    options = parser.parse_args(['weights', *words]); options.command(options)\n"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False"
