import numpy as np
import torch

from vit_lightning.data.lent import ReusedMemory
from vit_lightning.data.ring import SharedRing


def test_every_worker_has_its_places() -> None:
    ring = SharedRing(2, 3, 24)
    assert [ring.take(1, 24) for _ in range(4)] == [3, 4, 5, None]
    assert ring.take(0, 24) == 0
    assert ring.take(0, 25) is None


def test_a_place_is_free_when_nothing_shows_it_any_more() -> None:
    ring = SharedRing(1, 2, 24)
    places = [ring.take(0, 24), ring.take(0, 24)]
    ring.written(0, (2, 3), "float32")[:] = 7.0
    ring.written(1, (12,), "uint8")[:] = 5
    whole, other = ring.lent(ring.key, 0, (2, 3), "float32"), ring.lent(ring.key, 1, (12,), "uint8")
    assert places == [0, 1]
    assert torch.equal(whole, torch.full((2, 3), 7.0))
    assert torch.equal(other, torch.full((12,), 5, dtype=torch.uint8))
    part = whole[1].numpy()
    del whole
    assert ring.take(0, 1) is None  # a part is still seen
    assert np.array_equal(part, [7.0, 7.0, 7.0])
    del part
    assert ring.take(0, 1) == 0
    assert ring.take(0, 1) is None


def test_what_is_seen_outlives_the_ring() -> None:
    ring = SharedRing(1, 1, 8)
    ring.written(0, (8,), "uint8")[:] = 3
    seen = ring.lent(ring.key, 0, (8,), "uint8")
    del ring
    assert seen.tolist() == [3] * 8


def test_memory_comes_back_when_nothing_shows_it_any_more() -> None:
    memory = ReusedMemory()
    first, second = memory.empty((2, 3)), memory.empty((2, 3))
    assert first.dtype == torch.float32
    assert first.shape == (2, 3)
    first.fill_(1.0)
    second.fill_(2.0)
    assert first.sum() == 6
    places = {first.data_ptr(), second.data_ptr()}
    part = first.view(3, 2)[1]
    del first, second
    again = memory.empty((3,))
    assert again.data_ptr() in places - {part.data_ptr() - 8}
    assert part.tolist() == [1.0, 1.0]
    larger = memory.empty((100,))
    larger.fill_(3.0)
    assert larger.numel() == 100
    del memory
    assert larger.sum() == 300
