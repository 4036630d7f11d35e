"""Tables of rows in both directions, by the example of Google's."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vit_lightning.checkpoints.dialects import GOOGLE, NATIVE
from vit_lightning.checkpoints.infer import infer_config
from vit_lightning.checkpoints.keymap import (
    Renamed,
    Row,
    Shape,
    Unstacked,
    our_shapes,
    read_state,
    row_for,
    write_state,
)
from vit_lightning.errors import InputError
from vit_lightning.models.vit import VisionTransformer

REFERENCE = Path(__file__).parents[1] / "reference"
BLOCK = "Transformer/encoderblock_1/"


class Arrays(dict[str, np.ndarray]):
    """Arrays in memory, as a reader of files hands them out."""

    @property
    def shapes(self) -> dict[str, Shape]:
        return {key: array.shape for key, array in self.items()}


def reference(name: str) -> Arrays:
    with np.load(REFERENCE / f"{name}.npz") as file:
        return Arrays(file)


def read(arrays: Arrays, like: Arrays | None = None) -> dict[str, Tensor]:
    """The state dict in ``arrays``, for the model that ``like`` is of."""
    heads = (like or arrays)[f"{BLOCK}MultiHeadDotProductAttention_1/query/bias"].shape[0]
    config = infer_config(
        our_shapes(GOOGLE.rows, (like or arrays).shapes), (24, 40), num_heads=heads
    )
    with torch.device("meta"):
        state = VisionTransformer(config).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return read_state(GOOGLE.rows, arrays, shapes, config.num_heads)


NAMES = (
    "vit_token_small",
    "vit_prelogits_small",
    "vit_gap_small",
    "vit_nonsquare_small",
    "hybrid_no_stage",
    "hybrid_small",
)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_bit_exact(name: str) -> None:
    arrays = reference(name)
    heads = arrays[f"{BLOCK}MultiHeadDotProductAttention_1/query/bias"].shape[0]
    back = dict(write_state(GOOGLE.rows, read(arrays), heads))
    assert set(back) == set(arrays)
    for key, array in arrays.items():
        flat = array.reshape(-1) if array.shape[:-1] == (1, 1, 1) else array
        np.testing.assert_array_equal(back[key].numpy(), flat, strict=True, err_msg=key)


def test_query_key_and_value_lie_over_one_another() -> None:
    """Heads are consecutive rows, as timm has them."""
    arrays = reference("vit_token_small")
    state = read(arrays)
    name = f"{BLOCK}MultiHeadDotProductAttention_1"
    for part, row in (("query", 0), ("key", 48), ("value", 96)):
        kernel, bias = arrays[f"{name}/{part}/kernel"], arrays[f"{name}/{part}/bias"]
        for head in range(3):
            rows = slice(row + 16 * head, row + 16 * (head + 1))
            ours = state["blocks.1.attn.qkv.weight"][rows].numpy()
            np.testing.assert_array_equal(ours, kernel[:, head].T)
            ours = state["blocks.1.attn.qkv.bias"][rows].numpy()
            np.testing.assert_array_equal(ours, bias[head])


def test_our_tensors_are_contiguous_and_their_own() -> None:
    arrays = reference("hybrid_small")
    for name, tensor in read(arrays).items():
        assert tensor.is_contiguous(), name
        assert tensor.dtype == torch.float32
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_group_norms_may_be_flat_or_not() -> None:
    arrays = reference("hybrid_small")
    flat = Arrays((k, v.reshape(-1) if "/gn" in k or "gn_" in k else v) for k, v in arrays.items())
    assert flat.shapes != arrays.shapes
    torch.testing.assert_close(read(flat), read(arrays), rtol=0, atol=0)


@pytest.mark.parametrize(
    "key",
    [
        "Transformer/encoder_norm/scale",
        f"{BLOCK}LayerNorm_2/bias",
        f"{BLOCK}MultiHeadDotProductAttention_1/key/kernel",
        "head/bias",
        "block2/unit1/gn_proj/scale",
        "block1/unit2/conv3/kernel",
    ],
)
def test_a_missing_array_is_named(key: str) -> None:
    arrays = reference("hybrid_small")
    lacking = Arrays((k, v) for k, v in arrays.items() if k != key)
    with pytest.raises(InputError, match=f"missing: {key}$"):
        read(lacking, like=arrays)


def test_a_left_over_array_is_named() -> None:
    arrays = reference("vit_token_small")
    more = Arrays(arrays | {"head/scale": np.ones(3), f"{BLOCK}gate": np.ones(3)})
    with pytest.raises(InputError, match=f"left over: {BLOCK}gate, head/scale"):
        read(more)


def test_many_missing_arrays_are_counted() -> None:
    arrays = reference("vit_token_small")
    lacking = Arrays((k, v) for k, v in arrays.items() if not k.startswith(BLOCK))
    with pytest.raises(InputError, match=r"and 10 more"):
        read(lacking, like=arrays)


@pytest.mark.parametrize(
    ("key", "shape", "expected"),
    [
        (f"{BLOCK}MlpBlock_3/Dense_0/kernel", (96, 48), (48, 96)),
        (f"{BLOCK}MultiHeadDotProductAttention_1/out/kernel", (48, 48), (4, 12, 48)),
        (f"{BLOCK}MultiHeadDotProductAttention_1/key/bias", (12, 4), (4, 12)),
        ("block1/unit1/gn1/scale", (1, 32, 1), (32,)),
        ("block1/unit1/gn1/scale", (2, 1, 1, 32), (32,)),
        ("cls", (48,), (1, 1, 48)),
        ("head/bias", (), (10,)),
    ],
)
def test_a_shape_that_does_not_fit_is_given_with_the_one_that_would(
    key: str, shape: Shape, expected: Shape
) -> None:
    arrays = reference("hybrid_small")
    other = Arrays(arrays | {key: np.zeros(shape, np.float32)})
    message = f"{key} has shape {shape}, the model takes {expected}"
    with pytest.raises(InputError, match=re.escape(message)):
        read(other, like=arrays)


def test_our_own_layout_is_the_identity() -> None:
    state = read(reference("hybrid_small"))
    assert {key: id(t) for key, t in write_state(NATIVE, state, 4)} == {
        key: id(t) for key, t in state.items()
    }


def test_a_key_that_a_layout_has_no_name_for_is_named() -> None:
    with pytest.raises(InputError, match=r"this layout has no name for blocks\.0\.gate"):
        row_for(GOOGLE.rows, "blocks.0.gate")


class TestRow:
    def test_successors_count_from_one(self) -> None:
        row = Row(("block{stage+1}/unit{unit+1}/x",), "stages.{stage}.blocks.{unit}.x")
        assert row.match("stages.0.blocks.11.x") == ("block1/unit12/x",)
        assert row.match_theirs("block1/unit12/x") == "stages.0.blocks.11.x"

    def test_one_of_several_keys_tells_ours(self) -> None:
        row = Row(("q.{block}.{p}", "k.{block}.{p}"), "blocks.{block}.qk.{p}")
        assert row.match("blocks.3.qk.bias") == ("q.3.bias", "k.3.bias")
        assert row.match_theirs("k.3.bias") == "blocks.3.qk.bias"

    def test_any_name(self) -> None:
        row = Row(("fc.{name}",), "{name}")
        assert row.match_theirs("fc.a.b") == "a.b"
        assert row.match("a") == ("fc.a",)

    @pytest.mark.parametrize(
        "key", ["blocks.x.w", "blocks.-1.w", "blocks..w", "blocks.1.w.w", "blocks.٣.w", "locks.1.w"]
    )
    def test_other_keys_are_not_its_own(self, key: str) -> None:
        row = Row(("{block}.w",), "blocks.{block}.w")
        assert row.match(key) is None
        assert row.match_theirs(key.removeprefix("blocks.")) is None

    @pytest.mark.parametrize("name", ["9" * 5000, "²", "٣", "007", "1"])
    def test_names_may_look_like_numbers(self, name: str) -> None:
        """No number is made of them: Python refuses that of some."""
        assert Row(("{name}",), "{name}").match(name) == (name,)
        assert Row(("{name}",), "{name}").match_theirs(name) == name

    def test_numbers_of_thousands_of_digits_are_no_layers(self) -> None:
        assert Row(("{block}.w",), "blocks.{block}.w").match_theirs("9" * 5000 + ".w") is None


class TestShapes:
    def test_they_are_those_of_the_tensors(self) -> None:
        for name in NAMES:
            arrays = reference(name)
            expected = {key: tuple(tensor.shape) for key, tensor in read(arrays).items()}
            assert our_shapes(GOOGLE.rows, arrays.shapes) == expected

    def test_no_array_is_read_for_them(self) -> None:
        shapes = {"head/kernel": (10**9, 10**6)}
        assert our_shapes(GOOGLE.rows, shapes) == {"head.weight": (10**6, 10**9)}

    def test_unknown_keys_and_incomplete_tensors_are_left_out(self) -> None:
        shapes = reference("vit_token_small").shapes
        del shapes[f"{BLOCK}MultiHeadDotProductAttention_1/key/bias"]
        found = our_shapes(GOOGLE.rows, shapes | {"a": (1,), "block0/unit1/gn1/bias": (2,)})
        assert "blocks.1.attn.qkv.bias" not in found
        assert "blocks.1.attn.qkv.weight" in found
        assert not {"a", "block0/unit1/gn1/bias"} & set(found)
        assert len(found) == len(our_shapes(GOOGLE.rows, reference("vit_token_small").shapes)) - 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"embedding/kernel": (8, 48)},
            {f"{BLOCK}MultiHeadDotProductAttention_1/query/kernel": ()},
            {f"{BLOCK}MultiHeadDotProductAttention_1/query/kernel": (47, 3, 16)},
            {f"{BLOCK}MultiHeadDotProductAttention_1/out/kernel": ()},
            {"embedding/kernel": (2**62, 2**62, 4, 4)},
            {"embedding/kernel": (2**70, 1, 1, 1)},
        ],
    )
    def test_shapes_of_nothing_are_named(self, changes: dict[str, Shape]) -> None:
        shapes = reference("vit_token_small").shapes | changes
        (key, shape), *_ = changes.items()
        with pytest.raises(InputError, match=re.escape(f"{key} {shape}")):
            our_shapes(GOOGLE.rows, shapes)


class TestNumbers:
    """What stands in an array is looked at while it is read."""

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_no_finite_number(self, value: float) -> None:
        arrays = reference("vit_token_small")
        arrays["head/kernel"][3, 2] = value
        with pytest.raises(InputError, match=r"head/kernel holds values that are no finite numb"):
            read(arrays)

    @pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.complex64])
    def test_what_is_no_floating_point_number(self, dtype: Any) -> None:
        arrays = reference("vit_token_small")
        arrays["head/bias"] = arrays["head/bias"].astype(dtype)
        with pytest.raises(InputError, match=r"head/bias is of type .*; weights are floating-poi"):
            read(arrays)

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float4_e2m1fn_x2, torch.uint16])
    def test_types_that_numpy_has_not(self, dtype: torch.dtype) -> None:
        arrays: Any = reference("vit_token_small")
        arrays["head/bias"] = torch.empty(10, dtype=dtype)
        with pytest.raises(InputError, match=rf"head/bias is of type {dtype}; weights are floati"):
            read(arrays)

    def test_what_is_too_large_for_float32(self) -> None:
        arrays = reference("vit_token_small")
        arrays["head/bias"] = arrays["head/bias"].astype(np.float64)
        arrays["head/bias"][3] = 1e300
        with pytest.raises(InputError, match="head/bias holds values that are no finite numbers"):
            read(arrays)

    def test_all_floating_point_types_become_float32(self) -> None:
        arrays = reference("vit_token_small")
        arrays["head/bias"] = np.float16(arrays["head/bias"])
        arrays["cls"] = np.float64(arrays["cls"])
        state = read(arrays)
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert torch.equal(state["head.bias"], torch.tensor(arrays["head/bias"]).float())


def test_renamed_arrays_lose_their_prefix() -> None:
    arrays = Arrays({"m.a": np.ones(2), "m.m.a": np.zeros(3), "a": np.zeros(4)})
    renamed = Renamed(arrays, "m.")
    assert renamed.shapes == {"a": (2,), "m.a": (3,)}
    assert renamed["a"] is arrays["m.a"]


class Counted(Arrays):
    """Arrays that remember how often each was asked for."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__(arrays)
        self.asked: list[str] = []

    def __getitem__(self, key: str) -> np.ndarray:
        self.asked.append(key)
        return super().__getitem__(key)


