"""Files that are damaged, wrong or malicious: each is refused in words, at little cost.

The readers' own tests look at each of them alone; here files come in by the front door.
"""

import io
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hostile_files import SMALL, STATE, description_of, npy, refusal, with_pickle, write_npz, zipped
from hostile_pickles import GADGETS
from tiny_models import arrays_of
from vit_lightning import load_bundle
from vit_lightning.checkpoints.dialects import GOOGLE, HUGGINGFACE, TIMM, Dialect

MARKER = Path("it ran")


def _apart(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in arrays.items()}


# How a kind of file is written, and the dialect that is usual in it.
KINDS: dict[str, tuple[Callable[[Path, dict[str, Tensor]], None], Dialect]] = {
    "x.npz": (write_npz, GOOGLE),
    "x.safetensors": (lambda path, arrays: save_file(_apart(arrays), path), TIMM),
    "x.pth": (lambda path, arrays: torch.save(arrays, path), TIMM),
    "x.bin": (
        lambda path, arrays: torch.save(arrays, path, _use_new_zipfile_serialization=False),
        HUGGINGFACE,
    ),
}


@pytest.mark.parametrize("name", KINDS)
class TestWrongArrays:
    """Each message names the file, the key in the file's words, and what was expected."""

    KEYS: Mapping[str, tuple[str, str]] = {
        "Google": ("Transformer/encoderblock_0/MlpBlock_3/Dense_0/bias", "embedding/kernel"),
        "timm": ("blocks.0.mlp.fc1.bias", "patch_embed.proj.weight"),
        "Hugging Face": (
            "vit.encoder.layer.0.intermediate.dense.bias",
            "vit.embeddings.patch_embeddings.projection.weight",
        ),
    }

    def load(self, folder: Path, name: str, changes: Mapping[str, Tensor | None]) -> str:
        """The message about arrays of which the first named key, or another, is not right."""
        write, dialect = KINDS[name]
        key, _ = self.KEYS[dialect.name]
        arrays = arrays_of(dialect, STATE)
        for old, new in changes.items():
            if new is None:
                del arrays[old or key]
            else:
                arrays[old or key] = new
        write(folder / name, arrays)
        return refusal(folder / name)

    def key(self, name: str) -> str:
        return self.KEYS[KINDS[name][1].name][0]

    def test_unchanged_they_load(self, tmp_path: Path, name: str) -> None:
        write, dialect = KINDS[name]
        write(tmp_path / name, arrays_of(dialect, STATE))
        assert torch.equal(load_bundle(tmp_path / name).model.norm.weight, STATE["norm.weight"])

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_no_finite_numbers(self, tmp_path: Path, name: str, value: float) -> None:
        wrong = torch.ones(16)
        wrong[-1] = value
        message = self.load(tmp_path, name, {"": wrong})
        assert f"{self.key(name)} holds values that are no finite numbers" in message

    def test_a_number_beyond_float32(self, tmp_path: Path, name: str) -> None:
        message = self.load(tmp_path, name, {"": torch.full((16,), 1e300, dtype=torch.float64)})
        assert f"{self.key(name)} holds values that are no finite numbers" in message

    def test_integers(self, tmp_path: Path, name: str) -> None:
        message = self.load(tmp_path, name, {"": torch.ones(16, dtype=torch.int32)})
        assert re.search(rf"{self.key(name)} is of type \S*int32; weights are floating", message)

    def test_another_shape(self, tmp_path: Path, name: str) -> None:
        message = self.load(tmp_path, name, {"": torch.ones(17)})
        assert f"{self.key(name)} has shape (17,), the model takes (16,)" in message

    def test_another_rank(self, tmp_path: Path, name: str) -> None:
        _, kernel = self.KEYS[KINDS[name][1].name]
        message = self.load(tmp_path, name, {kernel: torch.ones(8, 192)})
        assert kernel in message
        assert "(8, 192)" in message

    def test_a_missing_key(self, tmp_path: Path, name: str) -> None:
        assert f"missing: {self.key(name)}" in self.load(tmp_path, name, {"": None})

    def test_a_missing_kernel(self, tmp_path: Path, name: str) -> None:
        _, kernel = self.KEYS[KINDS[name][1].name]
        message = self.load(tmp_path, name, {kernel: None})
        assert kernel in message or "not the weights of a Vision Transformer" in message

    def test_a_key_too_many(self, tmp_path: Path, name: str) -> None:
        extra = self.key(name).replace("0", "0_ema", 1)
        assert extra in self.load(tmp_path, name, {extra: torch.ones(16)})

    def test_two_dialects(self, tmp_path: Path, name: str) -> None:
        own = KINDS[name][1]
        other = HUGGINGFACE if own is TIMM else TIMM
        message = self.load(tmp_path, name, arrays_of(other, STATE))
        assert "two layouts are mixed" in message
        assert own.name in message
        assert other.name in message


