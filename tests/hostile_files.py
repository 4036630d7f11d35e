"""Files with which somebody means ill, and the words with which they are refused."""

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny_models import TINY, random_model
from vit_lightning import InputError, load_bundle

SMALL = TINY.replace(image_size=16, depth=1, mlp_dim=16)
STATE = random_model(SMALL).state_dict()


def refusal(path: Path) -> str:
    """The message with which a file is refused; it names the file, and is not endless."""
    with pytest.raises(InputError) as error:
        load_bundle(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message) < 3000
    return message


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def with_pickle(data: bytes, *, legacy: bool = False) -> bytes:
    """A file of torch in which this pickle stands in the place of the state dict's."""
    out = io.BytesIO()
    torch.save(STATE, out, _use_new_zipfile_serialization=not legacy)
    if not legacy:
        with zipfile.ZipFile(out) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        return zipped({n: data if n.endswith("data.pkl") else m for n, m in members.items()})
    out.seek(0)
    for _ in range(3):  # what it is, its version, the machine
        pickle.load(out)  # noqa: S301
    return out.getvalue()[: out.tell()] + data


def write_npz(path: Path, arrays: Mapping[str, Tensor]) -> None:
    np.savez(path, **{key: tensor.numpy() for key, tensor in arrays.items()})


def description_of(weights: bytes, **changes: Any) -> bytes:
    """What ``vit convert`` puts beside weights, with changes."""
    values = {"config": SMALL.to_dict(), "classes": None, "preprocessing": None} | changes
    found = hashlib.sha256(weights).hexdigest()
    return json.dumps({"vit_lightning": values, "sha256": found}).encode()
