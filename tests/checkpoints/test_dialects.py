"""Every layout that is read: written and read back, told from the others, and refused in words."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tiny_models import HYBRID, ROOT, TINY, Arrays, arrays_of, random_model
from vit_lightning.checkpoints import keymap
from vit_lightning.checkpoints.dialects import (
    DIALECTS,
    GOOGLE,
    HUGGINGFACE,
    HUGGINGFACE_BACKBONE,
    TIMM,
    TIMM_ROOT,
    TORCHVISION,
    Dialect,
    find_dialect,
)
from vit_lightning.checkpoints.infer import infer_config
from vit_lightning.checkpoints.keymap import Unstacked, our_shapes, read_state, row_for
from vit_lightning.checkpoints.npz import open_npz
from vit_lightning.errors import InputError

REFERENCE = Path(__file__).parents[1] / "reference"
SCANNED = "Transformer/encoderblock/"

MODELS = {
    "plain": TINY,
    "headless": TINY.replace(num_classes=0),
    "pre_logits": TINY.replace(representation_size=24),
    "features": TINY.replace(representation_size=24, num_classes=0),
    "gap": TINY.replace(pool="gap"),
    "hybrid": HYBRID,
    "root": ROOT,
}
STATES = {name: random_model(config).state_dict() for name, config in MODELS.items()}
WITH_TOKEN = {"plain", "headless", "pre_logits", "features"}
ALL = set(MODELS)
# In the order of the table.
EXPRESSES = [
    ALL,  # Google
    ALL - {"gap"},  # big_vision: blocks one by one, with and without a class token
    {"gap"},
    ALL - {"gap"},  # the same, blocks stacked
    {"gap"},
    ALL,  # timm, which has our names
    {"root"},  # and the stem of its smallest hybrid
    WITH_TOKEN,  # Hugging Face: saved, and as its modules are called
    WITH_TOKEN,
    WITH_TOKEN,
    WITH_TOKEN,
    WITH_TOKEN,  # torchvision, new and old
    WITH_TOKEN,
    {"plain", "headless"},  # jeonsworld
]
CASES = [
    pytest.param(dialect, name, id=f"{number}-{dialect.name}-{name}")
    for number, (dialect, names) in enumerate(zip(DIALECTS, EXPRESSES, strict=True))
    for name in sorted(names)
]
PLAIN_CASES = [case for case in CASES if case.values[1] in ("plain", "gap", "root")]
# Google's arrays lose what stands before them, and are unstacked, when a file is opened.
WITH_PREFIX = [case for case in PLAIN_CASES if "[" not in "".join(case.values[0].telltale)]
HEADS = TINY.num_heads


def state_for(dialect: Dialect, name: str) -> dict[str, Tensor]:
    """A state that the dialect can express: big_vision gives the class token no position."""
    state = dict(STATES[name])
    if "cls" in dialect.telltale:
        state["pos_embed"] = state["pos_embed"].clone()
        state["pos_embed"][:, 0] = 0
    return state


def file_of(dialect: Dialect, state: Mapping[str, Tensor], prefix: str = "") -> Arrays:
    return Arrays(arrays_of(dialect, state, prefix))


def read(arrays: keymap.Arrays, state: Mapping[str, Tensor]) -> tuple[Dialect, dict[str, Tensor]]:
    """The dialect of a file, and its tensors under our names; ``state`` has their shapes."""
    dialect, found = find_dialect(Unstacked(arrays, SCANNED))
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert our_shapes(dialect.rows, found.shapes) == shapes
    return dialect, read_state(dialect.rows, found, shapes, HEADS)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize(("dialect", "name"), CASES)
def test_there_and_back_is_bit_exact(dialect: Dialect, name: str) -> None:
    """Ours → file → ours, and file → ours → file."""
    state = state_for(dialect, name)
    file = file_of(dialect, state)
    found, again = read(file, state)
    assert found is dialect
    assert_same(again, state)
    assert_same(file_of(dialect, again), file)


@pytest.mark.parametrize(("dialect", "name"), CASES)
def test_the_configuration_is_in_the_shapes(dialect: Dialect, name: str) -> None:
    shapes = Unstacked(file_of(dialect, state_for(dialect, name)), SCANNED).shapes
    assert infer_config(our_shapes(dialect.rows, shapes)) == MODELS[name]


@pytest.mark.parametrize("name", ["hybrid", "root", "pre_logits"])
@pytest.mark.parametrize("dialect", DIALECTS[7:], ids=lambda dialect: dialect.name)
def test_what_a_library_has_not_has_no_name(dialect: Dialect, name: str) -> None:
    if name == "pre_logits" and dialect.name != "jeonsworld":
        assert file_of(dialect, STATES[name])
        return
    with pytest.raises(InputError, match=r"no name for (patch_embed\.backbone\.stem|pre_logits)\."):
        file_of(dialect, STATES[name])


@pytest.mark.parametrize(("dialect", "name"), CASES)
def test_every_row_is_about_one_key(dialect: Dialect, name: str) -> None:
    """In both directions; a row about everything may follow the others."""
    rows = [row for row in dialect.rows if row.ours != "{name}"]
    for ours in STATES[name]:
        assert sum(row.match(ours) is not None for row in rows) <= 1, ours
        row, theirs = row_for(dialect.rows, ours)
        for key in theirs:
            assert sum(other.match_theirs(key) is not None for other in rows) <= 1, key
            first = next(other for other in dialect.rows if other.match_theirs(key) is not None)
            assert first is row, key
            assert row.match_theirs(key) == ours


PREFIXES = ["module.", "model.", "backbone.", "_orig_mod.", "module.backbone.", "params/"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("dialect", "name"), WITH_PREFIX)
def test_what_stands_before_all_names_is_taken_off(
    dialect: Dialect, name: str, prefix: str
) -> None:
    state = state_for(dialect, name)
    found, again = read(file_of(dialect, state, prefix), state)
    assert found is dialect
    assert_same(again, state)


@pytest.mark.parametrize(("dialect", "name"), PLAIN_CASES)
def test_a_part_of_a_word_is_no_prefix(dialect: Dialect, name: str) -> None:
    file = file_of(dialect, state_for(dialect, name), "my_")
    with pytest.raises(InputError, match=r"in a known layout|\(my_vit\.\*\) stand my_classifier\."):
        find_dialect(Unstacked(file, "my_" + SCANNED))


def test_arrays_beside_the_prefix_are_named() -> None:
    """Of a detector, say, or of a student and a teacher."""
    file = file_of(TIMM, STATES["plain"], "backbone.")
    file |= {"neck.weight": torch.ones(1), "decoder.bias": torch.ones(1)}
    with pytest.raises(
        InputError,
        match=r"beside the model's arrays \(backbone\.\*\) stand decoder\.bias, neck\.weight, whi",
    ):
        find_dialect(file)
    many = file | {f"neck.{n}": torch.ones(1) for n in range(9)}
    with pytest.raises(InputError, match=r"neck\.3, \.\.\., which belong to no Vision Transformer"):
        find_dialect(Arrays(many))


def test_the_same_model_twice() -> None:
    file = file_of(TIMM, STATES["plain"], "student.") | file_of(TIMM, STATES["plain"], "teacher.")
    with pytest.raises(InputError, match=r"beside the model's arrays \(student\.\*\) stand teache"):
        find_dialect(Arrays(file))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("other", [d for d in DIALECTS if d.name not in ("timm", "big_vision")])
def test_two_layouts_in_one_file(other: Dialect, prefix: str) -> None:
    mixed = file_of(TIMM, STATES["plain"], prefix) | file_of(other, STATES["plain"])
    with pytest.raises(InputError, match="two layouts are mixed") as error:
        find_dialect(Arrays(mixed))
    assert other.name in str(error.value)
    assert "timm" in str(error.value)


def test_two_ways_of_one_library_are_not_mixed_either() -> None:
    saved = file_of(HUGGINGFACE, STATES["plain"])
    live = file_of(next(d for d in DIALECTS[9:] if d.name == "Hugging Face"), STATES["plain"])
    dialect, found = find_dialect(Arrays(saved | live))
    with pytest.raises(InputError, match=r"left over: vit\.layers\.0\.attention\.k_proj\.bias, "):
        read_state(dialect.rows, found, Arrays(STATES["plain"]).shapes, HEADS)


def test_an_array_too_many_and_one_too_few_are_named() -> None:
    for dialect in (GOOGLE, TIMM, HUGGINGFACE, HUGGINGFACE_BACKBONE, TORCHVISION):
        file = file_of(dialect, STATES["plain"])
        norm = row_for(dialect.rows, "norm.bias")[1][0]
        del file[norm]
        file["gate"] = torch.ones(1)
        dialect, found = find_dialect(file)
        with pytest.raises(InputError, match=f"missing: {re.escape(norm)}; left over: gate$"):
            read_state(dialect.rows, found, Arrays(STATES["plain"]).shapes, HEADS)


def test_files_of_something_else_are_told_by_what_they_hold() -> None:
    shapes = {f"layer{n}.weight": torch.ones(1) for n in range(5)}
    with pytest.raises(
        InputError,
        match=r"known layout \(Google, big_vision, timm, Hugging Face, torchvision, jeonsworld\): "
        r"they hold layer0\.weight, .*layer3\.weight, \.\.\.$",
    ):
        find_dialect(Arrays(shapes))
    with pytest.raises(InputError, match=r"they hold nothing$"):
        find_dialect(Arrays())


class TestNumbering:
    """Linen counts the parts of a block by kind, the released files through all of them."""

    def test_of_blocks_one_by_one(self) -> None:
        old, new = (open_npz(REFERENCE / f"vit_gap_small{x}.npz") for x in ("", ".linen_keys"))
        dialect, found = find_dialect(new)
        assert dialect is GOOGLE
        shapes = our_shapes(dialect.rows, found.shapes)
        assert_same(
            read_state(dialect.rows, found, shapes, 4), read_state(GOOGLE.rows, old, shapes, 4)
        )


class TestStems:
    """timm names the stem of its smallest hybrid in a way of its own."""

    def test_names(self) -> None:
        stem = "patch_embed.backbone.stem.conv.weight"
        assert row_for(TIMM.rows, stem)[1] == (stem,)
        assert row_for(TIMM_ROOT.rows, stem)[1] == ("patch_embed.backbone.conv.weight",)
        assert TIMM_ROOT.rows[0].match_theirs("patch_embed.backbone.conv.weight") == stem

    def test_both_compute_alike(self) -> None:
        expected = {"norm_eps": 1e-5, "weight_eps": 1e-8, "eps_under_root": True}
        assert dict(TIMM.stem) == dict(TIMM_ROOT.stem) == expected
        assert all(not d.stem for d in DIALECTS if d.name != "timm")


def test_pre_logits_of_timm_stand_in_a_layer_called_fc() -> None:
    file = file_of(TIMM, STATES["pre_logits"])
    assert {"pre_logits.fc.weight", "pre_logits.fc.bias"} <= set(file)


def test_numerics_are_those_of_each_library() -> None:
    table = {d.name: (d.activation, d.norm_eps, bool(d.preprocessing)) for d in DIALECTS}
    assert table == {
        "Google": ("gelu_tanh", 1e-6, False),
        "big_vision": ("gelu_tanh", 1e-6, False),
        "timm": ("gelu", 1e-6, False),
        "Hugging Face": ("gelu", 1e-12, True),
        "torchvision": ("gelu", 1e-6, True),
        "jeonsworld": ("gelu", 1e-6, True),
    }
    for dialect in DIALECTS:  # one library, one way to compute
        assert table[dialect.name] == (
            dialect.activation,
            dialect.norm_eps,
            bool(dialect.preprocessing),
        )
