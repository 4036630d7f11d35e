"""What a pickle would do, before it is read."""

import argparse
import collections
import io
import pickle
import zipfile
from typing import Any

import pytest
import torch
from torch import nn

from hostile_pickles import BOMBS, GADGETS
from vit_lightning.checkpoints import pickles
from vit_lightning.checkpoints.pickles import check_pickles
from vit_lightning.errors import InputError


def pickled(contents: Any) -> bytes:
    """The pickle that torch.save writes."""
    out = io.BytesIO()
    torch.save(contents, out)
    with zipfile.ZipFile(out) as archive:
        return archive.read("archive/data.pkl")


def test_what_training_programs_save_is_let_through() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    moments = {
        index: {"step": torch.ones(1), "exp_avg": p} for index, p in enumerate(module.parameters())
    }
    groups = [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1]}]
    names = ["ant", "bee"]
    contents = {
        "state_dict": module.state_dict(),
        "model": dict(module.named_parameters()),
        "halves": {"a": torch.ones(2).half(), "b": torch.ones(2).bfloat16()},
        "optimizer": {"state": moments, "param_groups": groups},
        "milestones": collections.Counter([3, 3, 9]),
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.999), data=b"x"),
        "plain": [None, True, 1, -1, 2**40, 2**80, 0.5, 1j, {1, 2}, "🐝", (), [], {}],
        "of torch": [torch.float16, torch.device("cpu"), torch.Size([2]), torch.strided],
        "names": names,
        "again": [names] * 100,
    }
    check_pickles(pickled(contents), 1)


@pytest.mark.parametrize("gadget", GADGETS)
def test_what_runs_code_is_refused(gadget: str) -> None:
    with pytest.raises(InputError, match="nothing was executed"):
        check_pickles(GADGETS[gadget], 1)


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        ("lists in lists", "written out, they are more than"),
        ("lists in the description", "written out, they are more than"),
        ("tuples as a key", "written out, they are more than"),
        ("tuples in a set", "written out, they are more than"),
        ("a list of itself", "written out, they are more than"),
        ("bytearray", "asks for bytearray to be called"),
        ("tensor", r"asks for torch\.Tensor to be called"),
        ("storage", r"asks for torch\.storage\.UntypedStorage to be called"),
    ],
)
def test_what_grows_is_refused(bomb: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_pickles(BOMBS[bomb], 1)


def test_growth_in_the_making_counts_too() -> None:
    """What was hashed on the way need not be in the result."""
    with pytest.raises(InputError, match="written out"):
        check_pickles(BOMBS["tuples as a key"][:-1] + b"0}.", 1)


def test_lists_that_are_filled_when_others_hold_them() -> None:
    """From the outside in, so that each is empty when it is put into the next."""
    data = b"\x80\x02" + b"".join(b"]q" + bytes([number]) for number in range(30))
    for number in range(29):
        data += b"h" + bytes([number]) + b"(" + (b"h" + bytes([number + 1])) * 10 + b"e"
    with pytest.raises(InputError, match="written out"):
        check_pickles(data + b"h\x00.", 1)


def test_long_text_counts_by_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MOST_UNFOLDED", 1000)
    text = "x" * 90
    check_pickles(pickled([text] * 10), 1)
    with pytest.raises(InputError, match="more than 1,000"):
        check_pickles(pickled([text] * 12), 1)


def test_endless_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MOST_STEPS", 100)
    with pytest.raises(InputError, match="has a pickle of more than 100 steps"):
        check_pickles(b"\x80\x02(" + b"N" * 100 + b"l.", 1)


def test_every_pickle_in_a_row_is_looked_at() -> None:
    good = pickle.dumps({"a": 1}, 2)
    check_pickles(good * 3 + b"tensors", 3)
    check_pickles(good * 2 + GADGETS["REDUCE"], 2)
    with pytest.raises(InputError, match="nothing was executed"):
        check_pickles(good * 2 + GADGETS["REDUCE"], 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80\x02", b"\x80\x02]", b"R.", b"h\x07.", b"\x80\x02(K\x01a.", b"(0.", b"\xff", b"t."],
)
def test_damaged_ones(data: bytes) -> None:
    with pytest.raises((ValueError, LookupError)):
        check_pickles(data, 1)
