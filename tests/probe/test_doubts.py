import dataclasses
from typing import Any

import pytest

from vit_lightning.probe.outcome import Outcome
from vit_lightning.probe.run import BaselineResult


def _result(majority: float, best: tuple[float, tuple[float, float]], recall: Any) -> Any:
    outcomes = (
        Outcome("majority class", majority, None, recall, (), 0.0),
        Outcome("linear probe", best[0], best[1], recall, (), 0.0),
    )
    fields = {field.name: None for field in dataclasses.fields(BaselineResult)}
    values: dict[str, Any] = fields | {"outcomes": outcomes, "num_val": 40, "multi_label": False}
    return BaselineResult(**values)


@pytest.mark.parametrize(
    ("majority", "best", "recall", "words"),
    [
        (0.5, (0.8, (0.65, 0.9)), (1.0, 0.6), None),
        (0.5, (0.52, (0.37, 0.67)), (1.0, 0.6), "do not show that these features do better"),
        (1.0, (0.5, (0.3, 0.7)), (0.5, None), "val shows one class alone"),
    ],
)
def test_what_a_baseline_is_doubted_for(
    majority: float, best: tuple[float, tuple[float, float]], recall: Any, words: str | None
) -> None:
    doubts = _result(majority, best, recall).doubts
    assert len(doubts) == (0 if words is None else 1)
    if words is not None:
        assert words in doubts[0]
