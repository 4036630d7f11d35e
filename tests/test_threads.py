import time

import pytest
import torch

from vit_lightning.threads import in_threads


@pytest.fixture(autouse=True)
def four_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items() -> None:
    def late(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    waits = [0.05, 0.0, 0.02, 0.0, 0.01]
    assert list(in_threads(late, waits)) == waits
    assert list(in_threads(late, [])) == []


@pytest.mark.parametrize(
    ("items", "most", "threads"),
    [(1, None, 4), (2, None, 2), (3, None, 1), (9, None, 1), (9, 2, 2), (9, 8, 1)],
)
def test_threads_are_divided_among_the_items(items: int, most: int | None, threads: int) -> None:
    found = list(in_threads(lambda _: torch.get_num_threads(), range(items), most))
    assert found == [threads] * items
    assert torch.get_num_threads() == 4


def test_an_error_is_the_callers_and_ends_the_work() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 0:
            raise ValueError("the first one")
        time.sleep(0.05)
        done.append(number)

    with pytest.raises(ValueError, match="the first one"):
        list(in_threads(work, range(100)))
    assert len(done) < 50
    assert torch.get_num_threads() == 4
