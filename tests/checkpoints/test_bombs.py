"""Small files that claim, hold or make much: no more is taken for them than for their like."""

import io
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hostile_files import SMALL, STATE, description_of, npy, with_pickle, write_npz, zipped
from hostile_pickles import BOMBS
from tiny_models import arrays_of
from vit_lightning.checkpoints.dialects import GOOGLE

# Loads a good file, so that all is imported; then the others, with what each takes beyond that.
_LOAD_ALL = """
import json, resource, sys, time
from vit_lightning import InputError, load_bundle

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

load_bundle(sys.argv[1])
with open("/proc/self/statm") as file:
    limit = int(file.read().split()[0]) * resource.getpagesize() + 2**32
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[2:]:
    before, start = peak(), time.process_time()
    try:
        load_bundle(path)
        message = "loaded"
    except InputError as error:
        message = str(error)
    print(json.dumps([path, message, peak() - before, time.process_time() - start]))
"""


def _announcing(shape: tuple[int, ...]) -> bytes:
    """A header alone."""
    out = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(np.ones(1, np.float32))
    np.lib.format.write_array_header_1_0(out, fields | {"shape": shape})
    return out.getvalue()


def _saying(data: bytes, size: int) -> bytes:
    """An archive of one member that unpacks to ``size`` bytes, if one may believe it."""
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


# Contents, and what the message says of them.
Case = tuple[bytes, str]
_MANY = 200_000


def _weights() -> dict[str, Case]:
    zeros = npy(np.zeros(20_000_000, np.float32))  # 80 MB
    packed = zipped({"cls.npy": zeros}, zipfile.ZIP_DEFLATED)
    packed_otherwise = zipped({"cls.npy": zeros}, zipfile.ZIP_BZIP2)
    gigabytes = zipped({"cls.npy": _announcing((2**29,))})
    nothing = zipped({"cls.npy": _announcing((0, 2**62))})
    return {
        **{f"{name}.pth": (with_pickle(data), "") for name, data in BOMBS.items()},
        **{
            f"{name}, old.pth": (with_pickle(data, legacy=True), "") for name, data in BOMBS.items()
        },
        "zeros.npz": (packed, "would grow from"),
        "zeros, denied.npz": (_saying(packed, 500), "cls: the header cannot be read"),
        "bzip2.npz": (_saying(packed_otherwise, 500), "packed by a method that NumPy does not"),
        "gigabytes.npz": (_saying(gigabytes, 2**31 + 128), "would grow from"),
        "nothing.npz": (nothing, "not the weights of a Vision Transformer"),
    }


def _descriptions(weights: bytes) -> dict[str, Case]:
    config = SMALL.to_dict()
    numbers = b",".join(b'"%d":0' % number for number in range(_MANY))
    digits = description_of(weights).replace(b"192", b"9" * 5000)
    return {
        "deep": (b'{"vit_lightning":' + b"[" * _MANY, "cannot be read as a JSON text file"),
        "long": (b'{"a": "' + b"x" * (1 << 24) + b'"}', "longer than 16 MiB"),
        "twice": (b'{"a":0,' + numbers + b',"a":0}', 'the key "a" stands twice'),
        "digits": (digits, "cannot be read as a JSON text file"),
        "names": (
            description_of(weights, classes=["ant"] * _MANY),
            "names 200000 classes, its model has",
        ),
        "layers": (
            description_of(weights, config=config | {"depth": 10**9}),
            "describes 1000000000 layers",
        ),
        "width": (
            description_of(weights, config=config | {"mlp_dim": 2**62}),
            "no machine can hold",
        ),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
def test_no_file_takes_memory_or_time_beyond_its_size(tmp_path: Path) -> None:
    write_npz(tmp_path / "good.npz", arrays_of(GOOGLE, STATE))
    cases = _weights()
    good = (tmp_path / "good.npz").read_bytes()
    for name, (text, message) in _descriptions(good).items():
        cases[f"{name}.npz"] = good, message
        (tmp_path / f"{name}.npz.json").write_bytes(text)
    for name, (data, _) in cases.items():
        (tmp_path / name).write_bytes(data)
    paths = [str(tmp_path / name) for name in ("good.npz", *cases)]
    run = subprocess.run(
        [sys.executable, "-c", _LOAD_ALL, *paths], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr[-3000:]
    told = [json.loads(line) for line in run.stdout.splitlines()]
    assert [path for path, *_ in told] == paths[1:]
    for path, message, memory, seconds in told:
        assert path in message, message[:500]
        assert cases[Path(path).name][1] in message, message[:500]
        assert len(message) < 3000, message[:500]
        assert memory < 100 << 20, f"{path} took {memory >> 20} MiB"
        assert seconds < 20, f"{path} took {seconds:.0f} s"  # unbounded ones take for ever
