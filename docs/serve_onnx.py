"""Name what is in pictures with a model that `vit export` wrote: ONNX Runtime, NumPy and Pillow.

    pip install onnxruntime pillow
    python docs/serve_onnx.py my_model.onnx bee.jpg ant.jpg

A start for a server of your own: neither vit-lightning nor torch is needed.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

TOP = 5

View = dict[str, Any]  # what is done to a picture, as the program's metadata describes it


def resized(picture: Image.Image, view: View) -> Image.Image:
    """The part of a picture that the model sees, at its size."""
    height, width = view["image_size"]
    mode, fraction = view["mode"], view["crop_fraction"]
    resampling = Image.Resampling[view["interpolation"].upper()]
    if mode == "paper":  # bilinear without anti-aliasing
        whole = (0, 0, *picture.size)
        return picture.transform((width, height), Image.Transform.EXTENT, whole, resampling)
    if mode == "modern":
        return ImageOps.fit(picture, (width, height), resampling)
    full = math.floor(width / fraction), math.floor(height / fraction)
    if mode == "crop":  # the side that fits more tightly; the other as long as it has to be
        if width == height:
            longer = int(full[0] * max(picture.size) / min(picture.size))
            full = (longer, full[1]) if picture.width > picture.height else (full[0], longer)
        else:
            ratio = min(picture.width / full[0], picture.height / full[1])
            full = round(picture.width / ratio), round(picture.height / ratio)
    left, top = round((full[0] - width) / 2), round((full[1] - height) / 2)
    return picture.resize(full, resampling).crop((left, top, left + width, top + height))


def opened(path: Path) -> Image.Image:
    """A picture file, upright, in colour, over white where it is transparent."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith(("I", "F")):
        sys.exit(f"{path}: save the picture with 8 bits a channel; these are 16 or more")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def normalised(path: Path, view: View) -> NDArray[np.float32]:
    """A picture file → (channels, height, width), as the model takes it."""
    picture = opened(path)
    if view["in_channels"] == 1:
        picture = picture.convert("L")
    pixels = np.asarray(resized(picture, view), np.float32).reshape(*view["image_size"], -1) / 255
    mean, std = (np.float32(view[name]) for name in ("mean", "std"))
    if view["in_channels"] == 1:
        mean, std = mean.mean(), std.mean()
    return ((pixels - mean) / std).transpose(2, 0, 1)


def main(program: str, *paths: str) -> None:
    """Print the most probable classes of each picture."""
    session = onnxruntime.InferenceSession(program)
    about = session.get_modelmeta().custom_metadata_map
    names, view = json.loads(about["classes"]), json.loads(about["preprocessing"])
    of_tokens = len(session.get_outputs()[0].shape) > 2
    if names is None or view is None or of_tokens:
        sys.exit(
            f"{program} names no pictures: it gives features, or classes of each token, or takes "
            f"no picture files; export a model with a head for pictures of 1 or 3 channels"
        )
    pictures = np.stack([normalised(Path(path), view) for path in paths])
    (logits,) = session.run(["outputs"], {"pictures": pictures})
    if json.loads(about["multi_label"]):  # any number of classes
        probabilities = 1 / (1 + np.exp(-logits))
    else:
        odds = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = odds / odds.sum(1, keepdims=True)
    for path, row in zip(paths, probabilities, strict=True):
        best = np.argsort(-row)[:TOP]
        print(path, ", ".join(f"{names[index]} {row[index]:.1%}" for index in best), sep=": ")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python serve_onnx.py MODEL.onnx PICTURE [PICTURE ...]")
    main(*sys.argv[1:])
