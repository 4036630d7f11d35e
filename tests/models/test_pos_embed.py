"""Resizing position embeddings as the original does, but for one artefact of scipy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vit_lightning.models.pos_embed import resize_pos_embed

REFERENCE = Path(__file__).parents[1] / "reference"


def _pairs(file: str) -> list[str]:
    with np.load(REFERENCE / file) as arrays:
        return sorted({key.split("/")[0] for key in arrays.files})


def _resized(file: str, pair: str) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Ours, theirs, tokens before the grid, side of the new grid."""
    with np.load(REFERENCE / file) as arrays:
        source, expected = arrays[f"{pair}/in"], arrays[f"{pair}/out"]
    kind, sizes = pair.split("_")
    old, new = (int(size) for size in sizes.split("to"))
    prefix = int(kind == "cls")
    ours = resize_pos_embed(torch.from_numpy(source), (old, old), (new, new), prefix)
    assert ours.dtype == torch.float32
    return ours.numpy(), expected, prefix, new


@pytest.mark.parametrize("pair", _pairs("posembed_resize.npz"))
def test_resize_is_the_originals(pair: str) -> None:
    ours, expected, _, _ = _resized("posembed_resize.npz", pair)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pair", _pairs("posembed_scipy_edge.npz"))
def test_scipys_zero_edge_is_not_copied(pair: str) -> None:
    ours, expected, prefix, side = _resized("posembed_scipy_edge.npz", pair)
    np.testing.assert_array_equal(ours[:, :prefix], expected[:, :prefix])
    ours_grid, theirs = (x[0, prefix:].reshape(side, side, -1) for x in (ours, expected))
    np.testing.assert_allclose(ours_grid[:-1, :-1], theirs[:-1, :-1], rtol=0, atol=1e-5)
    assert not theirs[-1].any()
    assert not theirs[:, -1].any()
    assert ours_grid[-1].any(axis=-1).all()
    assert ours_grid[:, -1].any(axis=-1).all()


def test_corners_stay_on_a_grid_that_is_not_square() -> None:
    source = torch.randn(1, 1 + 3 * 5, 4, generator=torch.Generator().manual_seed(0))
    resized = resize_pos_embed(source, (3, 5), (6, 4), 1)
    assert resized.shape == (1, 1 + 6 * 4, 4)
    old, new = source[0, 1:].view(3, 5, 4), resized[0, 1:].view(6, 4, 4)
    for row in (0, -1):
        for column in (0, -1):
            torch.testing.assert_close(new[row, column], old[row, column])
