"""Features as a head would be given them, and what is done where pictures cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from random_weights import randomise
from vit_lightning.data.folder import open_folder
from vit_lightning.data.pictures import ArrayPictures, PictureFiles
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.probe import features
from vit_lightning.probe.features import Extractor
from vit_lightning.probe.store import FeatureStore
from vit_lightning.settings import DataSettings

CONFIG = ViTConfig(
    image_size=(16, 16),
    patch_size=(8, 8),
    embed_dim=12,
    depth=2,
    num_heads=2,
    mlp_dim=16,
    num_classes=0,
)
PREPROCESSING = Preprocessing("modern", (16, 16))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "kept"))


def _extractor(config: ViTConfig = CONFIG, workers: int = 0) -> Extractor:
    model = VisionTransformer(config)
    randomise(model, seed=1)
    settings = DataSettings(name="digits", eval_batch_size=3, workers=workers)
    return Extractor(model, PREPROCESSING, settings, FeatureStore({}, "w", config.embed_dim))


@pytest.fixture
def train(pictures: Path) -> PictureFiles:
    found = open_folder(pictures, val_fraction=None, seed=0).train
    assert isinstance(found, PictureFiles)
    return found


@pytest.mark.parametrize("pool", ["token", "gap"])
@pytest.mark.parametrize("workers", [0, 2])
def test_they_are_what_enters_the_head(train: PictureFiles, pool: str, workers: int) -> None:
    extractor = _extractor(CONFIG.replace(pool=pool), workers)
    found = extractor.features(train, "train")
    model = extractor.model
    images = torch.stack([PREPROCESSING(train.load(index)) for index in range(len(train))])
    with torch.no_grad():
        expected = model.pool(model.forward_features(images)).numpy()
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.values.dtype == np.float32
    assert found.labels.tolist() == train.labels.tolist()
    assert (found.kept, found.unreadable) == (0, ())


def test_a_second_time_nothing_is_computed(
    train: PictureFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _extractor().features(train, "train")
    half = train.subset(np.array([9, 2, 4]))
    monkeypatch.setattr(VisionTransformer, "forward", lambda *_: pytest.fail("computed again"))
    again = _extractor().features(train, "train")
    np.testing.assert_array_equal(again.values, first.values)
    assert again.kept == 10
    # Whichever pictures are held out, and in whatever order.
    np.testing.assert_array_equal(
        _extractor().features(half, "val").values, first.values[[9, 2, 4]]
    )


def test_only_what_is_new_is_computed(train: PictureFiles) -> None:
    some = _extractor().features(train.subset(np.array([1, 5])), "train")
    found = _extractor().features(train, "train")
    assert found.kept == 2
    np.testing.assert_array_equal(found.values[[1, 5]], some.values)
    assert np.abs(found.values).sum(axis=1).all()


def test_unreadable_pictures_are_left_out_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{number}.png" for number in range(7)]
    for number, name in enumerate(names):
        Image.new("RGB", (20, 20), (number * 30, 0, 90)).save(tmp_path / name)
    bad = [0, 3, 4, 5]  # the second batch has none left
    for number in bad:
        (tmp_path / names[number]).write_text("no picture")
    pictures = PictureFiles(tmp_path, names, np.arange(7))
    for kept in (0, 3):
        found = _extractor().features(pictures, "val")
        assert found.labels.tolist() == [1, 2, 6]
        assert found.unreadable == tuple(names[number] for number in bad)
        assert found.kept == kept
        assert capsys.readouterr().err.count("left out, as it cannot be read") == 4
    Image.new("RGB", (20, 20)).save(tmp_path / "3.png")
    assert _extractor().features(pictures, "val").labels.tolist() == [1, 2, 3, 6]


def test_without_a_readable_picture_nothing_can_be_done(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    pictures = PictureFiles(tmp_path, ["a.png"], np.zeros(1, np.int64))
    with pytest.raises(InputError, match="val: none of the pictures can be read"):
        _extractor().features(pictures, "val")


def test_an_interruption_keeps_what_was_done(
    train: PictureFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = VisionTransformer.forward

    def interrupted(model: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(model, x)

    monkeypatch.setattr(VisionTransformer, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _extractor().features(train, "train")
    monkeypatch.undo()
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "kept"))
    assert _extractor().features(train, "train").kept == 6


def test_pieces_are_kept_on_the_way(train: PictureFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_KEPT_AT_ONCE", 4)
    extractor = _extractor()
    extractor.features(train, "train")
    assert len(list(extractor.store.folder.glob("*.npy"))) == 2
    assert _extractor().features(train, "train").kept == 10


def test_what_is_no_number_is_refused(train: PictureFiles) -> None:
    extractor = _extractor()
    with torch.no_grad():
        extractor.model.norm.weight[0] = float("nan")
    with pytest.raises(InputError, match="no number"):
        extractor.features(train, "train")
    assert not extractor.store.folder.exists()


def test_pictures_in_memory_are_known_by_their_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    pictures = ArrayPictures(pixels, np.arange(4), "digits")
    first = _extractor().features(pictures, "train")
    again = _extractor().features(pictures.subset(np.array([2, 0])), "val")
    assert again.kept == 2
    np.testing.assert_array_equal(again.values, first.values[[2, 0]])


def test_pictures_without_a_key_are_computed_each_time(
    train: PictureFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "picture_keys", lambda _: None)
    for _ in range(2):
        assert _extractor().features(train, "train").kept == 0
    assert "features of pictures of this kind are not kept" in capsys.readouterr().err