@pytest.mark.parametrize("name", KINDS)
def test_cut_short_anywhere(tmp_path: Path, name: str) -> None:
    write, dialect = KINDS[name]
    path = tmp_path / name
    write(path, arrays_of(dialect, STATE))
    data = path.read_bytes()
    # Of a few bytes alone cannot be told what they were.
    words = "cut short|damaged|is empty|is a text file|is a bare pickle|is no weights file"
    lengths = np.unique(np.r_[np.geomspace(1, len(data) - 1, 20), np.linspace(0, len(data), 8)])
    for length in lengths[lengths < len(data)].astype(int):
        path.write_bytes(data[:length])
        assert re.search(words, refusal(path))


class TestArchives:
    def test_a_zip_in_a_zip(self, tmp_path: Path) -> None:
        inner = zipped({"cls.npy": npy(np.ones(2, np.float32))})
        (tmp_path / "x.npz").write_bytes(zipped({"cls.npy": inner}))
        assert "x.npz: cls: the header cannot be read" in refusal(tmp_path / "x.npz")

    def test_an_array_of_arrays_of_objects(self, tmp_path: Path) -> None:
        """An object among the fields of a structure, which is unpickled no less."""
        path = tmp_path / "x.npz"
        path.write_bytes(zipped({"cls.npy": npy(np.zeros(2, [("a", "f4"), ("b", "O")]))}))
        assert "x.npz: cls is an array of Python objects" in refusal(path)

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_packed_as_numpy_does_not(self, tmp_path: Path, method: int) -> None:
        data = zipped({"cls.npy": npy(np.ones(2, np.float32))}, method)
        (tmp_path / "x.npz").write_bytes(data)
        assert "packed by a method that NumPy does not use" in refusal(tmp_path / "x.npz")

    @pytest.mark.parametrize("second", ["archive/data.pkl", "archive/DATA.PKL", "b/data.pkl"])
    def test_two_pickles(self, tmp_path: Path, second: str) -> None:
        """One for those who look whether it is safe, another for those who read it."""
        data = io.BytesIO(with_pickle(pickle.dumps({}, 2)))
        with zipfile.ZipFile(data, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the name stands twice
            archive.writestr(second, GADGETS["REDUCE"])
        (tmp_path / "x.pth").write_bytes(data.getvalue())
        assert "x.pth holds 2 files data.pkl; torch.save writes one" in refusal(tmp_path / "x.pth")

    @pytest.mark.parametrize("length", [0, 1, 7, 2**20, 2**31, 2**63, 2**64 - 1])
    def test_a_safetensors_that_lies_about_its_header(self, tmp_path: Path, length: int) -> None:
        path = tmp_path / "x.safetensors"
        save_file(STATE, path)
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
        assert "cut short" in refusal(path)

    def test_a_safetensors_header_of_brackets(self, tmp_path: Path) -> None:
        header = b'{"a":' * 200_000
        path = tmp_path / "x.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        assert "cut short or damaged" in refusal(path)


@pytest.mark.parametrize("gadget", GADGETS)
class TestNothingIsExecuted:
    def test_these_pickles_do_run_code(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gadget: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        pickle.loads(GADGETS[gadget])  # noqa: S301
        assert MARKER.exists()

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("place", ["alone", "as a value", "before the weights"])
    def test_but_not_here(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        gadget: str,
        legacy: bool,
        place: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        step = GADGETS[gadget].removeprefix(b"\x80\x02").removesuffix(b".")
        data = {
            "alone": GADGETS[gadget],
            "as a value": b"\x80\x02}X\x01\x00\x00\x00a" + step + b"s.",
            "before the weights": b"\x80\x02" + step + b"0}.",
        }[place]
        path = tmp_path / "x.pth"
        path.write_bytes(with_pickle(data, legacy=legacy))
        message = refusal(path)
        assert re.search("asks for .* to be called|is pickled by protocol 4", message)
        assert "nothing was executed" in message
        assert not MARKER.exists()


def test_no_advice_to_take_the_risk(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(with_pickle(b"\x80\x02}2."))  # a step that torch refuses
    message = refusal(tmp_path / "x.pth")
    assert "x.pth is cut short or damaged (Unsupported operand 50)" in message
    assert "weights_only" not in message


def test_methods_put_into_an_ordered_dict(tmp_path: Path) -> None:
    """A pickle can give a dict of its own other attributes; they are passed over."""
    state, description = OrderedDict(STATE), OrderedDict(config=SMALL.to_dict())
    contents = OrderedDict(state_dict=state, vit_lightning=description)
    path = tmp_path / "x.ckpt"
    for mapping in (state, description, contents):
        mapping.__dict__.update(dict.fromkeys(("itemz", "get", "keyz", "valuez"), 3))
    path.write_bytes(_with_right_names(contents))
    assert "its description of the model is damaged" in refusal(path)
    del contents["vit_lightning"]
    path.write_bytes(_with_right_names(contents))
    assert torch.equal(load_bundle(path).model.norm.weight, STATE["norm.weight"])


def _with_right_names(contents: Any) -> bytes:
    out = io.BytesIO()
    torch.save(contents, out)
    with zipfile.ZipFile(out) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in ("item", "key", "value"):
        members["archive/data.pkl"] = members["archive/data.pkl"].replace(
            f"{name}z".encode(), f"{name}s".encode()
        )
    return zipped(members)


class TestPlaces:
    """Where a file is looked for, something else may stand."""

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        message = refusal(tmp_path)
        assert (
            f"{tmp_path} is a folder: it has no model.safetensors or pytorch_model.bin" in message
        )

    def test_a_folder_in_the_place_of_the_weights(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").mkdir()
        assert "is no file; name the weights file" in refusal(tmp_path)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors.json"])
    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
    def test_no_file_beside_the_weights(
        self, tmp_path: Path, name: str, make: Callable[[Path], None]
    ) -> None:
        """It describes nothing, and is not waited for."""
        save_file(STATE, tmp_path / "model.safetensors")
        make(tmp_path / name)
        assert load_bundle(tmp_path).model.config.num_heads == 3

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.npz")
        assert "is no file" in refusal(tmp_path / "x.npz")

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "x.npz").symlink_to(tmp_path / "y.npz")
        (tmp_path / "y.npz").symlink_to(tmp_path / "x.npz")
        assert "there is no such weights file" in refusal(tmp_path / "x.npz")

    def test_a_link_to_a_file(self, tmp_path: Path) -> None:
        save_file(STATE, tmp_path / "x")
        (tmp_path / "y").symlink_to(tmp_path / "x")
        assert load_bundle(tmp_path / "y").model.config.num_heads == 3

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to the superuser")
    def test_an_unreadable_file(self, tmp_path: Path) -> None:
        save_file(STATE, tmp_path / "x.npz")
        (tmp_path / "x.npz").chmod(0)
        assert "cannot be read: Permission denied" in refusal(tmp_path / "x.npz")

    @pytest.mark.parametrize("name", ["Bärenfänger 🐻.pth", "a\nb.pth", "[x].pth"])
    def test_any_name(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        torch.save(STATE, path)
        assert torch.equal(load_bundle(path).model.norm.weight, STATE["norm.weight"])
        path.write_bytes(b"")
        assert "is empty" in refusal(path)


class TestDescriptions:
    """What stands beside weights, or travels in them, may say anything."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"classes": [1, 2, 3, 4, 5]}, "its class names are not a list of names"),
            ({"classes": ["\ud800"] * 5}, "its class names are not a list of names"),
            ({"origin": {"lr": float("nan")}}, "its preprocessing or origin is no plain JSON"),
            ({"preprocessing": {"mean": 1e999}}, "its preprocessing or origin is no plain JSON"),
            ({"config": SMALL.to_dict() | {"norm_eps": "x" * 10**6}}, "norm_eps must lie in"),
        ],
    )
    def test_refused(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        write_npz(tmp_path / "x.npz", arrays_of(GOOGLE, STATE))
        weights = (tmp_path / "x.npz").read_bytes()
        (tmp_path / "x.npz.json").write_bytes(description_of(weights, **changes))
        assert message in refusal(tmp_path / "x.npz")

    def test_no_description_but_weights(self, tmp_path: Path) -> None:
        contents = {f"model.{key}": tensor for key, tensor in STATE.items()}
        torch.save({"state_dict": contents, "vit_lightning": torch.ones(2)}, tmp_path / "x.ckpt")
        assert load_bundle(tmp_path / "x.ckpt").classes is None

    @pytest.mark.parametrize("value", [[1], "x", {"config": torch.ones(2)}, {"config": {1: {2}}}])
    def test_a_description_of_another_type(self, tmp_path: Path, value: Any) -> None:
        contents = {f"model.{key}": tensor for key, tensor in STATE.items()}
        torch.save({"state_dict": contents, "vit_lightning": value}, tmp_path / "x.ckpt")
        assert "its description of the model is damaged" in refusal(tmp_path / "x.ckpt")
