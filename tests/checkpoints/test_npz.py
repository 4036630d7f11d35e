"""Reading and writing Google's .npz: lazily, frugally, and nothing of it executed."""

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_lightning.checkpoints.npz import open_npz, write_npz
from vit_lightning.errors import InputError

REFERENCE = Path(__file__).parents[1] / "reference"
BLOCK = "Transformer/encoderblock_0/"


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{name}.npz") as file:
        return dict(file)


def npy(array: np.ndarray, **header: Any) -> bytes:
    """The bytes of a .npy, its header altered."""
    out = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(array) | header
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue() + array.tobytes()


def write_members(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def announce(path: Path, real: int, more: int) -> None:
    """Let the directory of an archive say that its one member has ``more`` bytes than it has."""
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    assert data[directory + 20 : directory + 28] == struct.pack("<II", real, real)
    lie = struct.pack("<I", real + more)
    path.write_bytes(data[: directory + 24] + lie + data[directory + 28 :])


class TestReading:
    def test_shapes_and_types_come_from_the_headers(self, tmp_path: Path) -> None:
        """They are known although the array's own bytes are damaged."""
        path = write_members(tmp_path / "x.npz", {"a": npy(np.full((300, 50), 7.0, np.float32))})
        data = path.read_bytes().replace(np.float32(7).tobytes(), np.float32(8).tobytes())
        path.write_bytes(data)
        file = open_npz(path)
        assert file.shapes == {"a": (300, 50)}
        assert file.dtypes == {"a": "float32"}
        with pytest.raises(InputError, match=r"x\.npz: a: Bad CRC"):
            file["a"]

    def test_arrays_are_those_of_numpy(self) -> None:
        expected = reference("hybrid_small")
        file = open_npz(REFERENCE / "hybrid_small.npz")
        assert set(file) == set(expected)
        for key, array in expected.items():
            np.testing.assert_array_equal(file[key], array, strict=True)

    def test_each_access_gives_an_array_of_its_own(self) -> None:
        file = open_npz(REFERENCE / "vit_token_small.npz")
        first = file["cls"]
        first[:] = 0
        assert file["cls"].any()

    @pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_every_floating_type_and_order(
        self, tmp_path: Path, dtype: str, order: Any, compressed: bool
    ) -> None:
        values = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float16)
        save = np.savez_compressed if compressed else np.savez
        save(tmp_path / "x.npz", a=np.asarray(values, dtype=dtype, order=order), b=values[0, 0, 0])
        file = open_npz(tmp_path / "x.npz")
        np.testing.assert_array_equal(file["a"], values.astype(np.float32), strict=True)
        assert file["b"].shape == ()
        assert file["a"].flags.writeable

    def test_bfloat16_as_jax_saves_it(self, tmp_path: Path) -> None:
        values = np.array([[1.0, -2.5, 3.140625], [0.0, 1e30, -1e-30]], np.float32)
        upper_halves = (values.view(np.uint32) >> 16).astype(np.uint16)
        np.savez(tmp_path / "x.npz", a=upper_halves.view("V2"))
        file = open_npz(tmp_path / "x.npz")
        assert file.dtypes == {"a": "bfloat16"}
        np.testing.assert_allclose(file["a"], values, rtol=2**-7)
        np.testing.assert_array_equal(file["a"][0], values[0])  # these are exact

    @pytest.mark.parametrize("prefix", ["opt/target/", "target/", "params/", "opt/target/params/"])
    def test_prefixes_of_training_states_are_taken_off(self, tmp_path: Path, prefix: str) -> None:
        arrays = reference("vit_token_small")
        state = {"opt/state/step": np.array(3), "opt/state/param_states/cls/m": np.ones(4)}
        np.savez(tmp_path / "x.npz", **{prefix + k: v for k, v in arrays.items()}, **state)
        file = open_npz(tmp_path / "x.npz")
        assert set(file) == set(arrays)
        assert set(file.training_state) == set(state)
        np.testing.assert_array_equal(file["head/kernel"], arrays["head/kernel"])

    def test_new_numbering_becomes_the_old(self) -> None:
        old = open_npz(REFERENCE / "vit_gap_small.npz")
        new = open_npz(REFERENCE / "vit_gap_small.linen_keys.npz")
        assert old.shapes == new.shapes
        for key in old:
            np.testing.assert_array_equal(old[key], new[key])


