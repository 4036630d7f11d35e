"""Files of torch and safetensors: tensors on access, and nothing in a file is executed."""

import argparse
import collections
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vit_lightning.checkpoints import tensors
from vit_lightning.checkpoints.tensors import TensorFile, open_safetensors, open_torch
from vit_lightning.errors import InputError


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "norm.weight": torch.randn(7, generator=generator),
        "head.weight": torch.randn(3, 5, generator=generator).T,
        "half": torch.randn(4, generator=generator).bfloat16(),
        "scalar": torch.randn((), generator=generator).double(),
    }


def assert_holds_everything(file: TensorFile, prefix: str = "") -> None:
    assert file.shapes == {f"{prefix}{key}": tuple(t.shape) for key, t in state().items()}
    for key, tensor in state().items():
        found = file[prefix + key]
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor), key


def cut(path: Path, keep: float) -> None:
    """Leave the first bytes of a file, or a part of it."""
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])


class TestSafetensors:
    def test_tensors_and_metadata(self, tmp_path: Path) -> None:
        contents = {key: tensor.contiguous() for key, tensor in state().items()}
        save_file(contents, tmp_path / "x", {"format": "pt", "a": "ä"})
        metadata, file = open_safetensors(tmp_path / "x")
        assert metadata == {"format": "pt", "a": "ä"}
        assert_holds_everything(file)

    def test_without_metadata(self, tmp_path: Path) -> None:
        save_file({"a": torch.ones(2)}, tmp_path / "x")
        assert open_safetensors(tmp_path / "x")[0] == {}

    def test_tensors_outlive_the_file(self, tmp_path: Path) -> None:
        """Written over in place, a mapped file would change or kill the model in memory."""
        path = tmp_path / "x"
        save_file({"a": torch.ones(99)}, path)
        tensor = open_safetensors(path)[1]["a"]
        path.write_bytes(b"\0" * path.stat().st_size)
        assert torch.equal(tensor, torch.ones(99))

    @pytest.mark.parametrize("keep", [60, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, keep: float) -> None:
        save_file({"a": torch.ones(5000)}, tmp_path / "x")
        cut(tmp_path / "x", keep)
        with pytest.raises(InputError, match=r"x .*cut short.*copy or download it again"):
            open_safetensors(tmp_path / "x")

    @pytest.mark.parametrize(
        "header",
        [
            {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 40]}},
            {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}},
            {"a": {"dtype": "F32", "shape": [1 << 63, 1 << 63], "data_offsets": [0, 8]}},
            {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
            {"a": {"dtype": "X", "shape": [2], "data_offsets": [0, 8]}},
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}},
            {"a": 3},
            {"__metadata__": {"a": 3}},
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            },
        ],
    )
    def test_headers_that_lie(self, tmp_path: Path, header: Any) -> None:
        text = json.dumps(header).encode()
        (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(InputError, match=r"x is cut short or damaged"):
            open_safetensors(tmp_path / "x")


HOLDERS = ["state_dict", "model", "model_state_dict", "module"]


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
def test_a_type_that_torch_has_not_is_named_when_it_is_read(tmp_path: Path, dtype: str) -> None:
    header = {"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, 6]}}
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(6))
    file = open_safetensors(tmp_path / "x")[1]
    with pytest.raises(InputError, match=rf"x: a cannot be read: .*{dtype}"):
        file["a"]


class TestStateDicts:
    def test_alone(self, tmp_path: Path) -> None:
        torch.save(state(), tmp_path / "x.pth")
        file = open_torch(tmp_path / "x.pth")
        assert_holds_everything(file.tensors)
        assert file.beside == {}

    def test_of_a_module(self, tmp_path: Path) -> None:
        """An ordered dictionary with a version of its own beside the tensors."""
        module = nn.Linear(2, 3)
        torch.save(module.state_dict(), tmp_path / "x.pth")
        file = open_torch(tmp_path / "x.pth")
        assert file.tensors.shapes == {"weight": (3, 2), "bias": (3,)}
        assert torch.equal(file.tensors["weight"], module.weight)

    def test_of_parameters(self, tmp_path: Path) -> None:
        torch.save({"a": nn.Parameter(torch.ones(2))}, tmp_path / "x.pth")
        assert torch.equal(open_torch(tmp_path / "x.pth").tensors["a"], torch.ones(2))

    @pytest.mark.parametrize("holder", HOLDERS)
    def test_held_by_a_training_program(self, tmp_path: Path, holder: str) -> None:
        contents = {
            holder: state(),
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(9)}}},
            "args": argparse.Namespace(lr=0.1, model="vit", nested=argparse.Namespace(a=[1])),
            "epoch": 3,
            "best": torch.tensor(0.5),
        }
        torch.save(contents, tmp_path / "x.pth")
        file = open_torch(tmp_path / "x.pth")
        assert_holds_everything(file.tensors)
        assert set(file.beside) == {"optimizer", "args", "epoch"}
        assert file.beside["args"].nested.a == [1]

    def test_the_first_holder_counts(self, tmp_path: Path) -> None:
        contents = {"model": {"a": torch.zeros(1)}, "state_dict": {"b": torch.ones(1)}}
        torch.save(contents, tmp_path / "x.pth")
        file = open_torch(tmp_path / "x.pth")
        assert set(file.tensors.shapes) == {"b"}
        assert set(file.beside) == {"model"}

    def test_a_holder_that_holds_nothing_is_an_entry(self, tmp_path: Path) -> None:
        torch.save({"model": "vit_b_16", "a": torch.ones(1)}, tmp_path / "x.pth")
        file = open_torch(tmp_path / "x.pth")
        assert set(file.tensors.shapes) == {"a"}
        assert file.beside == {"model": "vit_b_16"}

    def test_what_is_no_tensor_is_passed_over(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {"a": torch.ones(1), "b": None, "c": [1]}}, tmp_path / "x.pth")
        assert set(open_torch(tmp_path / "x.pth").tensors.shapes) == {"a"}

    @pytest.mark.parametrize("wrap", [dict, lambda state: {"model": state, "epoch": 3}])
    def test_as_torch_saved_before_2020(self, tmp_path: Path, wrap: Any) -> None:
        path = tmp_path / "x.pth"
        torch.save(wrap(state()), path, _use_new_zipfile_serialization=False)
        assert_holds_everything(open_torch(path).tensors)

    def test_tensors_outlive_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        torch.save({"a": torch.ones(99)}, path)
        tensor = open_torch(path).tensors["a"]
        path.write_bytes(b"\0" * path.stat().st_size)
        assert torch.equal(tensor, torch.ones(99))

    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            ([torch.ones(2)], "holds a list, expected a state dict"),
            (torch.ones(2), "holds a Tensor, expected a state dict"),
            (3, "holds a int, expected a state dict"),
            ({}, r"holds no tensors of a model \(it has nothing\)"),
            ({"epoch": 3, 4: 5}, r"holds no tensors of a model \(it has epoch, 4\)"),
            ({"state_dict": {}, "epoch": 3}, "holds no tensors of a model"),
            ({"state_dict": None}, "holds no tensors of a model"),
        ],
    )
    def test_other_contents_are_named(self, tmp_path: Path, contents: Any, message: str) -> None:
        torch.save(contents, tmp_path / "x.pth")
        with pytest.raises(InputError, match=rf"x\.pth {message}"):
            open_torch(tmp_path / "x.pth")

    @pytest.mark.parametrize("key", [3, 2.5, None, True, ("a", 1), b"a"])
    def test_tensors_under_what_is_no_name_are_passed_over(self, tmp_path: Path, key: Any) -> None:
        torch.save({"a": torch.ones(1), key: torch.zeros(2)}, tmp_path / "x.pth")
        assert set(open_torch(tmp_path / "x.pth").tensors.shapes) == {"a"}


