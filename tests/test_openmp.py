import os
import subprocess
import sys

import pytest

from vit_lightning.openmp import choose_waiting, is_fixed

CHOSEN = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "100000"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"PATH": "/bin"}, {"PATH": "/bin", **CHOSEN}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_what_is_said_already_stays(given: dict[str, str], expected: dict[str, str]) -> None:
    choose_waiting(given)
    assert given == expected


@pytest.mark.parametrize(
    ("environment", "fixed"),
    [
        ({"PATH": "/bin"}, False),
        ({"PATH": "/bin", **CHOSEN}, False),
        ({"OMP_WAIT_POLICY": "passive"}, True),
        ({"GOMP_SPINCOUNT": "100000"}, True),
        ({**CHOSEN, "GOMP_SPINCOUNT": "7"}, True),
    ],
)
def test_fixed_is_what_somebody_else_has_said(environment: dict[str, str], fixed: bool) -> None:
    assert is_fixed(environment) is fixed


def test_commands_say_so() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    wanted = tuple(CHOSEN)
    script = (
        f"import os, vit_lightning.cli as c; c.main(['info']); print(*map(os.getenv, {wanted}))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "passive 100000"
