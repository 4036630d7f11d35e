"""What is kept on this machine: listed, and removed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hub_server import WEIGHTS, FileServer
from vit_lightning.checkpoints import cache
from vit_lightning.checkpoints.cache import list_cached, remove_cached
from vit_lightning.checkpoints.hub import find_on_hub
from vit_lightning.checkpoints.locate import locate_weights
from vit_lightning.checkpoints.native import save_safetensors
from vit_lightning.checkpoints.official import OFFICIAL
from vit_lightning.checkpoints.repository import is_ours
from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig

B16 = "imagenet21k/ViT-B_16"
TIMM = json.dumps({"architecture": "vit_base_patch16_224"}).encode()
HF = json.dumps({"model_type": "vit"}).encode()


@pytest.fixture
def filled(server: FileServer) -> FileServer:
    """One official file, one from an address, one of timm in two versions, and no ViT."""
    server.put(f"/bucket/{B16}.npz", WEIGHTS)
    server.put("/x.npz", WEIGHTS)
    server.put_repository("timm/vit", {"model.safetensors": b"timm", "config.json": TIMM})
    older = {"model.safetensors": b"older", "config.json": TIMM}
    server.put_repository("timm/vit", older, "v1", "f" * 40)
    server.put_repository("google/vit", {"pytorch_model.bin": b"hf", "config.json": HF})
    server.put_repository("org/bert", {"model.safetensors": b"x", "config.json": b"{}"})
    for spec in (B16, f"{server.url}/x.npz", "timm/vit", "timm/vit@v1", "google/vit", "org/bert"):
        locate_weights(spec)
    return server


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("VIT_LIGHTNING_CACHE")
    assert cache.cache_folder() == tmp_path / "xdg" / "vit-lightning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == tmp_path / ".cache" / "vit-lightning"


def test_names_of_addresses_stay_inside(server: FileServer) -> None:
    root = cache.cache_folder() / "weights" / "url"
    for url in (
        "https://a.b/../../x",
        "https://../..",
        "https://a:b@c/%2e%2e%2fx",
        "https://a/é?q",
    ):
        path = cache.url_path(url)
        assert path.resolve().parent.parent == root.resolve(), url
        assert path.name.isprintable()
    assert len(cache.url_path(f"https://a/{'x' * 300}.npz").name) < 120


def test_nothing_is_kept(server: FileServer) -> None:
    assert list_cached() == []


def test_what_is_kept_is_listed_by_the_names_one_gives(filled: FileServer) -> None:
    entries = {entry.name: entry for entry in list_cached()}
    url = f"{filled.url}/x.npz"
    assert list(entries) == sorted([B16, url, "timm/vit", "timm/vit@v1", "google/vit"])
    assert {name for name, entry in entries.items() if entry.where == "hub"} == {
        "timm/vit",
        "timm/vit@v1",
        "google/vit",
    }
    filled.requests.clear()
    for name, entry in entries.items():
        assert locate_weights(name, may_fetch=False).path == entry.path
        assert entry.complete
    assert not filled.requests
    assert entries[B16].size == entries[url].size == len(WEIGHTS)
    assert entries["timm/vit"].size == 4 + len(TIMM)
    assert entries["timm/vit"].path.read_bytes() == b"timm"


def test_unfinished_files_are_listed(server: FileServer) -> None:
    server.put(f"/bucket/{B16}.npz", b"official", announced=100)
    server.put("/x.npz", b"address!", announced=100)
    for spec in (B16, f"{server.url}/x.npz"):
        with pytest.raises(InputError):
            locate_weights(spec)
    entries = list_cached()
    assert {entry.name for entry in entries} == {B16, f"{server.url}/x.npz"}
    assert not any(entry.complete for entry in entries)
    for entry in entries:
        assert remove_cached(entry.name) == {entry.name: 8}
    assert not [path for path in cache.cache_folder().rglob("*") if path.is_file()]


@pytest.mark.parametrize("spell", ["{}", "{}.npz"])
def test_an_official_file_is_removed(filled: FileServer, spell: str) -> None:
    assert remove_cached(spell.format(B16)) == {B16: len(WEIGHTS)}
    assert not cache.official_path(OFFICIAL[B16]).exists()
    assert B16 not in {entry.name for entry in list_cached()}


@pytest.mark.parametrize("spell", ["{}", "{}.npz"])
@pytest.mark.parametrize("both", [False, True])
def test_an_official_name_means_its_mirror_too(server: FileServer, spell: str, both: bool) -> None:
    mirror = OFFICIAL[B16].mirror
    assert mirror is not None
    server.put_repository(mirror, {"model.safetensors": b"mirror", "config.json": HF})
    assert locate_weights(B16).path.read_bytes() == b"mirror"
    own = cache.official_path(OFFICIAL[B16])
    if both:
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_bytes(WEIGHTS)
    assert remove_cached(spell.format(B16)) == {mirror: 6 + len(HF)} | (
        {B16: len(WEIGHTS)} if both else {}
    )
    assert list_cached() == []


def test_a_mirror_is_removed_by_its_own_name_alone(server: FileServer) -> None:
    server.put(f"/bucket/{B16}.npz", WEIGHTS)
    mirror = str(OFFICIAL[B16].mirror)
    server.put_repository(mirror, {"model.safetensors": b"mirror", "config.json": HF})
    for spec in (B16, mirror):
        locate_weights(spec)
    assert set(remove_cached(mirror)) == {mirror}
    assert [entry.name for entry in list_cached()] == [B16]


def test_weights_of_ours_need_no_configuration(server: FileServer, tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x", {"a": torch.ones(1)}, ViTConfig())
    server.put_repository("me/own", {"model.safetensors": (tmp_path / "x").read_bytes()})
    save_file({"a": torch.ones(1)}, tmp_path / "x", {"format": "pt"})
    server.put_repository("me/other", {"model.safetensors": (tmp_path / "x").read_bytes()})
    for name in ("me/own", "me/other"):
        find_on_hub(name)
    assert [entry.name for entry in list_cached()] == ["me/own"]
    assert set(remove_cached("me/own")) == {"me/own"}
    assert list_cached() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04" + bytes(20),
        (1 << 60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (20).to_bytes(8, "little") + b'{"__metadata__": []}',
        (2).to_bytes(8, "little") + b"\xff\xff",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_what_is_no_file_of_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert not is_ours(path)
    assert not is_ours(tmp_path / "none")


def test_what_came_from_an_address_is_removed(filled: FileServer) -> None:
    url = f"{filled.url}/x.npz"
    assert remove_cached(url) == {url: len(WEIGHTS)}
    assert not list(cache.url_path(url).parent.iterdir())


@pytest.mark.parametrize(
    ("name", "left"), [("timm/vit", "timm/vit@v1"), ("hf-hub:timm/vit@v1", "timm/vit")]
)
def test_a_repository_is_removed(filled: FileServer, name: str, left: str) -> None:
    """One version of it; the other stays, with what both share."""
    size = {"timm/vit": 4, "hf-hub:timm/vit@v1": 5}[name]
    assert remove_cached(name) == {name.removeprefix("hf-hub:"): size}
    assert [entry.name for entry in list_cached() if entry.name.startswith("timm/")] == [left]
    repository, _, revision = left.partition("@")
    assert find_on_hub(repository, revision or None, may_fetch=False).companions
    assert remove_cached(left)[left] > len(TIMM)


def test_only_what_is_listed_can_be_removed(filled: FileServer) -> None:
    for name in ("org/bert", "imagenet21k/ViT-B_32", "../x"):
        with pytest.raises(InputError, match=f"no weights {name!r} are kept here") as caught:
            remove_cached(name)
        assert str(caught.value).count("\n  ") == len(list_cached())
    assert find_on_hub("org/bert", may_fetch=False)


@pytest.mark.parametrize(
    ("config", "listed"),
    [
        (b'{"model_type": "deit"}', True),
        (b'{"architecture": "deit_small_patch16_224"}', True),
        (b'{"architecture": "resnet50"}', False),
        (b'{"model_type": ["vit"]}', False),
        (b"[]", False),
        (b"\xff{", False),
        (None, False),
    ],
)
def test_which_repositories_are_vision_transformers(
    server: FileServer, config: bytes | None, listed: bool
) -> None:
    files = {"model.safetensors": b"x"} | ({"config.json": config} if config is not None else {})
    server.put_repository("org/model", files)
    find_on_hub("org/model")
    assert [entry.name for entry in list_cached()] == (["org/model"] if listed else [])
