import re

import numpy as np
import pytest

from vit_lightning.errors import InputError
from vit_lightning.evaluation.class_map import class_map, class_map_note, mapped_labels

MODEL = ("ant", "bee", "cat", "dog")


def test_the_same_classes_are_left_as_they_are() -> None:
    assert class_map(MODEL, list(MODEL)).tolist() == [0, 1, 2, 3]
    assert class_map_note(MODEL, list(MODEL)) is None
    assert class_map(("a", "a"), ("a", "a")).tolist() == [0, 1]


@pytest.mark.parametrize("pictures", [("dog", "ant", "cat", "bee"), ("dog", "bee")])
def test_labels_are_found_by_name(pictures: tuple[str, ...]) -> None:
    places = class_map(MODEL, pictures)
    draw = np.random.default_rng(1)
    labels = draw.integers(0, len(pictures), 9)
    mapped = mapped_labels(labels, places, 4)
    assert [MODEL[k] for k in mapped] == [pictures[k] for k in labels]
    several = draw.integers(0, 2, (9, len(pictures))).astype(np.uint8)
    rows = mapped_labels(several, places, 4)
    assert rows.shape == (9, 4)
    assert rows.dtype == np.uint8
    for row, own in zip(rows, several, strict=True):
        assert {MODEL[k] for k in row.nonzero()[0]} == {pictures[k] for k in own.nonzero()[0]}


def test_what_was_done_is_said() -> None:
    assert "another order" in (class_map_note(MODEL, MODEL[::-1]) or "")
    assert "have 2 of the model's 4 classes" in (class_map_note(MODEL, MODEL[:2]) or "")


def test_differences_are_named() -> None:
    message = "not trained on: cow, emu, and only the model knows ant, dog; evaluate it"
    with pytest.raises(InputError, match=re.escape(message)):
        class_map(MODEL, ("emu", "bee", "cat", "cow"))
    with pytest.raises(InputError, match="not trained on: emu; evaluate"):
        class_map(MODEL, (*MODEL, "emu"))
    with pytest.raises(InputError, match=r"only the model knows c0, .*c7 and 2 more; "):
        class_map([f"c{k}" for k in range(10)], ["x"])


def test_a_name_that_the_model_has_twice_is_no_name() -> None:
    with pytest.raises(InputError, match="several of the name crane"):
        class_map(("crane", "crane", "bee"), ("bee", "crane"))
    assert class_map(("crane", "crane", "bee"), ("bee",)).tolist() == [2]
