from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vit_lightning.assess import evaluate
from vit_lightning.data.class_names import named, read_class_names
from vit_lightning.errors import InputError
from vit_lightning.factory import load_bundle
from vit_lightning.run import train


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "classes.tsv"
    path.write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\ttailed frog\n")
    return path


def test_classes_get_their_names_in_their_order(table: Path) -> None:
    assert named(("n03", "n01"), table) == ("tailed frog", "goldfish, Carassius auratus")


def test_a_class_that_has_its_name_already_keeps_it(table: Path) -> None:
    assert named(("bullfrog", "n01"), table) == ("bullfrog", "goldfish, Carassius auratus")


def test_names_with_commas_in_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text('n01,"goldfish, Carassius auratus"\n\nn02, bullfrog\n')
    assert read_class_names(path) == {"n01": "goldfish, Carassius auratus", "n02": "bullfrog"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "", r"is no \.tsv or \.csv"),
        ("a.tsv", "n01 goldfish\n", "line 1: expected two columns"),
        ("a.csv", "n01,goldfish\nn02,one,two\n", "line 2: expected two columns.*double quotes"),
        ("a.tsv", "n01\t \n", "line 1: expected two columns"),
        ("a.tsv", "n01\ta\nn01\tb\n", "line 2: 'n01' is there twice"),
        ("a.tsv", "n01\tcrane\nn02\tcrane\n", "several classes of the name 'crane'"),
        ("a.tsv", "n01\tcrane\nn03\theron\n", "does not name 'n02'; the nearest"),
    ],
)
def test_what_is_no_table_of_names(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        named(("n01", "n02"), path)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        named(("n01",), tmp_path / "absent.tsv")


def test_a_run_and_an_evaluation_know_classes_by_their_names(
    tiny: dict[str, Any], write: Callable[..., Path], pictures: Path, few_figures: None
) -> None:
    table = pictures.parent / "names.tsv"
    table.write_text("cat\thouse cat, Felis catus\ndog\tsheepdog\n")
    experiment = write(tiny, data={"class_names": str(table)})
    result = train(experiment)
    names = ("house cat, Felis catus", "sheepdog")
    assert load_bundle(result.checkpoint).classes == names
    given = evaluate(experiment, result.checkpoint, data=pictures / "val").metrics
    assert given.num_images == 6
