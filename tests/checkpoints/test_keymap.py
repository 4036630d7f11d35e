"""The table between Google's layout and ours, in both directions."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vit_lightning.checkpoints.infer import infer_config
from vit_lightning.checkpoints.keymap import GOOGLE, NATIVE, Shape, read_state, write_state
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
    config = infer_config((like or arrays).shapes, (24, 40))
    with torch.device("meta"):
        state = VisionTransformer(config).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return read_state(GOOGLE, arrays, shapes, config.num_heads)


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
    back = dict(write_state(GOOGLE, read(arrays), heads))
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


def test_every_row_is_about_one_key() -> None:
    """No key of any model is claimed by two rows, in either direction."""
    for name in NAMES:
        arrays = reference(name)
        for key in read(arrays):
            assert sum(row.match(key) is not None for row in GOOGLE) == 1, key
