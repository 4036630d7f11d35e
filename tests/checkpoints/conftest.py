"""A Hub, a bucket and caches of the test's own; the true ones are out of reach."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import FileServer, hub_at
from vit_lightning import download
from vit_lightning.checkpoints import official


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The Hub at its root, Google's bucket under /bucket."""
    monkeypatch.setattr(download, "_WAITS", (0.0, 0.0))
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    with (
        FileServer().running() as server,
        hub_at(server.url, tmp_path / "hub", monkeypatch),
    ):
        monkeypatch.setattr(official, "BUCKET", f"{server.url}/bucket")
        yield server
