"""One argument for weights from everywhere, and what is said when they are nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hub_server import WEIGHTS, FileServer
from vit_lightning.checkpoints import cache
from vit_lightning.checkpoints.locate import locate_weights, missing_weights_message
from vit_lightning.checkpoints.npz import write_npz
from vit_lightning.checkpoints.official import OFFICIAL, find_official
from vit_lightning.errors import InputError

B16 = "imagenet21k/ViT-B_16"
FINE = "imagenet21k+imagenet2012/ViT-B_16"
MIRROR = "google/vit-base-patch16-224-in21k"


def write_official(path: Path, classes: int, side: int) -> Path:
    """A file with the head and the grid of an official one, and hardly any size."""
    arrays = {
        "cls": np.ones((1, 1, 1)),
        "head/kernel": np.ones((1, classes)),
        "Transformer/posembed_input/pos_embedding": np.ones((1, side**2 + 1, 1)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, arrays.items())
    return path


# files and folders


@pytest.mark.parametrize(
    ("name", "beside", "companions"),
    [
        ("model.safetensors", ["config.json"], {"config.json"}),
        (
            "pytorch_model.bin",
            ["config.json", "preprocessor_config.json"],
            {"config.json", "preprocessor_config.json"},
        ),
        ("other.safetensors", ["config.json", "preprocessor_config.json"], set()),
        ("x.npz", ["config.json", "x.npz.json", "x.json"], {"vit.json"}),
        ("ViT-B_16", [], set()),
    ],
)
def test_a_file(tmp_path: Path, name: str, beside: list[str], companions: set[str]) -> None:
    for file in (name, *beside):
        (tmp_path / file).touch()
    for spec in (tmp_path / name, str(tmp_path / name)):
        located = locate_weights(spec)
        assert (located.path, located.source) == (tmp_path / name, str(tmp_path / name))
        assert set(located.companions) == companions
        assert all(path.is_file() for path in located.companions.values())
        assert (located.official, located.notes) == (None, ())


def test_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.npz").touch()
    assert locate_weights("~/x.npz").path == tmp_path / "x.npz"


def test_a_folder_as_libraries_write_it(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "config.json", "preprocessor_config.json", "README.md"):
        (tmp_path / name).touch()
    located = locate_weights(tmp_path)
    assert located.path == tmp_path / "pytorch_model.bin"
    assert set(located.companions) == {"config.json", "preprocessor_config.json"}
    (tmp_path / "model.safetensors").touch()
    assert locate_weights(tmp_path).path == tmp_path / "model.safetensors"
    assert locate_weights(tmp_path).source == str(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "is a folder: it has no model.safetensors or pytorch_model.bin. Name the file"),
        (["x.npz"], "is a folder: .*Name the file inside it"),
        (["model.safetensors.index.json"], "is a folder: the weights in it are spread over"),
    ],
)
def test_folders_of_something_else(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        locate_weights(tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("checkpoint/none.npz", r"(?s)^checkpoint/none\.npz: there is no such .*tiny-imagenet"),
        ("none.pth", r"(?s)^none\.pth: there is no such weights file\.\nAny copy of the \.npz"),
        ("./none", "^./none: there is no such weights file"),
        ("~nobody-at-all/none", "^~nobody-at-all/none: there is no such weights file"),
        ("runs/best.ckpt", r"checkpoint/<experiment name>\.ckpt and in its own folder"),
        ("ViT-B_16.npz", "imagenet21k/ViT-B_16, imagenet21k.imagenet2012/ViT-B_16, sam/"),
        ("ViT-B_16", "is a file's name; official weights are given with their collection"),
        ("a/b/c", "^'a/b/c' names no weights: there is no such file here, and"),
        ("", "^'' names no weights"),
        ("x" * 5000, "names no weights"),
        ("imagenet21k/ViT-B_61", "there are imagenet21k/ViT-B_16"),
    ],
)
def test_what_names_nothing(server: FileServer, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        locate_weights(spec)
    assert not server.requests


def test_the_message_for_a_missing_file_knows_other_ways() -> None:
    message = missing_weights_message("checkpoint/ViT-H_14.npz")
    assert "403" in message
    assert "imagenet21k/ViT-H_14" in message
    assert "timm/vit_base_patch16_224.augreg_in21k" in message
    assert message.endswith("or from scratch with model.weights=null.")


# official names


def test_the_collections_file_wins(server: FileServer) -> None:
    write_official(Path("checkpoint/ViT-B_16.npz"), 21_843, 14)
    path = write_official(Path("checkpoint") / f"{B16}.npz", 5, 2)
    (path.parent / f"{path.name}.json").touch()
    located = locate_weights(f"{B16}.npz")
    assert located.path == path
    assert located.source == f"{B16}.npz"
    assert located.official == OFFICIAL[B16]
    assert set(located.companions) == {"vit.json"}
    assert located.notes == ()


@pytest.mark.parametrize(
    ("name", "classes", "side"), [(B16, 21_843, 14), (FINE, 1000, 24), ("sam/ViT-B_16", 1000, 14)]
)
def test_a_bare_file_answers_if_it_fits(
    server: FileServer, name: str, classes: int, side: int
) -> None:
    path = write_official(Path("mine/ViT-B_16.npz"), classes, side)
    located = locate_weights(name, Path("mine"))
    assert (located.path, located.official) == (path, OFFICIAL[name])
    note = f"mine/ViT-B_16.npz was taken for {name}, whose head and grid it has"
    assert located.notes == (note,)
    assert not server.requests


@pytest.mark.parametrize(
    ("name", "classes", "side", "why"),
    [
        (B16, 1000, 14, f"its head has 1,000 classes, {B16} has 21,843"),
        (FINE, 21_843, 14, f"its head has 21,843 classes, {FINE} has 1,000"),
        (FINE, 1000, 14, f"its grid is 14 × 14, that of {FINE} 24 × 24"),
    ],
)
def test_a_bare_file_that_does_not_fit_is_passed_over(
    server: FileServer, name: str, classes: int, side: int, why: str
) -> None:
    write_official(Path("checkpoint/ViT-B_16.npz"), classes, side)
    note = f"checkpoint/ViT-B_16.npz: passed over: {why}"
    with pytest.raises(InputError) as caught:
        locate_weights(name, may_fetch=False)
    assert f"\n  {note}\n" in str(caught.value)
    kept = cache.official_path(OFFICIAL[name])
    kept.parent.mkdir(parents=True)
    kept.touch()
    located = locate_weights(name)
    assert (located.path, located.notes) == (kept, (note,))


def test_a_bare_file_that_cannot_be_read_is_passed_over(server: FileServer) -> None:
    Path("checkpoint").mkdir()
    Path("checkpoint/ViT-B_16.npz").write_text("<html>403</html>")
    server.put_repository(MIRROR, {"model.safetensors": b"mirror"})
    located = locate_weights(B16)
    assert located.notes[0].startswith("checkpoint/ViT-B_16.npz: passed over: ")
    assert "is a web page" in located.notes[0]


def test_the_bucket_answers_and_is_kept(server: FileServer) -> None:
    server.put(f"/bucket/{FINE}.npz", WEIGHTS)
    located = locate_weights(FINE)
    assert located.path == cache.official_path(OFFICIAL[FINE])
    assert located.path.read_bytes() == WEIGHTS
    assert (located.source, located.official, located.notes) == (FINE, OFFICIAL[FINE], ())
    assert locate_weights(FINE) == located
    assert server.count() == {f"/bucket/{FINE}.npz": 1}


def test_the_mirror_answers_with_googles_numerics(server: FileServer) -> None:
    server.put(f"/bucket/{B16}.npz", status=403)
    server.put_repository(MIRROR, {"model.safetensors": b"mirror", "config.json": b"{}"})
    located = locate_weights(B16)
    assert located.path.read_bytes() == b"mirror"
    assert set(located.companions) == {"config.json"}
    assert (located.source, located.official) == (B16, OFFICIAL[B16])
    assert located.notes == (f"from the mirror {MIRROR}, which has no head",)


def test_a_mirror_that_was_fetched_answers_before_the_bucket_is_asked(server: FileServer) -> None:
    server.put(f"/bucket/{B16}.npz", status=403)
    server.put_repository(MIRROR, {"model.safetensors": b"mirror"})
    fetched = locate_weights(B16)
    assert server.count()[f"/bucket/{B16}.npz"] == 1
    server.requests.clear()
    assert locate_weights(B16) == fetched
    assert not server.requests


@pytest.mark.parametrize("page", [b"<html>log in to the wifi</html>", b"{}", b""])
def test_a_login_page_at_the_bucket_leads_on_to_the_mirror(server: FileServer, page: bytes) -> None:
    server.put(f"/bucket/{B16}.npz", page)
    with pytest.raises(InputError, match=rf"{B16}\.npz: what arrived is .*\n  {MIRROR} on the Hub"):
        locate_weights(B16)
    assert not [path for path in cache.cache_folder().rglob("*") if path.is_file()]
    server.put_repository(MIRROR, {"model.safetensors": b"mirror"})
    assert locate_weights(B16).path.read_bytes() == b"mirror"
    assert not cache.official_path(OFFICIAL[B16]).exists()
    served = server.put(f"/bucket/{FINE}.npz", page)
    with pytest.raises(InputError, match=rf"{FINE.replace('+', '.')}\.npz: what arrived is "):
        locate_weights(FINE)
    served.content, served.etag = WEIGHTS, '"2"'
    assert locate_weights(FINE).path.read_bytes() == WEIGHTS


def test_what_a_mirror_lacks_is_told(server: FileServer) -> None:
    server.put_repository("timm/vit_base_r50_s16_224.orig_in21k", {"pytorch_model.bin": b"x"})
    (note,) = locate_weights("imagenet21k/R50+ViT-B_16").notes
    assert note.endswith("orig_in21k, which has no pre_logits and no head")
    server.put_repository("timm/vit_base_patch32_224.sam_in1k", {"pytorch_model.bin": b"x"})
    (note,) = locate_weights("sam/ViT-B_32").notes
    assert note == "from the mirror timm/vit_base_patch32_224.sam_in1k"


def test_nothing_answers(server: FileServer, tmp_path: Path) -> None:
    server.put(f"/bucket/{B16}.npz", status=403)
    server.put_error(MIRROR, 404, "RepoNotFound")
    write_official(Path("checkpoint/ViT-B_16.npz"), 1000, 24)
    with pytest.raises(InputError) as caught:
        locate_weights(B16)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{B16}: no place has these weights."
    assert lines[1] == f"  checkpoint/{B16}.npz: not there"
    assert lines[2].startswith("  checkpoint/ViT-B_16.npz: passed over: its head has 1,000")
    assert lines[3] == f"  {tmp_path}/kept/weights/{B16}.npz: not there"
    assert lines[4] == (
        f"  {server.url}/bucket/{B16}.npz: the server answered 403 (Forbidden); since February "
        f"2026 Google's bucket refuses anonymous users"
    )
    assert lines[5].startswith(f"  {MIRROR} on the Hub ({server.url}): no such repository")
    assert lines[6:8] == ["What to do:", f"  - put the file at checkpoint/{B16}.npz"]
    assert f"`hf download {MIRROR}`" in lines[8]
    assert "models--google--vit-base-patch16-224-in21k" in lines[8]
    assert str(tmp_path / "hub") in lines[8]
    assert "model.weights=null" in lines[9]
    assert "vit-lightning/tiny-imagenet" in lines[9]
    assert len(lines) == 10


def test_nothing_answers_and_there_is_no_mirror(server: FileServer) -> None:
    name = "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
    tuned = f"{name}--imagenet2012-steps_20k-lr_0.03-res_384"
    with pytest.raises(InputError) as caught:
        locate_weights(tuned)
    message = str(caught.value)
    assert "the server answered 404 (Not Found)\n" in message
    assert "  on the Hub: no mirror of these weights is known\n" in message
    like = f"take like weights, of which the Hub has a mirror: {name}--imagenet2012-steps_20k"
    assert f"  - {like}-lr_0.01-res_384" in message


def test_a_name_of_augreg_beyond_the_table(server: FileServer) -> None:
    name = "augreg/Ti_16-i1k-300ep-lr_0.001-aug_light0-wd_0.1-do_0.0-sd_0.0"
    server.put(f"/bucket/{name}.npz", WEIGHTS)
    located = locate_weights(name)
    assert located.path.read_bytes() == WEIGHTS
    assert located.official == find_official(name)


def test_offline_nothing_is_asked(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    server.put_repository(MIRROR, {"model.safetensors": b"mirror"})
    fetched = locate_weights(B16)
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate_weights(B16) == fetched  # the mirror, from the Hub's cache
    with pytest.raises(InputError) as caught:
        locate_weights(FINE)
    said = str(caught.value)
    assert f"{server.url}/bucket/{FINE}.npz: not asked, as HF_HUB_OFFLINE is set\n" in said
    assert f"on the Hub ({server.url}): HF_HUB_OFFLINE is set, and it is not in the cache" in said
    for address in (f"{server.url}/x.npz", "https://none.invalid/x.npz"):
        with pytest.raises(InputError, match="not asked, as HF_HUB_OFFLINE is set; it is not in"):
            locate_weights(address)
    assert not server.requests


def test_without_fetching_nothing_is_asked(server: FileServer) -> None:
    server.put_repository(MIRROR, {"model.safetensors": b"mirror"})
    for spec in (B16, MIRROR, f"{server.url}/x.npz"):
        with pytest.raises(InputError, match=r"not asked|not in the cache"):
            locate_weights(spec, may_fetch=False)
    assert not server.requests
    fetched = locate_weights(B16)
    assert locate_weights(B16, may_fetch=False) == fetched
    assert locate_weights(MIRROR, may_fetch=False).path == fetched.path


# the Hub


@pytest.mark.parametrize("spec", ["org/vit", "hf-hub:org/vit", "org/vit@main"])
def test_a_hub_id(server: FileServer, spec: str) -> None:
    server.put_repository("org/vit", {"model.safetensors": b"x", "config.json": b"{}"})
    located = locate_weights(spec)
    assert located.path.read_bytes() == b"x"
    assert set(located.companions) == {"config.json"}
    assert (located.source, located.official, located.notes) == (spec, None, ())


def test_the_prefix_leaves_folders_aside(server: FileServer) -> None:
    server.put_repository("imagenet21k/mine", {"model.safetensors": b"x"})
    Path("imagenet21k/mine").mkdir(parents=True)
    with pytest.raises(InputError, match="is a folder"):
        locate_weights("imagenet21k/mine")
    assert locate_weights("hf-hub:imagenet21k/mine").path.read_bytes() == b"x"


def test_a_hub_that_refuses(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        locate_weights("imagenet-21k/ViT-B_16")
    message = str(caught.value)
    assert message.startswith("imagenet-21k/ViT-B_16: there is no such file here, and of the ")
    assert "no such repository, or a private one" in message
    assert "Did you mean 'imagenet21k/ViT-B_16'?" in message
    assert "HF_ENDPOINT" in message
    assert "`hf download imagenet-21k/ViT-B_16`" in message
    assert str(tmp_path / "hub") in message


def test_a_hub_out_of_reach_is_told_where_it_answered_before(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put_repository("org/vit", {"model.safetensors": b"x"})
    path = locate_weights("org/vit").path
    server.put_error("org/vit", 503, "")
    del (
        server.files["/org/vit/resolve/main/"],
        server.files["/org/vit/resolve/main/model.safetensors"],
    )
    located = locate_weights("org/vit")
    assert located.path == path
    assert located.notes == ("from the Hub's cache (the Hub answered 503 (Service Unavailable))",)


# addresses


def test_an_address(server: FileServer, tmp_path: Path) -> None:
    url = f"{server.url}/a/my%20vit.npz?download=1"
    server.put("/a/my%20vit.npz", WEIGHTS)
    located = locate_weights(url)
    assert located.path.read_bytes() == WEIGHTS
    assert located.path.name.endswith("-my_vit.npz")
    assert located.path.is_relative_to(tmp_path / "kept" / "weights" / "url")
    assert (located.source, dict(located.companions), located.official) == (url, {}, None)
    assert locate_weights(url) == located
    assert len(server.requests) == 1
    other = locate_weights(f"{server.url}/a/my%20vit.npz?download=2")
    assert other.path != located.path


def test_a_login_page_at_an_address_is_not_kept(server: FileServer) -> None:
    url = f"{server.url}/vit.safetensors"
    served = server.put("/vit.safetensors", b"<html>log in</html>")
    for _ in range(2):
        with pytest.raises(InputError, match=rf"{url}: what arrived is a web page or a server's"):
            locate_weights(url)
        assert not [path for path in cache.cache_folder().rglob("*") if path.is_file()]
    served.content, served.etag = WEIGHTS, '"2"'
    assert locate_weights(url).path.read_bytes() == WEIGHTS


def test_an_address_that_refuses(server: FileServer) -> None:
    url = f"{server.url}/none.npz"
    message = rf"{url}: the server answered 404 \(Not Found\)\n  If this machine has no network"
    with pytest.raises(InputError, match=message):
        locate_weights(url)
    assert not list(cache.cache_folder().glob("**/*none*"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.com/x.npz", "addresses that begin with https://"),
        ("ftp://localhost/x.npz", "addresses that begin with https://"),
        ("file:///etc/passwd", "addresses that begin with https://"),
        ("https://[::1/x.npz", "not an address"),
        (
            "https://huggingface.co/google/vit-base-patch16-224/tree/main",
            "is a page, not a file; give the Hub id instead: google/vit-base-patch16-224$",
        ),
    ],
)
def test_addresses_that_are_not_fetched_from(server: FileServer, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        locate_weights(url)
    assert not server.requests


def test_torch_is_not_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from vit_lightning.checkpoints.locate import locate_weights; "
        "locate_weights(sys.argv[1]); print('torch' in sys.modules)"
    )
    path = write_official(tmp_path / "x.npz", 2, 2)
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert found.stdout == "False\n"