class Runs:
    """An object that, when a pickle of it is opened, writes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


class TestNothingIsExecuted:
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("where", ["beside", "weights", "args"])
    def test_a_pickle_that_runs_code_does_not(
        self, tmp_path: Path, where: str, legacy: bool
    ) -> None:
        marker, path = tmp_path / "it ran", tmp_path / "x.pth"
        weights: dict[str, Any] = dict(state())
        args = argparse.Namespace()
        contents: dict[str, Any] = {"model": weights, "args": args}
        {"beside": contents, "weights": weights, "args": vars(args)}[where]["evil"] = Runs(marker)
        torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(InputError, match=r"exec to be called .* nothing was executed"):
            open_torch(path)
        assert not marker.exists()
        torch.load(path, weights_only=False)  # it would have run: this is no test of a dud
        assert marker.exists()

    def test_a_whole_pickled_model_is_refused(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "x.pth")
        with pytest.raises(InputError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
            open_torch(tmp_path / "x.pth")

    @pytest.mark.parametrize(
        "thing", [collections.deque([1]), Path("x"), os.stat_result(range(10)), argparse.Action]
    )
    def test_other_objects_are_refused_by_their_names(self, tmp_path: Path, thing: Any) -> None:
        torch.save({"model": state(), "thing": thing}, tmp_path / "x.pth")
        with pytest.raises(InputError, match=r"x\.pth asks for \w+\.\w+ to be called"):
            open_torch(tmp_path / "x.pth")

    def test_what_is_allowed_here_is_not_allowed_elsewhere(self, tmp_path: Path) -> None:
        torch.save({"a": torch.ones(1), "args": argparse.Namespace()}, tmp_path / "x.pth")
        open_torch(tmp_path / "x.pth")
        assert argparse.Namespace not in torch.serialization.get_safe_globals()


class TestDamage:
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("keep", [60, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, keep: float, legacy: bool) -> None:
        path = tmp_path / "x.pth"
        torch.save({"a": torch.ones(5000)}, path, _use_new_zipfile_serialization=not legacy)
        cut(path, keep)
        with pytest.raises(InputError, match=r"x\.pth is cut short or damaged"):
            open_torch(path)

    def test_a_broken_pickle_inside_a_whole_zip(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        torch.save(state(), path)
        data = path.read_bytes()
        start = data.index(b"norm.weight")
        path.write_bytes(data[:start] + b"\xff" * 11 + data[start + 11 :])
        with pytest.raises(InputError, match=r"x\.pth is cut short or damaged"):
            open_torch(path)

    def test_a_member_that_is_missing(self, tmp_path: Path) -> None:
        torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
        with (
            zipfile.ZipFile(tmp_path / "x.pth") as archive,
            zipfile.ZipFile(tmp_path / "y.pth", "w") as less,
        ):
            for name in archive.namelist():
                if not name.endswith("data/0"):
                    less.writestr(name, archive.read(name))
        with pytest.raises(InputError, match=r"y\.pth is cut short or damaged"):
            open_torch(tmp_path / "y.pth")

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("shape", [(10**6, 10**6), (4000, 4000)])
    def test_tensors_that_claim_more_than_the_file_has(
        self, tmp_path: Path, shape: tuple[int, int], legacy: bool
    ) -> None:
        """One number, said to be a matrix of it: read, it would fill the memory."""
        path = tmp_path / "x.pth"
        aliased = torch.ones(1).expand(shape)
        torch.save({"a": aliased}, path, _use_new_zipfile_serialization=not legacy)
        assert path.stat().st_size < 10_000
        with pytest.raises(InputError, match=r"has \d+ bytes, but its tensors claim \d+"):
            open_torch(path)

    def test_many_tensors_of_one_storage(self, tmp_path: Path) -> None:
        once = torch.ones(200_000)
        torch.save({str(n): once for n in range(10)}, tmp_path / "x.pth")
        with pytest.raises(InputError, match="they repeat what is stored once"):
            open_torch(tmp_path / "x.pth")

    def test_a_tied_tensor_is_no_such_file(self, tmp_path: Path) -> None:
        once = torch.arange(200_000.0)
        torch.save({"a": once, "b": once, "c": once[:7]}, tmp_path / "x.pth")
        file = open_torch(tmp_path / "x.pth").tensors
        assert torch.equal(file["b"], once)
        assert file["c"].untyped_storage().nbytes() == 28  # and keeps none of the rest alive

    # Why nobody should make a quantised one any more, or look at one as the reader of it does.
    @pytest.mark.filterwarnings(
        "ignore:torch.quantize_per_tensor.*are deprecated:UserWarning",
        "ignore:TypedStorage is deprecated:UserWarning",
        "ignore:The PyTorch API of nested tensors is in prototype:UserWarning",
    )
    @pytest.mark.parametrize(
        "make",
        [
            torch.Tensor.to_sparse,
            lambda plain: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
            lambda plain: torch.nested.nested_tensor([plain, plain[:2]]),
            lambda plain: plain.to("meta"),
        ],
        ids=["sparse", "quantised", "nested", "meta"],
    )
    def test_tensors_that_are_no_plain_arrays(self, tmp_path: Path, make: Any) -> None:
        torch.save({"a": torch.ones(2), "b": make(torch.eye(3))}, tmp_path / "x.pth")
        with pytest.raises(InputError, match=r"x\.pth: b is a sparse, quantised, nested or"):
            open_torch(tmp_path / "x.pth")


def test_a_mapping_is_closed_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_REMAP_AFTER", 100)
    opened = []

    def reopen() -> Any:
        opened.append(1)
        return {str(i): torch.full((20,), float(i)) for i in range(6)}.__getitem__

    file = TensorFile(reopen, {})
    assert not opened  # lazy
    assert [file[str(i)][0].item() for i in range(6)] == [0, 1, 2, 3, 4, 5]
    assert len(opened) == 3  # 80 bytes each: two, and the third is not asked of a full one


def test_what_cannot_be_mapped_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_REMAP_AFTER", 100)
    opened = []

    def reopen() -> Any:
        opened.append(1)
        return {str(i): torch.full((20,), float(i)) for i in range(6)}.__getitem__

    file = TensorFile(reopen, {}, mapped=False)
    assert [file[str(i)][0].item() for i in range(6)] == [0, 1, 2, 3, 4, 5]
    assert len(opened) == 1


def test_old_files_are_loaded_twice_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To see what is in them, and to have it; not every 32 MiB."""
    monkeypatch.setattr(tensors, "_REMAP_AFTER", 4)
    torch.save(state(), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    loads: list[object] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (loads.append(a), load(*a, **k))[1])
    assert_holds_everything(open_torch(tmp_path / "x.pth").tensors)
    assert len(loads) == 2