class TestUnstacked:
    def test_layers_get_keys_of_their_own(self) -> None:
        stacked = np.arange(12).reshape(3, 2, 2)
        arrays = Unstacked(Arrays({"e/a": stacked, "b": np.ones(1)}), "e/")
        assert arrays.shapes == {"e/a[0]": (2, 2), "e/a[1]": (2, 2), "e/a[2]": (2, 2), "b": (1,)}
        np.testing.assert_array_equal(arrays["e/a[2]"], stacked[2])
        np.testing.assert_array_equal(arrays["b"], [1.0])

    def test_each_array_is_read_once_for_all_layers(self) -> None:
        counted = Counted({f"e/{key}": np.zeros((4, 1)) for key in "qkvo"})
        arrays = Unstacked(counted, "e/")
        for layer in range(4):
            for key in "qkv":
                arrays[f"e/{key}[{layer}]"]
        assert counted.asked == ["e/q", "e/k", "e/v"]
        arrays["e/o[0]"]
        arrays["e/k[0]"]
        assert counted.asked[3:] == ["e/o"]  # in the place of the first, which is done with

    @pytest.mark.parametrize("shape", [(), (1001, 2)])
    def test_what_has_no_axis_of_layers_is_named(self, shape: Shape) -> None:
        with pytest.raises(InputError, match=re.escape(f"e/a has shape {shape}")):
            Unstacked(Arrays({"e/a": np.zeros(shape)}), "e/")

    def test_no_layers(self) -> None:
        assert Unstacked(Arrays({"e/a": np.zeros((0, 2))}), "e/").shapes == {}
