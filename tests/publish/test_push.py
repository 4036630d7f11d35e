"""Publishing: the folder that is laid ready, and what is sent to the Hub."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finished_run import Finished
from hub_api import COMMIT, HubApi
from hub_server import hub_at
from random_weights import randomise
from vit_lightning.cli import main
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle, save_model
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.publish.push import push
from vit_lightning.publish.upload import check_repo_id

TINY = ViTConfig(
    image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, mlp_dim=16, num_classes=3
)
REPO = "someone/tiny-model"
MODEL, CREATE = f"/api/models/{REPO}", "/api/repos/create"
COMMITS = f"{MODEL}/commit/main"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubApi]:
    with HubApi(REPO).running() as api, hub_at(api.url, tmp_path / "hub", monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_of_someone")
        yield api


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.HfApi.__init__", refuse)


def saved(folder: Path, config: ViTConfig = TINY) -> Path:
    """A file of random weights that knows its classes, and where it comes from."""
    model = VisionTransformer(config)
    randomise(model, seed=0)
    path = folder / "weights" / "tiny.safetensors"
    path.parent.mkdir()
    save_model(
        model,
        path,
        classes=("ant", "bee", "cat") if config.num_classes == 3 else None,
        preprocessing={"mode": "crop", "crop_fraction": 0.9, "mean": [0.4, 0.5, 0.6]},
        origin={"run": "/home/someone/secret/runs/tiny/2026-01-01", "data": {}},
    )
    return path


def assert_same(written: ModelBundle, source: ModelBundle) -> None:
    """The same logits bit by bit, the same classes and preprocessing."""
    config = source.model.config
    pictures = torch.rand(2, config.in_channels, *config.image_size) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(written.model(pictures), source.model(pictures))
    assert written.model.config == config
    assert written.classes == source.classes
    assert written.preprocessing == source.preprocessing


@pytest.mark.usefixtures("no_network")
def test_a_dry_run_of_a_run(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, target = finished.result.run, tmp_path / "new" / "folder"
    pushed = push(run, REPO, dry_run=target, figure=True)
    names = ["README.md", "attention.png", "config.json", "model.safetensors"]
    assert sorted(path.name for path in target.iterdir()) == names
    assert pushed.files == tuple(names)
    assert pushed.where == str(target)
    assert [path.name for path in target.parent.iterdir()] == ["folder"]
    assert (target / "attention.png").read_bytes() == (run / "attention.png").read_bytes()
    assert_same(load_bundle(target), load_bundle(run / "model.safetensors"))
    said = capsys.readouterr().out
    assert all(name in said for name in names)
    assert "nothing was uploaded" in said
    assert "attention.png shows validation pictures" in said


@pytest.mark.usefixtures("no_network")
def test_a_dry_run_by_the_command(finished: Finished, tmp_path: Path) -> None:
    run, target = finished.result.run, tmp_path / "folder"
    target.mkdir()  # an empty one will do
    options = ["--dry-run", str(target), "--license", "apache-2.0", "--private"]
    assert main(["push", str(run), REPO, *options]) == 0
    names = {path.name for path in target.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors"}
    card = (target / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "attention.png" not in card


def test_nothing_tells_the_folders_of_this_machine(finished: Finished, tmp_path: Path) -> None:
    run = finished.result.run
    push(run, REPO, dry_run=tmp_path / "run")
    push(saved(tmp_path), REPO, dry_run=tmp_path / "file")
    for folder, secret in (("run", str(run.parents[2])), ("file", "secret")):
        for path in (tmp_path / folder).iterdir():
            assert secret.encode() not in path.read_bytes(), path
    origins = [load_bundle(tmp_path / name).origin for name in ("run", "file")]
    assert [origin and origin["run"] for origin in origins] == [
        f"finished/{run.name}",
        "tiny/2026-01-01",
    ]


def test_a_run_that_is_not_finished(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "finished" / "2026-01-01"
    run.mkdir(parents=True)
    for name in ("experiment.json", "data.json", "environment.json"):
        shutil.copy(finished.result.run / name, run)
    with pytest.raises(InputError, match=r"no weights yet.*best\.ckpt"):
        push(run, REPO, dry_run=tmp_path / "folder")
    shutil.copy(finished.result.run / "best.ckpt", run)
    push(run, REPO, dry_run=tmp_path / "folder")
    assert_same(load_bundle(tmp_path / "folder"), load_bundle(run / "best.ckpt"))
    assert "no measured figures" in capsys.readouterr().out
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "nothing was measured" in card
    assert "model-index" not in card
    with pytest.raises(InputError, match=f"holds runs; give one of them, such as {run}"):
        push(run.parent, REPO, dry_run=tmp_path / "other")


def test_a_file_of_a_run_points_to_the_run(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished.result.run
    push(run / "model.safetensors", REPO, dry_run=tmp_path / "folder")
    assert f"if the run is given: {run}\n" in capsys.readouterr().out
    assert "model-index" not in (tmp_path / "folder" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"representation_size": 8}, "pre_logits is left out"),
        ({"norm_eps": 1e-5}, "norm_eps is 1e-06 instead of 1e-05"),
        ({"resnet": ResNetConfig((1,), width=32), "image_size": 64}, "cannot express a stem"),
        ({"resnet": ResNetConfig(()), "image_size": 64}, "the stem"),
    ],
)
def test_what_timm_computes_otherwise_is_in_our_layout(
    changes: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path, TINY.replace(**changes))
    pushed = push(source, REPO, dry_run=tmp_path / "folder")
    assert pushed.files == ("README.md", "model.safetensors")
    assert_same(load_bundle(tmp_path / "folder"), load_bundle(source))
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "library_name: vit-lightning" in card
    assert "hf-hub:" not in card
    assert "AutoModel" not in card
    assert "timm and transformers do not load these weights" in card
    assert reason in card.replace("\\", "")
    assert "--lossy" not in card
    assert reason in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [{}, {"pool": "gap"}, {"pool": "none"}, {"num_classes": 0}, {"in_channels": 5}]
)
def test_models_that_timm_can_have(changes: dict[str, Any], tmp_path: Path) -> None:
    source = saved(tmp_path, TINY.replace(**changes))
    pushed = push(source, REPO, dry_run=tmp_path / "folder")
    assert pushed.files == ("README.md", "config.json", "model.safetensors")
    assert_same(load_bundle(tmp_path / "folder"), load_bundle(source))


def test_a_new_repository(hub: HubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path)
    assert main(["push", str(source), REPO, "--private", "--license", "mit"]) == 0
    assert f"published  {hub.url}/{REPO}\n" in capsys.readouterr().out
    assert hub.posted(CREATE) == [
        {"name": "tiny-model", "organization": "someone", "visibility": "private"}
    ]
    push(source, REPO, license_id="mit", dry_run=tmp_path / "folder")
    laid = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    sent = tmp_path / "model.safetensors"  # whose header is in any order
    sent.write_bytes(hub.committed["model.safetensors"])
    assert_same(load_bundle(sent), load_bundle(source))
    assert hub.committed == laid | {sent.name: sent.read_bytes()}
    assert len(hub.posted(COMMITS)) == 1
    assert hub.posted("/api/validate-yaml")[0]["content"] == laid["README.md"].decode()
    assert hub.tokens == {"Bearer hf_of_someone"}


def test_the_visibility_of_a_new_repository_is_its_owners(hub: HubApi, tmp_path: Path) -> None:
    push(saved(tmp_path), REPO)
    assert hub.posted(CREATE) == [{"name": "tiny-model", "organization": "someone"}]


def test_a_repository_that_is_there(
    hub: HubApi, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repository = {"private": False, "files": [".gitattributes", "README.md", "notes.txt"]}
    push(finished.result.run, REPO)
    assert not hub.posted(CREATE)
    assert set(hub.committed) == {"README.md", "config.json", "model.safetensors"}
    assert hub.commit["parentCommit"] == COMMIT
    assert hub.commit["summary"] == f"Upload finished/{finished.result.run.name}"
    said = capsys.readouterr().out
    assert "is there already, public" in said
    assert "overwritten, but kept in its history: README.md\n" in said


def test_files_of_other_weights_are_not_left_beside(hub: HubApi, tmp_path: Path) -> None:
    source = saved(tmp_path, TINY.replace(representation_size=8))
    hub.repository = {"private": False, "files": ["model.safetensors", "config.json"]}
    with pytest.raises(InputError, match=r"has config\.json, which would stand beside"):
        push(source, REPO)
    hub.repository["files"] = ["pytorch_model.bin", "preprocessor_config.json"]
    with pytest.raises(InputError, match=r"has preprocessor_config\.json, pytorch_model\.bin, "):
        push(source, REPO)
    assert not hub.posted(COMMITS)


def test_private_weights_do_not_go_to_a_public_repository(hub: HubApi, tmp_path: Path) -> None:
    hub.repository = {"private": False, "files": []}
    with pytest.raises(InputError, match="is there already, and public"):
        push(saved(tmp_path), REPO, private=True)
    assert {method for method, _, _ in hub.requests} == {"GET"}


@pytest.mark.parametrize(
    ("path", "status", "said", "words"),
    [
        (MODEL, 401, "Invalid credentials in Authorization header", "does not accept the token"),
        (MODEL, 403, "GatedRepo", "name is someone else's, take another"),
        (MODEL, 503, "closed", "the Hub answered 503"),
        (CREATE, 401, "", "does not accept the token"),
        (CREATE, 403, "You have no rights", "If someone is you or an organisation"),
        (COMMITS, 403, "", "the token may not write there"),
        (COMMITS, 412, "", "changed it at the same time; push again"),
        (COMMITS, 429, "", "asked too often"),
        ("/api/validate-yaml", 400, '"license" must be known', '"license" must be known'),
    ],
)
def test_refusals_are_said_in_words(
    path: str,
    status: int,
    said: str,
    words: str,
    hub: HubApi,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.refusals[path] = (status, said)
    assert main(["push", str(saved(tmp_path)), REPO]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert REPO in error
    assert "Traceback" not in error
    assert not hub.committed


def test_without_a_token(hub: HubApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=r"there is no token here.*hf auth login.*HF_TOKEN"):
        push(saved(tmp_path), REPO)
    assert not hub.requests


def test_without_a_network(hub: HubApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        push(source, REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"no connection to http://127\.0\.0\.1:9"):
        push(source, REPO)
    assert not hub.requests


@pytest.mark.parametrize("name", ["model", "/model", "org/", "a/b/c", "org/--x", "org/a b", ""])
def test_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"org/name|no name that the Hub allows"):
        push(tmp_path / "not-there", name)


def test_names_that_can_be() -> None:
    for name in ("org/name", "a-b/c_d.e", "1/2"):
        check_repo_id(name)


def test_bad_input(tmp_path: Path) -> None:
    source = saved(tmp_path)
    with pytest.raises(InputError, match="no identifier of a license"):
        push(source, REPO, license_id="My License!", dry_run=tmp_path / "folder")
    with pytest.raises(InputError, match="it is already there"):
        push(source, REPO, dry_run=source.parent)
    with pytest.raises(InputError, match="it is already there"):
        push(source, REPO, dry_run=source)
    with pytest.raises(InputError, match="no such weights file"):
        push(tmp_path / "other.safetensors", REPO, dry_run=tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("name", ["result.json", "environment.json", "data.json"])
def test_damaged_files_of_a_run(name: str, finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.result.run, run)
    (run / name).write_text(json.dumps({"best": 3, "versions": 4}))
    if name == "data.json":
        (run / name).unlink()
    with pytest.raises(InputError, match=str(run)):
        push(run, REPO, dry_run=tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_card_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path)
    bundle = load_bundle(source)
    broken = replace(bundle, preprocessing={"mode": "sideways"})
    save_model(broken.model, source, preprocessing=broken.preprocessing)
    with pytest.raises(InputError, match="sideways"):
        push(source, REPO, dry_run=tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]
