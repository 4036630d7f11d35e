"""What the weights that come with the package know, and what becomes of it on the way.

Bounds are generous: what was measured is in docs/tiny_imagenet.md. Ants and bees are none of the
things that the weights were trained on.
"""

import os
import tarfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vit_lightning import attention_rollout, baseline, load_bundle, merge_tokens, predict, train
from vit_lightning.cli_options import COME_ALONG
from vit_lightning.data.class_names import read_class_names
from vit_lightning.data.pictures import open_picture
from vit_lightning.evaluation.metrics import Metrics
from vit_lightning.prediction import preprocessing_of

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
DATA = Path(os.environ.get("VIT_LIGHTNING_DATA", "missing"))
HYMENOPTERA = DATA / "hymenoptera_data"
PART = DATA / "tiny-imagenet-200" / "part-1.tar.xz"  # 40 of the classes
needs_ants = pytest.mark.skipif(not HYMENOPTERA.is_dir(), reason=f"{HYMENOPTERA} is not there")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "kept"))


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    """Forty that the weights were not trained on."""
    return sorted((HYMENOPTERA / "val").rglob("*.jpg"))[::4]


def _batch(paths: list[Path]) -> Tensor:
    """(N, 3, height, width): pictures as the weights take them."""
    preprocessing = preprocessing_of(load_bundle(COME_ALONG))
    return torch.stack([preprocessing(open_picture(path)) for path in paths])


@needs_ants
def test_ants_are_told_from_bees_by_frozen_features() -> None:
    result = baseline(HYMENOPTERA, COME_ALONG, workers=0)
    assert result.outcomes[0].method == "majority class"
    assert result.outcomes[0].score < 0.55
    assert result.outcomes[-1].method == "linear probe"
    assert result.outcomes[-1].score > 0.68


@needs_ants
def test_a_short_fine_tuning_tells_ants_from_bees(tmp_path: Path) -> None:
    """In 24 small steps of the recipe's hundred."""
    short = {"trainer.max_steps": 24, "trainer.val_every_steps": 24, "data.batch_size": 16}
    places = {
        "data.root": HYMENOPTERA,
        "data.workers": 0,
        "runs_dir": tmp_path,
        "checkpoint_dir": tmp_path,
    }
    overrides = [f"{name}={value}" for name, value in (short | places).items()]
    metrics = train(EXPERIMENTS / "hymenoptera_tiny.json", overrides).final["val"]
    assert isinstance(metrics, Metrics)
    assert metrics.top1 > 0.65


@pytest.mark.skipif(not PART.is_file(), reason=f"{PART} is not there")
def test_they_know_what_they_were_trained_for(tmp_path: Path) -> None:
    """Ten pictures of val of each of forty classes, which chance finds once in 199 times."""
    wanted: dict[str, int] = {}
    with tarfile.open(PART) as archive:
        for member in archive:
            folder = Path(member.name).parent
            seen = wanted.get(folder.name, 0)
            if member.name == "classes.tsv" or (folder.parent.name == "val" and seen < 10):
                archive.extract(member, tmp_path, filter="data")
                wanted[folder.name] = seen + 1
    names = read_class_names(tmp_path / "classes.tsv")
    predictions = predict(COME_ALONG, [tmp_path / "val"])
    labels = [names[prediction.path.parent.name] for prediction in predictions]
    assert len(labels) == 400
    first = sum(p.classes[0] == label for p, label in zip(predictions, labels, strict=True))
    five = sum(label in p.classes for p, label in zip(predictions, labels, strict=True))
    assert first > 120
    assert five > 220


@needs_ants
def test_merged_tokens_and_bfloat16_leave_most_answers_as_they_are(photographs: list[Path]) -> None:
    plain = [p.classes[0] for p in predict(COME_ALONG, photographs)]
    bfloat16 = [p.classes[0] for p in predict(COME_ALONG, photographs, bfloat16=True)]
    bundle = load_bundle(COME_ALONG)
    merge_tokens(bundle.model, 3)  # of 49 patches, in each of nine blocks
    merged = [p.classes[0] for p in predict(bundle, photographs)]
    assert len(set(plain)) > 5
    assert sum(a == b for a, b in zip(plain, bfloat16, strict=True)) > 0.9 * len(plain)
    assert sum(a == b for a, b in zip(plain, merged, strict=True)) > 0.5 * len(plain)


@needs_ants
def test_attention_follows_the_picture(photographs: list[Path]) -> None:
    """What is of the picture, beside what all have in common: mirrored with it, and no other's."""
    model, pictures = load_bundle(COME_ALONG).model, _batch(photographs)
    rollouts = attention_rollout(model, pictures)
    mirrored = attention_rollout(model, pictures.flip(3)).flip(2)
    own = [(part - part.mean(0)).flatten(1) for part in (rollouts, mirrored)]
    assert torch.cosine_similarity(own[0], own[1]).mean() > 0.8
    assert torch.cosine_similarity(own[0], own[0].roll(1, 0)).mean() < 0.3
