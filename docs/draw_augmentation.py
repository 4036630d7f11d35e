"""Draw docs/images/augmentation.png: what some bundles make of two photographs.

    python docs/draw_augmentation.py

Each row is a bundle, as a batch of six samples at 224 px in which the two photographs alternate, so
that mixing pairs one with the other.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from vit_lightning.data.batches import TrainDataset
from vit_lightning.data.mixing import Mixing, mix_pairs
from vit_lightning.data.pictures import ArrayPictures
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.settings import AugmentationSettings

BUNDLES = ("paper", "augreg-light1", "augreg-medium1", "augreg-strong2", "deit")
COLUMNS = 6
SIDE, MARGIN, LABEL = 96, 4, 112
TARGET = Path(__file__).parent / "images" / "augmentation.png"


def row(bundle: str, photographs: ArrayPictures) -> NDArray[np.uint8]:
    """(COLUMNS, 224, 224, 3), as the training sees them before they are normalised."""
    settings = AugmentationSettings.model_validate({"bundle": bundle})
    view = TrainView(Preprocessing("modern", (224, 224)), settings)
    mixing = Mixing(settings.mixup, settings.cutmix, settings.mix_probability)
    dataset = TrainDataset(photographs, view, seed=0, mixing=mixing)
    batch = dataset.__getitems__([(index // 2, index % 2, 0) for index in range(COLUMNS)])
    images = batch.pixels.permute(0, 3, 1, 2).float()
    mixed, _ = mix_pairs(images, torch.zeros(COLUMNS, 1), batch.mixing)
    pixels: NDArray[np.uint8] = mixed.permute(0, 2, 3, 1).round().byte().numpy()
    return pixels


def main() -> None:
    """Draw and save."""
    photographs = ArrayPictures(np.stack(load_sample_images().images), np.arange(2), "sample")
    pitch = SIDE + MARGIN
    sheet = Image.new("RGB", (LABEL + COLUMNS * pitch, len(BUNDLES) * pitch - MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for line, bundle in enumerate(BUNDLES):
        middle = line * pitch + SIDE // 2
        draw.text((0, middle), bundle, fill="black", font=font, anchor="lm")
        for column, pixels in enumerate(row(bundle, photographs)):
            small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(small, (LABEL + column * pitch, line * pitch))
    # A palette keeps the file small.
    sheet.quantize(256, kmeans=1).save(TARGET, optimize=True)
    print(f"{TARGET}: {sheet.width} × {sheet.height}, {TARGET.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
