"""Repositories of a Hub on this machine, through the library that knows the true one."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hub_server import COMMIT, FileServer
from vit_lightning.checkpoints import hub
from vit_lightning.checkpoints.hub import HubError, HubFiles, find_on_hub, parse_hub_id
from vit_lightning.checkpoints.native import save_safetensors
from vit_lightning.models.config import ViTConfig

WEIGHTS = bytes(range(256)) * 40
FILES = {"model.safetensors": WEIGHTS, "config.json": b"{}", "preprocessor_config.json": b"[]"}
FIND = (
    "import sys; from vit_lightning.checkpoints.hub import find_on_hub; "
    "print(find_on_hub(*sys.argv[1:]).weights)"
)


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("google/vit-base-patch16-224", ("google/vit-base-patch16-224", None)),
        ("hf-hub:timm/vit_b.augreg_in21k", ("timm/vit_b.augreg_in21k", None)),
        ("hf_hub:a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        (f"a/b@{COMMIT}", ("a/b", COMMIT)),
        ("ViT-B_16", None),
        ("a/b/c", None),
        ("../b", None),
        ("a/b@", None),
        ("", None),
    ],
)
def test_parse_hub_id(spec: str, parsed: tuple[str, str | None] | None) -> None:
    assert parse_hub_id(spec) == parsed


def test_a_repository_is_fetched_once(
    server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put_repository("org/vit", FILES)
    files = find_on_hub("org/vit")
    assert files.weights.read_bytes() == WEIGHTS
    assert files.weights.name == "model.safetensors"
    assert {name: path.read_bytes() for name, path in files.companions.items()} == {
        "config.json": b"{}",
        "preprocessor_config.json": b"[]",
    }
    assert files.remark == ""
    said = f"Downloading org/vit/model.safetensors (10 kB) from {server.url}\n"
    assert capsys.readouterr().err == said
    assert find_on_hub("org/vit") == files
    assert set(server.count().values()) == {1}
    assert capsys.readouterr().err == ""


def test_an_older_repository(server: FileServer) -> None:
    server.put_repository("org/old", {"pytorch_model.bin": WEIGHTS})
    files = find_on_hub("org/old")
    assert files.weights.name == "pytorch_model.bin"
    assert files.companions == {}


def test_a_revision(server: FileServer) -> None:
    server.put_repository("org/vit", FILES)
    server.put_repository("org/vit", {"model.safetensors": b"old"}, "v1", "f" * 40)
    assert find_on_hub("org/vit", "v1").weights.read_bytes() == b"old"
    assert find_on_hub("org/vit").weights.read_bytes() == WEIGHTS
    with pytest.raises(HubError, match=r"^it has no revision 'v2'$"):
        find_on_hub("org/vit", "v2")


def test_what_has_changed_is_fetched_again(server: FileServer) -> None:
    server.put_repository("org/vit", FILES)
    find_on_hub("org/vit")
    server.put_repository("org/vit", {"model.safetensors": b"new"}, commit="e" * 40)
    assert find_on_hub("org/vit").weights.read_bytes() == b"new"


def test_a_cut_is_mended(server: FileServer) -> None:
    server.put_repository("org/vit", FILES)
    server.files["/org/vit/resolve/main/model.safetensors"].cuts.append(1000)
    assert find_on_hub("org/vit").weights.read_bytes() == WEIGHTS


def test_damage_on_the_way_is_noticed(server: FileServer, tmp_path: Path) -> None:
    server.put_repository("org/vit", FILES)
    served = server.files["/org/vit/resolve/main/model.safetensors"]
    served.content = WEIGHTS[::-1]
    found = hashlib.sha256(WEIGHTS[::-1]).hexdigest()
    with pytest.raises(HubError, match=rf"arrived damaged: its sha256 is {found}.*; try again"):
        find_on_hub("org/vit")
    served.content = WEIGHTS
    assert find_on_hub("org/vit").weights.read_bytes() == WEIGHTS


# what a Hub refuses


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "no such repository, or a private one: .*`hf auth login`"),
        (401, "RepoNotFound", "no such repository, or a private one"),
        (403, "GatedRepo", r"gated: accept its terms on its page at http://127.*HF_TOKEN"),
        (500, "", r"the Hub answered 500 \(Internal Server Error\)"),
        (403, "", r"the Hub answered 403 \(Forbidden\)"),
        (200, "", "does not answer as a Hub does; see HF_ENDPOINT|no model"),
    ],
)
def test_refusals_are_said_plainly_and_at_once(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str
) -> None:
    server.put_error("org/vit", status, code)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(HubError, match=message) as caught:
        find_on_hub("org/vit")
    assert "\n" not in str(caught.value)
    assert not slept  # as the library would
    assert len(server.requests) <= 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.npz": b""}, "this repository has no model.safetensors or pytorch_model.bin"),
        ({"model.safetensors.index.json": b"{}"}, "are spread over several files"),
        ({"pytorch_model.bin.index.json": b"{}"}, "are spread over several files"),
    ],
)
def test_repositories_of_something_else(
    server: FileServer, files: dict[str, bytes], message: str
) -> None:
    server.put_repository("org/other", files)
    with pytest.raises(HubError, match=message):
        find_on_hub("org/other")


def test_a_name_the_hub_does_not_allow(server: FileServer) -> None:
    for may_fetch in (True, False):
        with pytest.raises(HubError, match="no name that the Hub allows"):
            find_on_hub("org/a--b", may_fetch=may_fetch)
    assert not server.requests


def test_a_folder_that_cannot_be_written(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    server.put_repository("org/vit", FILES)
    with pytest.raises(HubError, match=r"config\.json: .*(Not a directory|File exists)"):
        find_on_hub("org/vit")


# what is cut off, and what others put into the cache


def test_companions_are_fetched_before_the_weights(server: FileServer) -> None:
    """What is interrupted in between is no set of files."""
    server.put_repository("org/vit", FILES)
    find_on_hub("org/vit")
    asked = [path.rpartition("/")[2] for method, path, _ in server.requests if method == "GET"]
    assert asked == ["config.json", "preprocessor_config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_companion_that_is_refused(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server.put_repository("org/vit", FILES)
    served = server.files[f"/org/vit/resolve/main/{name}"]
    served.status = 500
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(
        HubError, match=rf"^{name}: the Hub answered 500 \(Internal Server Error\)$"
    ):
        find_on_hub("org/vit")
    assert not slept
    with pytest.raises(HubError, match="it is not in the cache"):
        find_on_hub("org/vit", may_fetch=False)
    served.status = 200
    assert set(find_on_hub("org/vit").companions) == {"config.json", "preprocessor_config.json"}


def test_a_companion_of_a_newer_version_that_is_refused(server: FileServer) -> None:
    server.put_repository("org/vit", FILES)
    files = find_on_hub("org/vit")
    newer = {"model.safetensors": b"new", "config.json": b'{"new": 1}'}
    server.put_repository("org/vit", newer, commit="e" * 40)
    served = server.files["/org/vit/resolve/main/config.json"]
    served.status = 503
    kept = find_on_hub("org/vit")
    assert (kept.weights, kept.companions) == (files.weights, files.companions)
    assert kept.remark.startswith("from the Hub's cache (config.json: the Hub answered 503")
    assert find_on_hub("org/vit", may_fetch=False) == files
    served.status = 200
    assert find_on_hub("org/vit").companions["config.json"].read_bytes() == b'{"new": 1}'


def test_all_files_are_of_one_commit(server: FileServer) -> None:
    server.put_repository("org/vit", FILES)
    server.put(
        "/org/vit/resolve/main/config.json",
        b'{"new": 1}',
        headers={"X-Repo-Commit": "e" * 40},
    )
    files = find_on_hub("org/vit")
    assert files.companions["config.json"].read_bytes() == b"{}"
    assert {path.parent for path in files.companions.values()} == {files.weights.parent}
    assert find_on_hub("org/vit", may_fetch=False) == files


def test_weights_that_change_meanwhile(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put_repository("org/vit", FILES)
    original = hub._fetch_companion

    def change(*which: str) -> Path | None:
        path = original(*which)
        server.put_repository("org/vit", {"model.safetensors": b"new"}, commit="e" * 40)
        return path

    monkeypatch.setattr(hub, "_fetch_companion", change)
    with pytest.raises(HubError, match=r"^the repository has changed meanwhile; try again$"):
        find_on_hub("org/vit")
    with pytest.raises(HubError, match=r"config\.json.* was never fetched"):
        find_on_hub("org/vit", may_fetch=False)
    monkeypatch.setattr(hub, "_fetch_companion", original)
    assert find_on_hub("org/vit").weights.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_alone_in_the_cache(server: FileServer, tmp_path: Path, name: str) -> None:
    """Nobody knows whether the repository has a configuration."""
    from huggingface_hub import hf_hub_download

    server.put_repository("org/vit", FILES | {name: WEIGHTS})
    hf_hub_download("org/vit", name)
    message = r"but config\.json, .* was never fetched: go online once \(it is not in the cache"
    with pytest.raises(HubError, match=message):
        find_on_hub("org/vit", may_fetch=False)
    server.put_error("org/vit", 500, "")
    for path in list(server.files):
        if "/resolve/" in path:
            del server.files[path]
    with pytest.raises(HubError, match=r"go online once \(the Hub answered 500"):
        find_on_hub("org/vit")
    server.put_repository("org/vit", FILES | {name: WEIGHTS})
    assert len(find_on_hub("org/vit").companions) == 2
    assert len(find_on_hub("org/vit", may_fetch=False).companions) == 2


def test_weights_that_describe_themselves_need_no_configuration(
    server: FileServer, tmp_path: Path
) -> None:
    from huggingface_hub import hf_hub_download

    save_safetensors(tmp_path / "x", {"a": torch.ones(1)}, ViTConfig())
    server.put_repository("org/vit", {"model.safetensors": (tmp_path / "x").read_bytes()})
    path = hf_hub_download("org/vit", "model.safetensors")
    files = find_on_hub("org/vit", may_fetch=False)
    assert files == HubFiles(Path(path), {})


@pytest.mark.parametrize(
    ("config", "remark"),
    [
        (
            b'{"model_type": "vit"}',
            "preprocessor_config.json was never fetched; whether the repository has it is not "
            "known here",
        ),
        (b'{"architecture": "vit_tiny", "pretrained_cfg": {}}', ""),  # has it in the one file
    ],
)
def test_what_other_programs_fetched_serves(server: FileServer, config: bytes, remark: str) -> None:
    """They take what they need, and note nothing of what is not there."""
    from huggingface_hub import hf_hub_download

    server.put_repository("org/vit", {"model.safetensors": WEIGHTS, "config.json": config})
    for name in ("config.json", "model.safetensors"):
        hf_hub_download("org/vit", name)
    files = find_on_hub("org/vit", may_fetch=False)
    assert set(files.companions) == {"config.json"}
    assert files.remark == remark
    assert find_on_hub("org/vit").remark == ""
    assert find_on_hub("org/vit", may_fetch=False).remark == ""  # it is known now


# without the Hub


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:1", r"no connection to http://127\.0\.0\.1:1 \(.*refused\)"),
        ("http://hub.invalid", r"no connection to http://hub\.invalid \("),
    ],
)
def test_a_hub_out_of_reach_is_asked_once(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    from huggingface_hub import constants

    server.put_repository("org/vit", FILES)
    files = find_on_hub("org/vit")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(server.url, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(HubError, match=message):
        find_on_hub("org/other")
    kept = find_on_hub("org/vit")
    assert not slept
    assert (kept.weights, kept.companions) == (files.weights, files.companions)
    assert kept.remark.startswith(f"from the Hub's cache (no connection to {address}")


def test_no_answer(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    original = huggingface_hub.get_hf_file_metadata
    monkeypatch.setattr(
        huggingface_hub, "get_hf_file_metadata", lambda url: original(url, timeout=0.2)
    )
    server.put_repository("org/vit", FILES)
    server.files["/org/vit/resolve/main/model.safetensors"].stop_at = -1
    with pytest.raises(HubError, match=r"no answer from http://127\.0\.0\.1:\d+ in time"):
        find_on_hub("org/vit")


@pytest.mark.parametrize("offline", [True, False])
def test_the_network_is_left_alone(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    from huggingface_hub import constants

    server.put_repository("org/vit", FILES)
    files = find_on_hub("org/vit")
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert find_on_hub("org/vit", may_fetch=offline) == files
    why = r"^(HF_HUB_OFFLINE is set, and )?it is not in the cache \(.*hub\)$"
    with pytest.raises(HubError, match=why) as caught:
        find_on_hub("org/other", may_fetch=offline)
    assert ("OFFLINE" in str(caught.value)) == offline
    assert not server.requests


def test_the_librarys_environment_is_heeded(server: FileServer, tmp_path: Path) -> None:
    """In a process of its own, as the library reads its variables when it is imported."""
    server.put_repository("org/vit", FILES)
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "secret",
        "no_proxy": "*",
    }
    for offline in ("0", "1"):
        found = subprocess.run(
            [sys.executable, "-c", FIND, "org/vit"],
            env=environment | {"HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=True,
        )
        folder = tmp_path / "home" / "hub" / "models--org--vit" / "snapshots" / COMMIT
        assert found.stdout == f"{folder / 'model.safetensors'}\n"
    assert server.count()["/org/vit/resolve/main/model.safetensors"] == 1
    asked = [headers for _, path, headers in server.requests if path.startswith("/org/")]
    assert {headers["authorization"] for headers in asked} == {"Bearer secret"}


def test_the_library_is_not_imported_with_the_module() -> None:
    code = (
        "import sys; import vit_lightning.checkpoints.hub; "
        "print({'torch', 'huggingface_hub', 'httpx2'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_two_processes_fetch_once(server: FileServer, tmp_path: Path) -> None:
    server.put_repository("org/vit", FILES)
    served = server.files["/org/vit/resolve/main/model.safetensors"]
    served.stop_at = 1000
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "no_proxy": "*",
    }
    command = [sys.executable, "-c", FIND, "org/vit"]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    deadline = time.monotonic() + 60
    path = "/org/vit/resolve/main/model.safetensors"
    while server.count("HEAD")[path] < 4:  # both have asked, and been told to fetch
        assert time.monotonic() < deadline
        time.sleep(0.01)
    served.go_on.set()
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outputs) == 1
    assert server.count()[path] == 1


def test_where_the_hub_is(server: FileServer, tmp_path: Path) -> None:
    assert hub.endpoint() == server.url
    assert hub.cache_folder() == tmp_path / "hub"