class TestRefusals:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"x\.npz: there is no such weights file"):
            open_npz(tmp_path / "x.npz")

    def test_text(self, tmp_path: Path) -> None:
        (tmp_path / "x.npz").write_text("weights go here")
        with pytest.raises(InputError, match="is a text file, beginning with 'weights go here'"):
            open_npz(tmp_path / "x.npz")

    @pytest.mark.parametrize("keep", [100, 0.3, 0.99])
    def test_truncated(self, tmp_path: Path, keep: float) -> None:
        data = (REFERENCE / "vit_token_small.npz").read_bytes()
        (tmp_path / "x.npz").write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
        with pytest.raises(InputError, match=r"cut short or damaged .*copy or download it again"):
            open_npz(tmp_path / "x.npz")

    def test_a_flipped_bit(self, tmp_path: Path) -> None:
        data = bytearray((REFERENCE / "vit_token_small.npz").read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(InputError, match="the file is damaged"):
            dict(open_npz(tmp_path / "x.npz"))

    @pytest.mark.parametrize("shape", [(2, 4), (2, 2), (10**6, 10**7), (-1, 6), (2**62, 8)])
    def test_a_header_that_lies_about_the_size(self, tmp_path: Path, shape: tuple[int]) -> None:
        array = np.zeros((2, 3), np.float32)
        path = write_members(tmp_path / "x.npz", {"a": npy(array, shape=shape)})
        with pytest.raises(InputError, match=r"a: the header announces shape .* but 24 bytes"):
            open_npz(path)

    def test_a_zip_that_lies_about_the_size_as_well(self, tmp_path: Path) -> None:
        """An array that is not there, announced by header and directory alike."""
        rows = 2**22
        array = np.zeros((2, 3), np.float32)
        path = write_members(tmp_path / "x.npz", {"a": npy(array, shape=(rows, 3))})
        announce(path, len(npy(array)), rows * 12 - 24)
        file = open_npz(path)
        assert file.shapes["a"] == (rows, 3)
        with pytest.raises(InputError, match="damaged"):
            file["a"]

    def test_an_array_that_no_memory_could_hold(self, tmp_path: Path) -> None:
        array = np.zeros((2, 3), np.float32)
        path = write_members(tmp_path / "x.npz", {"a": npy(array, shape=(2**27, 3))})
        announce(path, len(npy(array)), 2**27 * 12 - 24)
        with pytest.raises(InputError, match=r"x\.npz would grow from \d+ to 16\d{8} bytes"):
            open_npz(path)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"no array",
            b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4', ",
            b"\x93NUMPY\x01\x00\x10\x00__import__('os')",
            b"\x93NUMPY\x03\x00\x10\x00\x00\x00{}              ",
            b"\x93NUMPY\x09\x00\x10\x00\x00\x00{}              ",
        ],
    )
    def test_broken_headers(self, tmp_path: Path, data: bytes) -> None:
        path = write_members(tmp_path / "x.npz", {"a": data})
        with pytest.raises(InputError, match=r"x\.npz: a"):
            open_npz(path)

    def test_pickled_objects_are_not_opened(self, tmp_path: Path) -> None:
        marker = tmp_path / "it ran"

        class Runs:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (marker,)

        np.savez(tmp_path / "x.npz", a=np.array([Runs()], dtype=object))
        with pytest.raises(InputError, match="array of Python objects"):
            open_npz(tmp_path / "x.npz")
        assert not marker.exists()
        # The file would have run it: this is not a test of a dud.
        with np.load(tmp_path / "x.npz", allow_pickle=True) as file, pytest.raises(Exception):  # noqa: B017, PT011
            pickle.loads(file["a"])  # noqa: S301
        assert marker.exists()

    def test_mixer_by_name(self) -> None:
        with pytest.raises(InputError, match="holds an MLP-Mixer"):
            open_npz(REFERENCE / "mixer_small.npz")

    def test_integers_are_no_weights(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", a=np.arange(3))
        with pytest.raises(InputError, match="a is of type int64; weights are floating-point"):
            open_npz(tmp_path / "x.npz")["a"]

    def test_arrays_beside_the_prefix_that_are_no_training_state(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", **{"params/cls": np.ones(1), "head/bias": np.ones(1)})
        with pytest.raises(InputError, match="head/bias, which belong to neither"):
            open_npz(tmp_path / "x.npz")

    def test_an_array_under_both_numberings(self, tmp_path: Path) -> None:
        names = (f"{BLOCK}LayerNorm_1/bias", f"{BLOCK}LayerNorm_2/bias")
        np.savez(tmp_path / "x.npz", **dict.fromkeys(names, np.ones(1)))
        with pytest.raises(InputError, match=f"{names[1]} twice"):
            open_npz(tmp_path / "x.npz")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_member_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for _ in range(2):
                archive.writestr("a.npy", npy(np.ones(1, np.float32)))
        with pytest.raises(InputError, match="holds 'a' twice"):
            open_npz(path)

    def test_a_member_that_is_no_array(self, tmp_path: Path) -> None:
        path = write_members(tmp_path / "x.npz", {"a": npy(np.ones(1, np.float32))})
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(InputError, match=r"'readme.txt', which is not an array"):
            open_npz(path)

    def test_an_encrypted_member(self, tmp_path: Path) -> None:
        path = write_members(tmp_path / "x.npz", {"a": npy(np.ones(1, np.float32))})
        data = bytearray(path.read_bytes())
        for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(signature) + flags] |= 1
        path.write_bytes(data)
        with pytest.raises(InputError, match="encrypted"):
            open_npz(path)


class TestWriting:
    def test_numpy_reads_back_the_same_bits(self, tmp_path: Path) -> None:
        arrays = reference("vit_prelogits_small")
        arrays["transposed"] = np.arange(6, dtype=np.float64).reshape(2, 3).T
        arrays["number"] = np.array(2.5)
        write_npz(tmp_path / "x.npz", arrays.items())
        with np.load(tmp_path / "x.npz") as file:
            assert set(file.files) == set(arrays)
            for key, array in arrays.items():
                np.testing.assert_array_equal(file[key], array.astype(np.float32), strict=True)

    def test_the_same_arrays_give_the_same_bytes(self, tmp_path: Path) -> None:
        arrays = reference("vit_token_small")
        for name in ("x.npz", "y.npz"):
            write_npz(tmp_path / name, arrays.items())
        assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()

    def test_arrays_are_taken_one_by_one(self, tmp_path: Path) -> None:
        alive = []

        class Tracked(np.ndarray):
            def __del__(self) -> None:
                alive.remove(id(self))

        def arrays() -> Any:
            for i in range(4):
                array = np.zeros(3, np.float32).view(Tracked)
                alive.append(id(array))
                assert len(alive) <= 2  # this one, and the last in the hands of the writer
                yield f"a{i}", array
                del array

        write_npz(tmp_path / "x.npz", arrays())
        assert len(open_npz(tmp_path / "x.npz")) == 4

    def test_a_failure_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        write_npz(path, [("a", np.ones(2))])
        before = path.read_bytes()

        def fails() -> Any:
            yield "a", np.zeros(2)
            raise RuntimeError("interrupted")

        with pytest.raises(RuntimeError, match="interrupted"):
            write_npz(path, fails())
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
